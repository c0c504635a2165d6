"""The watcher of one loop: what it runs at each look, for how long already, and when that is worth a report.

    look ── asleep? ──> nothing; after a few of these the watchdog may park, and the loop wakes it
         ── a callback not seen before? ──> an Episode begins: since when, and the clocks as they were
         ── the same as before? ──> beyond the next mark (threshold, twice, four times, ...)? ──> cause ──> BRG101
         ── another one? ──> the episode has ended ──> BRG102, if it was reported

Owner of all of it is the watchdog's thread, while the loop runs; the loop is asked nothing. When it stops, its thread
ends what has been seen (`pause`), so that nothing is reported later than that; `_lock` lets it wait for a look that has
begun, but not for long: the watchdog may have been kept from running. No look waits for listeners or log handlers.
What watches a loop that is over closes itself at the next look: an interruption may have kept others from it.

A loop that bridge has started for its own purposes (`View.serves`) is nothing that a program knows of. Reported of it is
only what the program can change: its own code, such as a callback of a future, that blocks the loop.
"""

from __future__ import annotations

from threading import Lock
from time import monotonic
from types import FrameType

from bridge.diagnostics.events import emit
from bridge.diagnostics.places import Place
from bridge.diagnostics.punctuality import Tick
from bridge.diagnostics.stacks import Stack, capture, current_frames
from bridge.diagnostics.watchdog import watchdog
from bridge.loop.watch import innocent, reports
from bridge.loop.watch.busy_threads import BusyThreads
from bridge.loop.watch.causes import Cause, Lateness, cause_of, ran_for, to_blame
from bridge.loop.watch.circles import CircleWatch
from bridge.loop.watch.crowd import CrowdWatch
from bridge.loop.watch.finalizers import finalizer_in
from bridge.loop.watch.garbage import CALLBACK, collections
from bridge.loop.watch.gil_holder import GilHolder
from bridge.loop.watch.readings import LoopClocks, Reading, between, held_up
from bridge.loop.watch.views import Glance, View
from bridge.threads.locks import wait_until_free

#: Looks in a row at a sleeping loop after which there is nothing to see.
_RESTING = 3
#: Seconds between looks at a loop that is being reported, so that the end of it is known.
_CLOSE_LOOK = 0.01
#: Seconds for which a loop that stops waits for a look at it.
_PATIENCE = 1.0
#: Seconds between looks at the most, whatever the threshold; it may be lowered meanwhile.
_SELDOM = 1.0
#: Seconds between looks at a turn of many callbacks, and how many of these are enough.
_SAMPLE, _MOST_SAMPLES = 0.002, 200


class Episode:
    """One callback that has been seen running; what it is judged by."""

    def __init__(self, glance: Glance, since: float, before: Reading, lateness: Lateness):
        self.glance = glance
        self.began = since
        self.since = since  # of what counts
        self.before = before
        self.lateness = lateness
        self.held_up: float = 0.0  # by another thread, in seconds
        self.mark = 0  # reported for threshold * 2**(mark-1)
        self.logged = False
        self.place: Place | None = None
        self.finalizer: Stack | None = None  # one that was seen to run
        self.circles: CircleWatch = CircleWatch()


class Turn:
    """One iteration of the loop, or what is left of it after a callback that was reported."""

    def __init__(self, since: float, before: Reading):
        self.since = since
        self.before = before
        self.lost: float = 0.0  # as for one callback: held up by another thread, or stopped, in seconds
        self.samples: list[tuple[str, Place | None]] = []


class LoopWatcher:
    """Looks at one loop, through its view. Made in the loop's thread."""

    def __init__(self, view: View, clocks: LoopClocks, now: float):
        self.running: bool = False
        self._view = view
        self._clocks = clocks
        self._started = now
        self._reading = clocks.read(now)
        self._episode: Episode | None = None
        self._seen: Glance | None = None
        self._turn = Turn(now, self._reading)
        self._at_rest = 0
        self._parked = False
        self._busy = BusyThreads()
        self._crowd = CrowdWatch(clocks)
        self._holder = GilHolder()
        self.closed: bool = False
        self._lock = Lock()

    # -- in the watchdog's thread --------------------------------------------------------------------------------------

    def look(self, tick: Tick) -> float | None:
        """As `Watcher.look`."""
        with self._lock:
            wait = None if self.closed else self._look(tick)
            if self.closed:  # perhaps during this look, and perhaps not completely, because of an interruption
                self.close()
                self._let_go()
        return None if wait is None else min(wait, _SELDOM)

    def _look(self, tick: Tick) -> float | None:
        if self._view.is_over():
            self._seen = self._episode = None  # whose frames may hold the loop
            self.close()
            return None
        if not self.running and self._at_rest >= _RESTING:
            return None
        threshold = self._threshold()
        glance = self._glance()
        if glance is None:
            self._end_turn(tick)
            self._at_rest += 1
            self._read(tick, threshold)
            self._parked = self._at_rest >= _RESTING and self._will_call() and not self._busy.follows
            if not self._parked:
                return threshold / 2
            if self.running:
                self._view.call_at_waking(self.woken)
            return None
        self._at_rest = 0
        if not glance.in_turn_of(self._seen):
            self._end_turn(tick)
            self._turn = Turn(tick.now if glance.began is None else glance.began, self._reading)
        wait = self._continue(glance, tick, threshold)
        self._seen = glance._replace(frame=glance.base)  # the callback's frames are not to be kept alive
        return wait

    def _threshold(self) -> float:
        return max(0.001, self._view.threshold())

    def _will_call(self) -> bool:
        """Will the loop call the watchdog before it runs a callback? Not while it only polls, between two turns."""
        return not self.running or (self._view.wakes and self._view.asleep())

    def _glance(self) -> Glance | None:
        if not self.running or self._view.asleep():
            return None
        frame = current_frames().get(self._clocks.ident)
        if frame is not None and frame.f_code is CALLBACK:
            frame = frame.f_back
        return None if frame is None else self._view.glance(frame)

    def _read(self, tick: Tick, threshold: float) -> float:
        """Read the clocks; the seconds for which another thread has held the loop up since they were read last."""
        before, self._reading = self._reading, self._clocks.read(tick.now)
        window = between(before, self._reading)
        if self.running and self._view.serves() is None:
            self._busy.look(tick, before, self._reading)
        else:
            self._busy.forget()
        was_parked, self._parked = self._parked, False
        held_up_for = held_up(window, None if was_parked else tick.kept_out)
        if held_up_for >= threshold and self.running and self._view.serves() is None:
            emit(reports.held_up(held_up_for, self._holder.stack(window, held_up_for)), every_time=self._view.debug())
        return held_up_for

    # -- in the loop's thread ------------------------------------------------------------------------------------------

    def resume(self) -> None:
        """The loop begins to run."""
        if self._at_rest >= _RESTING:  # what its thread has done since the last look was not in the loop
            self._reading, self._parked = self._clocks.read(monotonic()), False
        self.running = True
        self.woken(self._at_rest >= _RESTING)

    def woken(self, rested: bool = True) -> None:
        """The loop has slept, or not run. It may do so a thousand times a second: rest only after a few looks again."""
        self._at_rest = 0
        if rested and watchdog.parked:
            watchdog.wake()

    def pause(self) -> None:
        """The loop has stopped: what was seen until now has ended."""
        self.running = False
        if (self._seen is not None or self._lock.locked()) and wait_until_free(self._lock, _PATIENCE):
            with self._lock:
                self._end_turn(Tick(monotonic()))

    def close(self) -> None:
        """Stop looking and close all clocks. From any thread; harmless to repeat, also after an interruption.

        A look that is under way closes other threads' clocks at its end.
        """
        self.closed = True
        collections.stop(self)
        self._clocks.close()
        if not self._lock.locked():
            with self._lock:
                self._let_go()
        watchdog.unwatch(self)  # last: until then the next look does what an interruption has kept from being done

    def _let_go(self) -> None:
        self._busy.forget()
        self._crowd.close()

    # -- one callback --------------------------------------------------------------------------------------------------

    def _continue(self, glance: Glance, tick: Tick, threshold: float) -> float:
        episode = self._episode
        if episode is None or not glance.in_callback_of(episode.glance):
            self._end_episode(tick)
            episode = self._begin(glance, tick)
        else:
            episode.lateness = episode.lateness.plus(tick.late, tick.kept_out)
        before = self._reading
        held_up_for = self._read(tick, threshold)
        held_up_for = max(held_up_for, self._crowd.waited(episode.lateness.looks, tick, between(before, self._reading)))
        episode.held_up += held_up_for
        stopped = Lateness().plus(tick.late, tick.kept_out).within(tick.now - self._turn.since).stopped
        self._turn.lost += held_up_for + stopped
        if innocent.uncounted(glance.frame, glance.base, tick.now - self._started):
            self._count_from_now(episode, tick)
        mark: float = threshold * 2**episode.mark
        if tick.now - episode.since >= mark:
            self._judge(episode, glance, tick, threshold)
        elif tick.now - self._turn.since >= threshold and glance.callbacks != 1:
            return self._sample(glance)
        if episode.mark:
            episode.circles.look(self._clocks.ident, episode.mark)
            return min(_CLOSE_LOOK, threshold / 2)
        left = episode.since + mark - tick.now
        if left <= 0:  # excused
            return threshold / 10
        return min(threshold / 2, max(0.001, left))

    def _begin(self, glance: Glance, tick: Tick) -> Episode:
        since = tick.now
        if glance.began is not None:
            since = glance.began if glance.first else max(glance.began, tick.now - tick.late)
        since = max(since, self._reading.at)  # of what was before the last look, the clocks tell nothing
        lateness = Lateness().plus(tick.late, tick.kept_out).within(tick.now - since)
        self._episode = Episode(glance._replace(frame=glance.base), since, self._reading, lateness)
        return self._episode

    def _count_from_now(self, episode: Episode, tick: Tick) -> None:
        if not episode.mark:
            episode.began = tick.now
        episode.since, episode.before = tick.now, self._reading
        episode.lateness, episode.held_up = Lateness(), 0.0
        self._turn = Turn(tick.now, self._reading)

    def _judge(self, episode: Episode, glance: Glance, tick: Tick, threshold: float) -> None:
        elapsed, mark = tick.now - episode.since, threshold * 2**episode.mark
        window = between(episode.before, self._reading)
        excused = window.starved + episode.lateness.stopped + episode.held_up
        if to_blame(elapsed, window, excused) < mark:
            return
        if to_blame(elapsed, window, excused + self._clocks.starving()) < mark:
            return
        if ran_for(elapsed, window) < mark and self._crowd.is_waited_for():  # judged when that one has got a core
            return
        cause = cause_of(elapsed, window, episode.lateness)
        stack = capture(glance.frame, glance.base)
        if innocent.excused(glance.frame, glance.base, cause, elapsed, threshold):
            return
        served = self._view.serves()
        if served is not None and (cause in (Cause.OTHER_THREAD, Cause.GARBAGE) or not stack.shows_the_program):
            return
        while elapsed >= threshold * 2**episode.mark:
            episode.mark += 1
        if finalizer_in(stack) is not None:
            episode.finalizer = stack
        collected = None
        if cause is Cause.GARBAGE:  # the time of finalizers that a collection runs counts as its own
            collected = episode.finalizer or collections.stacks.get(self._clocks.ident)
        other = self._other(window.busiest) if cause is Cause.OTHER_THREAD else None
        event = reports.blocked(glance, elapsed, cause, collected, other, served)
        episode.place = event.place
        episode.logged |= emit(event, weight=episode.mark - 1, every_time=self._view.debug())

    def _other(self, busiest: tuple[int, float] | None) -> FrameType | None:
        return None if busiest is None else current_frames().get(busiest[0])

    def _end_episode(self, tick: Tick) -> None:
        episode, self._episode = self._episode, None
        if episode is not None and episode.mark:
            event = reports.recovered(episode.place, tick.now - episode.began, {})
            emit(event, every_time=episode.logged, log=episode.logged)
            self._turn = Turn(tick.now, self._reading)

    # -- one turn of many callbacks ------------------------------------------------------------------------------------

    def _sample(self, glance: Glance) -> float:
        samples = self._turn.samples
        if len(samples) < _MOST_SAMPLES:
            stack = capture(glance.frame, glance.base)
            samples.append((reports.what_runs(glance, stack), stack.place))
        return _SAMPLE

    def _end_turn(self, tick: Tick) -> None:
        self._end_episode(tick)
        self._crowd.end_turn(tick, between(self._turn.before, self._reading))
        seen, self._seen = self._seen, None
        turn, samples = self._turn, self._turn.samples
        if seen is None or not samples or self._view.serves() is not None:
            return
        turn.samples = []
        # Until the last look: of what was afterwards it is not known whether it was the loop's doing.
        elapsed, window = self._reading.at - turn.since, between(turn.before, self._reading)
        if to_blame(elapsed, window, turn.lost + window.starved) < self._threshold():
            return
        counts: dict[tuple[str, Place | None], int] = {}
        for sample in samples:
            counts[sample] = counts.get(sample, 0) + 1
        ranked = sorted(counts, key=counts.__getitem__, reverse=True)[:5]
        shares = [(what, place, counts[what, place] / len(samples)) for what, place in ranked]
        emit(reports.stalled(seen, elapsed, shares), every_time=self._view.debug())

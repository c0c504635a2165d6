"""The watcher of one loop: what it runs at each look, for how long already, and when that is worth a report.

    look ── asleep? ──> nothing; after a few of these the watchdog may park, and the loop wakes it
         ── a callback not seen before? ──> an Episode begins: since when, and the clocks as they were
         ── the same as before? ──> beyond the next mark (threshold, twice, four times, ...)? ──> cause ──> BRG101
         ── another one? ──> the episode has ended ──> BRG102, if it was reported

Owner of all of it: the watchdog's thread. The loop's thread writes nothing and is asked nothing. If the loop ends, what
it was watched by is taken away (`unwatch`); a look that has begun meanwhile finds no frame.
"""

from __future__ import annotations

import sys
from types import FrameType

from bridge.diagnostics.events import emit
from bridge.diagnostics.places import Place
from bridge.diagnostics.stacks import capture
from bridge.diagnostics.watchdog import Tick
from bridge.loop.watch import innocent, reports
from bridge.loop.watch.causes import Cause, Lateness, cause_of
from bridge.loop.watch.garbage import collections
from bridge.loop.watch.readings import LoopClocks, Reading, between
from bridge.loop.watch.views import Glance, View

#: Looks in a row at a sleeping loop after which there is nothing to see.
_RESTING = 3
#: Seconds between looks at a loop that is being reported, so that the end of it is known.
_CLOSE_LOOK = 0.01
#: Seconds between looks at a turn of many callbacks, and how many of these are enough.
_SAMPLE, _MOST_SAMPLES = 0.002, 200


class Episode:
    """One callback that has been seen running; what it is judged by."""

    def __init__(self, glance: Glance, since: float, before: Reading, collected: float, lateness: Lateness):
        self.glance = glance
        self.since = since
        self.before = before
        self.collected = collected
        self.lateness = lateness
        self.mark = 0  # reported for threshold * 2**(mark-1)
        self.logged = False
        self.place: Place | None = None


class LoopWatcher:
    """Looks at one loop, through its view."""

    def __init__(self, view: View, clocks: LoopClocks, now: float):
        self._view = view
        self._clocks = clocks
        self._started = now
        self._reading = clocks.read(now)
        self._episode: Episode | None = None
        self._turn: Glance | None = None
        self._turn_since = now
        self._samples: list[tuple[str, Place | None]] = []
        self._at_rest = 0

    def look(self, tick: Tick) -> float | None:
        """As `Watcher.look`."""
        threshold = max(0.001, self._view.threshold())
        glance = None
        if not self._view.asleep():
            frame = sys._current_frames().get(self._clocks.ident)
            glance = None if frame is None else self._view.glance(frame)
            del frame
        if glance is None:
            self._end_turn(tick)
            self._at_rest += 1
            self._reading = self._clocks.read(tick.now)
            return None if self._at_rest >= _RESTING else threshold / 2
        self._at_rest = 0
        if not glance.in_turn_of(self._turn):
            self._end_turn(tick)
            self._turn, self._turn_since = glance, glance.began or tick.now
        wait = self._continue(glance, tick, threshold)
        self._turn = glance._replace(frame=glance.base)  # the callback's frames are not to be kept alive
        return wait

    # -- one callback --------------------------------------------------------------------------------------------------

    def _continue(self, glance: Glance, tick: Tick, threshold: float) -> float:
        episode = self._episode
        if episode is None or not glance.in_callback_of(episode.glance):
            self._end_episode(tick)
            episode = self._begin(glance, tick)
        else:
            episode.lateness = episode.lateness.plus(tick.late, tick.kept_out)
        reading = self._clocks.read(tick.now)
        self._reading = reading
        mark: float = threshold * 2**episode.mark
        if tick.now - episode.since >= mark:
            self._judge(episode, glance, reading, tick, mark)
        elif tick.now - self._turn_since >= threshold and glance.callbacks > 1:
            return self._sample(glance)
        if episode.mark:
            return min(_CLOSE_LOOK, threshold / 2)
        return min(threshold / 2, max(0.001, episode.since + mark - tick.now))

    def _begin(self, glance: Glance, tick: Tick) -> Episode:
        since = tick.now
        if glance.began is not None:
            since = glance.began if glance.first else max(glance.began, tick.now - tick.late)
        collected = collections.spent.get(self._clocks.ident, 0.0)
        lateness = Lateness().plus(tick.late, tick.kept_out)
        self._episode = Episode(glance._replace(frame=glance.base), since, self._reading, collected, lateness)
        return self._episode

    def _judge(self, episode: Episode, glance: Glance, reading: Reading, tick: Tick, mark: float) -> None:
        elapsed = tick.now - episode.since
        window = between(episode.before, reading)
        if elapsed - window.starved - episode.lateness.stopped < mark:
            return
        collecting = collections.spent.get(self._clocks.ident, 0.0) - episode.collected
        cause = cause_of(elapsed, window, episode.lateness, collecting)
        stack = capture(glance.frame, glance.base)
        if innocent.excused(glance.frame, glance.base, cause, elapsed, self._view.threshold(), tick.now - self._started):
            return
        while elapsed >= self._view.threshold() * 2**episode.mark:
            episode.mark += 1
        collected = collections.stacks.get(self._clocks.ident) if cause is Cause.GARBAGE else None
        other = self._other(window.busiest) if cause is Cause.OTHER_THREAD else None
        event = reports.blocked(glance, elapsed, cause, collected, other)
        episode.place = event.place or stack.place
        episode.logged |= emit(event, weight=episode.mark - 1, every_time=self._view.debug())

    def _other(self, busiest: tuple[int, float] | None) -> FrameType | None:
        return None if busiest is None else sys._current_frames().get(busiest[0])

    def _end_episode(self, tick: Tick) -> None:
        episode, self._episode = self._episode, None
        if episode is not None and episode.mark:
            event = reports.recovered(episode.place, tick.now - episode.since, {})
            emit(event, every_time=episode.logged, log=episode.logged)

    # -- one turn of many callbacks ------------------------------------------------------------------------------------

    def _sample(self, glance: Glance) -> float:
        if len(self._samples) < _MOST_SAMPLES:
            self._samples.append((reports.what_runs(glance), capture(glance.frame, glance.base).place))
        return _SAMPLE

    def _end_turn(self, tick: Tick) -> None:
        reported = self._episode is not None and self._episode.mark > 0
        self._end_episode(tick)
        turn, self._turn = self._turn, None
        samples, self._samples = self._samples, []
        if turn is None or not samples or reported:
            return
        counts: dict[tuple[str, Place | None], int] = {}
        for sample in samples:
            counts[sample] = counts.get(sample, 0) + 1
        ranked = sorted(counts, key=counts.__getitem__, reverse=True)[:5]
        shares = [(what, place, counts[what, place] / len(samples)) for what, place in ranked]
        emit(reports.stalled(turn, tick.now - self._turn_since, shares), every_time=self._view.debug())

"""The other threads of the process, on a machine that has too few cores for them: the loop may have to wait for one that
gets none.

    a callback that takes long ── Crowd: each thread's wait for a core until now ── looks ──> how much longer by now

The loop's thread then waits in a lock or for the GIL, as if something blocked it. Other threads are looked at from the
second look at a callback on, and from the first where cores are few. In and out: the watchdog's thread.
"""

from __future__ import annotations

import threading

from bridge.diagnostics.clocks import Scheduler, clock_of, cpu_seconds
from bridge.diagnostics.punctuality import Tick
from bridge.loop.watch.readings import LoopClocks, Window

#: Threads that are looked at.
_MOST_THREADS = 64
#: Share of the time for which the loop's thread gets no core, or seconds of the watchdog's delay, where cores are few.
_CROWDED, _LATE = 0.1, 0.01


class Crowd:
    """All threads but the one of `loop` (an ident), from now on."""

    def __init__(self, loop: int):
        self._loop = loop
        self._schedulers: dict[int, Scheduler] = {}
        self._waited: dict[int, float] = {}
        self._note(first=True)

    def waited(self) -> float:
        """Seconds for which they were ready to run and got no core, all together, since this was asked last."""
        return self._note(first=False)

    def is_starving(self) -> bool:
        """Is one of them ready to run just now, and gets no core? One that is just being started counts, too."""
        if any(thread.native_id is None for thread in threading.enumerate()):
            return True
        return any(self._is_starving(ident, scheduler) for ident, scheduler in self._schedulers.items())

    def _is_starving(self, native_id: int, scheduler: Scheduler) -> bool:
        clock = clock_of(native_id)
        before = cpu_seconds(clock)
        return native_id != threading.get_native_id() and scheduler.is_runnable() and cpu_seconds(clock) == before

    def _note(self, first: bool) -> float:
        there = [each for each in threading.enumerate()[:_MOST_THREADS] if each.ident != self._loop and each.native_id]
        sum_of = 0.0
        for native_id in [each.native_id or 0 for each in there]:
            scheduler = self._schedulers.get(native_id)
            if scheduler is None:
                scheduler = self._schedulers[native_id] = Scheduler(native_id)
            schedule = scheduler.schedule()
            if schedule is not None:  # else it has ended
                before = self._waited.get(native_id, schedule.waited if first else 0.0)
                sum_of += schedule.waited - before
                self._waited[native_id] = schedule.waited
        return sum_of

    def close(self) -> None:
        """Let go of the clocks."""
        for scheduler in self._schedulers.values():
            scheduler.close()
        self._schedulers.clear()

    def __del__(self) -> None:
        self.close()


class CrowdWatch:
    """Looks at the crowd on behalf of one loop, when there is reason to."""

    def __init__(self, clocks: LoopClocks):
        self._clocks = clocks
        self._crowd: Crowd | None = None

    def waited(self, looks: int, tick: Tick, window: Window) -> float:
        """Seconds out of `window` for which others got no core, for one of which the loop waits; after so many `looks` at
        one callback."""
        if self._crowd is not None:
            waited = self._crowd.waited()
            return min(waited, window.wall) if self._clocks.may_wait_for_a_thread() else 0.0
        if looks > 1 or _cores_are_few(tick, window):
            self._crowd = Crowd(self._clocks.ident)
        return 0.0

    def is_waited_for(self) -> bool:
        """Does the loop wait for another thread, while one of these is ready to run and gets no core?"""
        return self._crowd is not None and self._clocks.may_wait_for_a_thread() and self._crowd.is_starving()

    def end_turn(self, tick: Tick, window: Window) -> None:
        """A turn of the loop has ended, of which the window is."""
        if self._crowd is not None and not _cores_are_few(tick, window):
            self.close()

    def close(self) -> None:
        """Let go of the clocks."""
        crowd, self._crowd = self._crowd, None
        if crowd is not None:
            crowd.close()


def _cores_are_few(tick: Tick, window: Window) -> bool:
    """Did the loop's thread or the watchdog have to wait for a core?"""
    return window.starved > _CROWDED * window.wall or tick.late - (tick.kept_out or 0.0) > _LATE

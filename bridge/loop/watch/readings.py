"""What the clocks say about a loop's thread and the threads beside it: the evidence from which causes are told apart.

A Reading is taken at each look; the difference between two is a Window. Taking one costs a fraction of a microsecond for
each thread, and does not let go of the GIL, so that all of it is of one moment.
"""

from __future__ import annotations

import sys
import threading
import time
from typing import NamedTuple

from bridge.diagnostics.clocks import Scheduler, ThreadClock, clock_of, cpu_seconds, own_clock
from bridge.loop.watch.garbage import collections

#: Threads besides the loop's whose clocks are read.
_MOST_THREADS = 200


class Reading(NamedTuple):
    """Seconds: `at` as time.monotonic, CPU time of the loop's thread and of the process, time for which the loop's
    thread was ready to run and got no core, or collected garbage; CPU time of the other threads by ident. `slices` is
    how often the loop's thread was given a core. None: not known."""

    at: float
    loop: float | None
    process: float
    starved: float | None
    slices: int | None
    collecting: float
    others: dict[int, float]


class Window(NamedTuple):
    """What has happened between two readings, in seconds. `busiest`: the other thread that ran longest, and how long."""

    wall: float
    loop: float | None
    process: float
    starved: float
    collecting: float
    slices: int
    busiest: tuple[int, float] | None


#: CPU time of a thread that has a core only to ask for the GIL, in seconds for each time; more than it ever takes.
_ASKING = 0.0005


def held_up(window: Window, kept_out: float | None) -> float:
    """Seconds for which the loop's thread waited for the GIL, no more than that, within a window.

    Whoever waits for the GIL wakes up at each switch interval to ask for it. The loop's thread has done so if it was
    given a core as often, for next to nothing, while the watchdog was kept out likewise (`kept_out`; None: the watchdog
    slept until the loop woke up, so that all of the window was one sleep).
    """
    asked = max(0, window.slices - 2) * sys.getswitchinterval()
    waited = min(asked, window.wall if kept_out is None else kept_out)
    idle = window.loop is not None and window.loop < _ASKING * window.slices + 0.1 * waited
    others = window.process - (window.loop or 0.0)
    return waited if idle and asked >= 0.6 * (kept_out or 0.0) and others >= 0.5 * waited else 0.0


class LoopClocks:
    """The clocks of one loop's thread, and of those beside it. Made in the loop's thread, read in the watchdog's."""

    def __init__(self) -> None:
        self.ident: int = threading.get_ident()
        self._clock: ThreadClock | None = own_clock()
        self._last: Reading | None = None
        #: Seconds since it last ran, as far as they are known to be neither CPU time nor a wait for a core.
        self._unaccounted = 0.0
        self._scheduler = Scheduler()
        self._scheduler.open()  # so that a loop that runs opens no files unasked

    def close(self) -> None:
        """Take no more readings."""
        self._scheduler.close()

    def read(self, now: float) -> Reading:
        """The clocks as they are."""
        schedule = self._scheduler.schedule()
        reading = Reading(
            at=now,
            loop=cpu_seconds(self._clock),
            process=time.process_time(),
            starved=None if schedule is None else schedule.waited,
            slices=None if schedule is None else schedule.slices,
            collecting=collections.spent(self.ident),
            others=self._others(),
        )
        if self._last is not None:
            window = between(self._last, reading)
            before = 0.0 if window.loop else self._unaccounted  # it has run since
            self._unaccounted = before + max(0.0, window.wall - (window.loop or 0.0) - window.starved)
        self._last = reading
        return reading

    def starving(self) -> float:
        """Seconds for which the loop's thread may have been ready to run and got no core, up to the last reading: the
        kernel counts them only when the thread runs again. 0 where that is not known."""
        before = cpu_seconds(self._clock)
        if before is None or not self._scheduler.is_runnable() or cpu_seconds(self._clock) != before:
            return 0.0
        return self._unaccounted

    def may_wait_for_a_thread(self) -> bool:
        """May the loop's thread be waiting for another one just now: for a lock, or for the GIL?"""
        return self._scheduler.may_wait_for_a_thread()

    def _others(self) -> dict[int, float]:
        others = {}
        own = threading.get_ident()
        for thread in threading.enumerate()[:_MOST_THREADS]:
            ident = thread.ident
            if ident is None or ident in (self.ident, own):
                continue
            seconds = cpu_seconds(clock_of(thread.native_id))
            if seconds is not None:
                others[ident] = seconds
        return others


def between(before: Reading, after: Reading) -> Window:
    """What two readings differ by."""
    ran = {ident: seconds - before.others.get(ident, 0.0) for ident, seconds in after.others.items()}
    busiest = max(ran, key=ran.__getitem__, default=None)
    return Window(
        wall=after.at - before.at,
        loop=None if after.loop is None or before.loop is None else after.loop - before.loop,
        process=after.process - before.process,
        collecting=after.collecting - before.collecting,
        slices=0 if after.slices is None or before.slices is None else after.slices - before.slices,
        starved=0.0 if after.starved is None or before.starved is None else after.starved - before.starved,
        busiest=None if busiest is None else (busiest, ran[busiest]),
    )

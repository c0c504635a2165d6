"""What the clocks say about a loop's thread and the threads beside it: the evidence from which causes are told apart.

A Reading is taken at each look; the difference between two is a Window. Taking one costs a fraction of a microsecond for
each thread, and lets go of the GIL once (where /proc tells how long the loop's thread has waited for a core).
"""

from __future__ import annotations

import os
import threading
import time
from typing import NamedTuple

from bridge.diagnostics.clocks import ThreadClock, clock_of, cpu_seconds, is_runnable
from bridge.loop.watch.garbage import collections

#: Threads besides the loop's whose clocks are read.
_MOST_THREADS = 200


class Reading(NamedTuple):
    """Seconds: `at` as time.monotonic, CPU time of the loop's thread and of the process, time for which the loop's
    thread was ready to run and got no core, or collected garbage; CPU time of the other threads by ident. None: not
    known."""

    at: float
    loop: float | None
    process: float
    starved: float | None
    collecting: float
    others: dict[int, float]


class Window(NamedTuple):
    """What has happened between two readings, in seconds. `busiest`: the other thread that ran longest, and how long."""

    wall: float
    loop: float | None
    process: float
    starved: float
    collecting: float
    busiest: tuple[int, float] | None


class LoopClocks:
    """The clocks of one loop's thread, and of those beside it. Made in the loop's thread, read in the watchdog's."""

    def __init__(self) -> None:
        self.ident: int = threading.get_ident()
        self._native_id = threading.get_native_id()
        self._clock: ThreadClock | None = clock_of(self._native_id)
        self._schedule: int | None = None
        try:
            path = f"/proc/self/task/{self._native_id}/schedstat"
            self._schedule = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except (OSError, AttributeError):  # no such system
            pass

    def close(self) -> None:
        """Take no more readings."""
        schedule, self._schedule = self._schedule, None
        if schedule is not None:
            os.close(schedule)

    def read(self, now: float) -> Reading:
        """The clocks as they are."""
        return Reading(
            now,
            cpu_seconds(self._clock),
            time.process_time(),
            self._starved(),
            collections.spent(self.ident),
            self._others(),
        )

    def starves(self) -> bool:
        """Is the loop's thread ready to run at this moment, and gets no core? False where that is not known."""
        before = cpu_seconds(self._clock)
        if before is None or not is_runnable(self._native_id):
            return False
        return cpu_seconds(self._clock) == before

    def _starved(self) -> float | None:
        schedule = self._schedule
        if schedule is None:
            return None
        try:
            return int(os.pread(schedule, 100, 0).split()[1]) * 1e-9
        except (OSError, ValueError, IndexError):  # closed meanwhile
            return None

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
        starved=0.0 if after.starved is None or before.starved is None else after.starved - before.starved,
        busiest=None if busiest is None else (busiest, ran[busiest]),
    )

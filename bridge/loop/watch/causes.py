"""Why a callback takes so long: told from the clocks, from how late the watchdog was, and from the collector's count.

    the loop's thread had a core                      it had none
      watchdog kept out   -> C code holding the GIL     watchdog kept out, another thread ran -> that thread holds the GIL
      collector at work   -> garbage collection         watchdog kept out, nobody ran         -> C code waits with the GIL
      watchdog has to ask -> Python code                watchdog punctual                     -> waiting
      watchdog punctual   -> C code without the GIL
Time for which the thread was ready and got no core, or for which the whole process stood still, is nobody's fault and is
taken off before anything is judged.
"""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple

from bridge.loop.watch.readings import Window

#: Lateness below which the watchdog counts as punctual, for one look, in seconds.
_PUNCTUAL = 0.0025
#: Share of the time for which the loop's thread got no core, above which the machine is too busy to ask the GIL in time.
_FEW_CORES = 0.15


class Cause(Enum):
    """What a loop's thread was busy with, and how that is told."""

    PYTHON = "Python code on the CPU"
    C_WITH_GIL = "a C call that holds the GIL, so that no other thread can run either"
    C_WITHOUT_GIL = "a C call on the CPU, which lets other threads run meanwhile"
    WAITING = "waiting, in a system call or for a lock"
    WAITING_WITH_GIL = "a C call that waits and holds the GIL, so that no other thread can run either"
    GARBAGE = "garbage collection"
    OTHER_THREAD = "another thread holds the GIL"
    UNKNOWN = "not known on this system"

    @property
    def burns_cpu(self) -> bool:
        """Would it keep the loop waiting from another thread as well?"""
        return self in (Cause.PYTHON, Cause.C_WITH_GIL, Cause.OTHER_THREAD)


class Lateness(NamedTuple):
    """How late the watchdog was in `looks` looks together: seconds, those of them spent waiting for the GIL (None: not
    known), and those for which it did not run at all; `longest` is its longest wait for the GIL."""

    looks: int = 0
    late: float = 0.0
    kept_out: float | None = 0.0
    stopped: float = 0.0
    longest: float = 0.0

    def plus(self, late: float, kept_out: float | None) -> Lateness:
        """One more look."""
        known = self.kept_out is not None and kept_out is not None
        stopped = max(0.0, late - kept_out) if kept_out is not None and late > 4 * _PUNCTUAL else 0.0
        return Lateness(
            self.looks + 1,
            self.late + late,
            (self.kept_out or 0.0) + (kept_out or 0.0) if known else None,
            self.stopped + stopped,
            max(self.longest, late if kept_out is None else kept_out),
        )

    def within(self, seconds: float) -> Lateness:
        """As much of it as fits into the last `seconds`."""
        kept_out = None if self.kept_out is None else min(self.kept_out, seconds)
        stopped, longest = min(self.stopped, seconds), min(self.longest, seconds)
        return Lateness(self.looks, min(self.late, seconds), kept_out, stopped, longest)


def to_blame(elapsed: float, window: Window, excused: float) -> float:
    """Seconds out of `elapsed` that the loop's own doing took: what is not excused, and at least its thread's CPU time.

    For how long the process was stopped is told by how long the watchdog did not run, which on a busy machine happens to
    it alone.
    """
    return max(elapsed - excused, ran_for(elapsed, window))


def ran_for(elapsed: float, window: Window) -> float:
    """CPU seconds that the loop's thread has had in the last `elapsed` ones, at least. `window` may have begun before."""
    return (window.loop or 0.0) - max(0.0, window.wall - elapsed)


def cause_of(elapsed: float, window: Window, lateness: Lateness) -> Cause:
    """Why the last `elapsed` seconds were spent in one callback."""
    half = 0.5 * max(0.0, elapsed - window.starved)
    if window.collecting >= half:
        return Cause.GARBAGE
    kept_out = lateness.late if lateness.kept_out is None else lateness.kept_out
    # Where the loop's thread gets no core, the watchdog gets none either, each time it asks for the GIL.
    held = lateness.longest if window.starved > _FEW_CORES * elapsed else kept_out
    if window.loop is None:
        return Cause.UNKNOWN if window.process >= half else Cause.WAITING
    if window.loop >= half:
        if held >= half:
            return Cause.C_WITH_GIL
        punctual = lateness.looks > 1 and kept_out / lateness.looks < _PUNCTUAL
        return Cause.C_WITHOUT_GIL if punctual else Cause.PYTHON
    if held >= half:
        others = window.busiest[1] if window.busiest is not None else 0.0
        return Cause.OTHER_THREAD if others >= half or window.process - window.loop >= half else Cause.WAITING_WITH_GIL
    return Cause.WAITING

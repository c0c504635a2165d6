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
    known), and those for which the process did not run at all."""

    looks: int = 0
    late: float = 0.0
    kept_out: float | None = 0.0
    stopped: float = 0.0

    def plus(self, late: float, kept_out: float | None) -> Lateness:
        """One more look."""
        known = self.kept_out is not None and kept_out is not None
        stopped = max(0.0, late - kept_out) if kept_out is not None and late > 4 * _PUNCTUAL else 0.0
        return Lateness(
            self.looks + 1,
            self.late + late,
            (self.kept_out or 0.0) + (kept_out or 0.0) if known else None,
            self.stopped + stopped,
        )

    def within(self, seconds: float) -> Lateness:
        """As much of it as fits into the last `seconds`."""
        kept_out = None if self.kept_out is None else min(self.kept_out, seconds)
        return self._replace(late=min(self.late, seconds), kept_out=kept_out, stopped=min(self.stopped, seconds))


def cause_of(elapsed: float, window: Window, lateness: Lateness) -> Cause:
    """Why the last `elapsed` seconds were spent in one callback."""
    half = 0.5 * max(0.0, elapsed - window.starved)
    if window.collecting >= half:
        return Cause.GARBAGE
    kept_out = lateness.late if lateness.kept_out is None else lateness.kept_out
    if window.loop is None:
        return Cause.UNKNOWN if window.process >= half else Cause.WAITING
    if window.loop >= half:
        if kept_out >= half:
            return Cause.C_WITH_GIL
        punctual = lateness.looks > 1 and kept_out / lateness.looks < _PUNCTUAL
        return Cause.C_WITHOUT_GIL if punctual else Cause.PYTHON
    if kept_out >= half:
        others = window.busiest[1] if window.busiest is not None else 0.0
        return Cause.OTHER_THREAD if others >= half or window.process - window.loop >= half else Cause.WAITING_WITH_GIL
    return Cause.WAITING

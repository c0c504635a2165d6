"""Collecting garbage after each test, without looking each time at all that the program has imported.

    a test begins, and the last collection was slow ── set_aside ──> all that is there now is not looked at (gc.freeze)
    a fixture of wider scope ends, a test is not strict, the run ends ── take_back ──> it is again

At the beginning of a test nothing of another one is about but what fixtures of wider scope hold, so nothing is overlooked
that could be found in the meantime. Where the program has set things aside itself, that is left as it is.
"""

from __future__ import annotations

import gc
import time
from typing import NamedTuple

#: Seconds that a collection may take.
_SLOW = 0.005
#: Objects that CPython may have set aside itself (3.12 begins with some hundreds); a program that does so has more.
_INTERPRETERS_OWN = 1000


class Span(NamedTuple):
    """When something was done, in Unix time."""

    began: float
    ended: float


class Garbage:
    """One for the run."""

    def __init__(self) -> None:
        self._slow = False
        self._aside = False
        self._theirs = False

    def collect(self) -> Span:
        """All of it that is not set aside."""
        began = time.time()
        gc.collect()
        span = Span(began, time.time())
        self._slow = span.ended - span.began > _SLOW
        return span

    def set_aside(self) -> None:
        """Just after a collection: what is there stays, for now."""
        self._theirs = self._theirs or (not self._aside and gc.get_freeze_count() > _INTERPRETERS_OWN)
        if self._slow and not self._theirs:
            gc.freeze()
            self._aside = True
            self._slow = False

    def take_back(self) -> None:
        """Look at all again."""
        if self._aside:
            gc.unfreeze()
            self._aside = False

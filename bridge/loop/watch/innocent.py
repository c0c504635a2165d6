"""What takes long and is nobody's mistake: imports at start-up, a debugger's prompt, a tracer that slows everything."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from types import FrameType

from bridge.diagnostics.delivery import Delivery
from bridge.loop.watch.causes import Cause

#: Seconds after a loop's start in which imports may take their time.
STARTING = 5.0
#: How much slower a traced program may be.
_TRACED = 10
#: Modules without which there is no debugger, and how the names of its files begin.
_DEBUGGING = {"bdb", "pydevd", "debugpy"}
_DEBUGGERS = ("bdb.py", "pdb.py", "pydevd.py", "pudb", "debugpy", "ipdb")
_DEEPEST = 5000
#: Where a loop waits, for a moment, until what was reported is logged. Of a handler that takes too long, BRG303 tells.
_WAITING = Delivery.wait.__code__


def uncounted(frame: FrameType, base: FrameType, since_start: float) -> bool:
    """Is the time that passes in `frame`, up to the loop's `base`, nobody's? What follows in the same callback counts."""
    if frame.f_code is _WAITING:
        return True
    starting = since_start < STARTING
    if not starting and sys.modules.keys().isdisjoint(_DEBUGGING):
        return False
    files = (each.f_code.co_filename for each in _frames(frame, base))
    return any((starting and file.startswith("<frozen importlib")) or _is_debuggers(file) for file in files)


def excused(frame: FrameType, base: FrameType, cause: Cause, elapsed: float, threshold: float) -> bool:
    """Is what executes in `frame`, up to the loop's `base`, so slow because it is traced?"""
    return (
        cause is not Cause.WAITING
        and elapsed < threshold * _TRACED
        and any(each.f_trace is not None for each in _frames(frame, base))
    )


def _is_debuggers(file: str) -> bool:
    return os.path.basename(file).startswith(_DEBUGGERS) or "pydevd" in file or "debugpy" in file


def _frames(frame: FrameType, base: FrameType) -> Iterator[FrameType]:
    each: FrameType | None = frame
    for _ in range(_DEEPEST):
        if each is None or each is base:
            return
        yield each
        each = each.f_back

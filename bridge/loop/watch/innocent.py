"""What takes long and is nobody's mistake: imports at start-up, a debugger's prompt, a tracer that slows everything."""

from __future__ import annotations

import os
from types import FrameType

from bridge.loop.watch.causes import Cause

#: Seconds after a loop's start in which imports may take their time.
STARTING = 5.0
#: How much slower a traced program may be.
_TRACED = 10
_DEBUGGERS = ("bdb.py", "pdb.py", "pydevd.py", "pudb", "debugpy", "ipdb")
_DEEPEST = 5000


def excused(
    frame: FrameType, base: FrameType, cause: Cause, elapsed: float, threshold: float, since_start: float
) -> bool:
    """Is what executes in `frame`, up to the loop's `base`, to be left alone?"""
    traced = False
    each: FrameType | None = frame
    for _ in range(_DEEPEST):
        if each is None or each is base:
            break
        filename = each.f_code.co_filename
        if since_start < STARTING and filename.startswith("<frozen importlib"):
            return True
        if os.path.basename(filename).startswith(_DEBUGGERS) or "pydevd" in filename or "debugpy" in filename:
            return True
        traced = traced or each.f_trace is not None
        each = each.f_back
    return traced and cause is not Cause.WAITING and elapsed < threshold * _TRACED

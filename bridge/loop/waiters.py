"""Those that wait for one of asyncio's Events, Conditions and Queues, when a wrong thread wakes them up.

These complete one future after another, and each of them is a call of the loop. In debug mode the first is refused, and
the call ends there, although the object has changed by then: `left_by` names those who are owed a wake-up. In production
each is handed over, and the loop goes on meanwhile and changes what the call iterates over: `wake_up_the_others` lets it
have a copy first.

Owner: the loop's thread. What is done to the objects here, from another one, is a single step under the GIL.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from functools import partial
from operator import attrgetter
from types import CodeType, FrameType
from typing import Any

from bridge.diagnostics.places import PLUMBING

_SET: CodeType = asyncio.Event.set.__code__
_NOTIFIES = {
    getattr(asyncio.Condition, name).__code__ for name in ("notify", "_notify") if hasattr(asyncio.Condition, name)
}
_SHUTDOWN: CodeType | None = getattr(getattr(asyncio.Queue, "shutdown", None), "__code__", None)


def left_by(future: asyncio.Future[Any], frame: FrameType | None) -> list[asyncio.Future[Any]]:
    """Whom asyncio's own objects would complete in the call that `frame` is the innermost frame of.

    First `future`, which is to be completed now; nobody if the program completes it itself.
    """
    left: list[asyncio.Future[Any]] = []
    while frame is not None and frame.f_code.co_filename.startswith(PLUMBING):
        left = left or [future]
        left += [each for each in _others(frame, future) if each not in left]
        frame = frame.f_back
    return left


def wake_up_the_others(future: asyncio.Future[Any], frame: FrameType) -> None:
    """`future` was completed by the code of `frame`: if that iterates over those who wait, do the rest of it."""
    if frame.f_code is _SET or frame.f_code in _NOTIFIES:
        others = _others(frame, future)
        _take_a_copy(frame.f_locals["self"])
        for each in others:
            with suppress(asyncio.InvalidStateError):  # the loop was quicker
                each.set_result(future.result())


def _others(frame: FrameType, future: asyncio.Future[Any]) -> list[asyncio.Future[Any]]:
    """Those that this call of one of asyncio's methods has yet to wake up, after `future`."""
    local, code = frame.f_locals, frame.f_code
    me: Any = local.get("self")
    waiters: Iterable[asyncio.Future[Any]] = ()
    most = None
    if code is _SET:
        waiters = me._waiters
    elif code in _NOTIFIES and "idx" in local:
        waiters, most = me._waiters, max(0, local["n"] - local["idx"])
    elif code is _SHUTDOWN:
        waiters = (*me._getters, *me._putters)
    return [each for each in list(waiters) if not each.done() and each is not future][:most]


def _take_a_copy(waited_for: Any) -> None:
    """Put a copy of its waiters in their place; whoever iterates over them keeps what it has.

    No bytecode runs between reading and writing, so nobody that comes or goes meanwhile is missed.
    """
    list(map(partial(setattr, waited_for, "_waiters"), map(deque, map(attrgetter("_waiters"), [waited_for]))))


def complete(future: asyncio.Future[Any], method: str, args: tuple[Any, ...]) -> None:
    """On the loop: what a wrong thread owes."""
    if not future.done():
        getattr(future, method)(*args)

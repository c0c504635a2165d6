"""asyncio's debug mode at a price that can be paid: handles, futures and tasks that know who made them.

    made ──> creation_stack: (code, instruction) pairs, as cheap as they can be had
    asked for (`_source_traceback`, by a repr, a log message, an exception handler) ──> traceback.StackSummary

asyncio formats a stack for each of them, read or not. Ours are subclasses, with a property in the place of what asyncio's
have; they are made while the loop says it is not in debug mode, so that asyncio's own constructors take no stack.

Futures check their thread, too: `set_result` and the like raise in a wrong one, and nothing has changed then. asyncio's
Event and Condition, however, have changed by the time they come to their waiters: those that they would have woken up are
woken up on the loop, so that none is left behind.
"""

from __future__ import annotations

import asyncio
import sys
from contextvars import Context, copy_context
from functools import partial
from threading import get_ident
from traceback import StackSummary
from types import CodeType, FrameType
from typing import Any

from bridge.callables import code_of, qualname_of
from bridge.diagnostics.places import PLUMBING, line_of
from bridge.loop.ready import LeanHandle, LeanTimerHandle
from bridge.loop.waiters import complete, left_by
from bridge.loop.wrong_thread import refuse

#: What executes a callback of the loop: outside of it there is nothing but the loop.
_HANDLE_RUNS: CodeType = asyncio.Handle._run.__code__

Creation = list[Any]
#: Frames that are remembered at the most; asyncio's debug mode has ten.
_DEEPEST = 200


def creation_stack(frame: FrameType | None) -> Creation:
    """Code and instruction of each frame from `frame` outwards, up to the loop."""
    stack: Creation = []
    for _ in range(_DEEPEST):
        if frame is None:
            break
        code = frame.f_code
        if code is _HANDLE_RUNS:
            break
        stack.append(code)
        stack.append(frame.f_lasti)
        frame = frame.f_back
    return stack


def as_traceback(stack: Creation | None) -> StackSummary | None:
    """A creation stack as asyncio shows it, outermost first; without the plumbing that is innermost."""
    if not stack:
        return None
    sites = [(stack[index], stack[index + 1]) for index in range(0, len(stack), 2)]
    while len(sites) > 1 and sites[0][0].co_filename.startswith(PLUMBING):
        del sites[0]
    frames = [(site[0].co_filename, line_of(site), site[0].co_name, None) for site in reversed(sites)]
    return StackSummary.from_list(frames)


class _Remembers(asyncio.Handle):
    """What a handle of debug mode has beside asyncio's: where it was `made`, and, once cancelled, what it `was` to call.

    asyncio describes that when it is cancelled, for a log message that hardly ever comes; servers and timeouts cancel a
    timer for each request. The arguments, which are not to be kept alive, are not described then.
    """

    __slots__ = ()

    #: In the slots of those that can be made.
    made: Creation
    was: CodeType | str
    _callback: Any
    _args: Any

    @property
    def _source_traceback(self) -> StackSummary | None:
        return as_traceback(self.made)

    def cancel(self) -> None:
        """As in asyncio."""
        if self._cancelled:
            return
        self._cancelled = True
        callback = self._callback
        while type(callback) is partial:
            callback = callback.func
        self.was = code_of(callback) or f"{qualname_of(callback)}(...)"  # type: ignore[misc]
        self._callback = self._args = None

    def _repr_info(self) -> list[str]:
        info: list[str] = super()._repr_info()  # type: ignore[misc]
        if self._cancelled:
            was = self.was
            if isinstance(was, CodeType):
                was = f"{was.co_qualname}(...) at {was.co_filename}:{was.co_firstlineno}"
            info.insert(len(info) - bool(self.made), was)
        return info


class DebugHandle(_Remembers, LeanHandle):  # type: ignore[misc]
    """A Handle that remembers where it was made."""

    __slots__ = ("made", "was")

    def __init__(self, callback: Any, args: Any, loop: Any, context: Context | None, made: Creation):
        self._context = copy_context() if context is None else context
        self._loop = loop
        self._callback = callback
        self._args = args
        self._cancelled = False
        self._repr = None
        self.made: Creation = made


class DebugTimerHandle(_Remembers, LeanTimerHandle):  # type: ignore[misc]
    """Likewise, due at `when`."""

    __slots__ = ("made", "was")

    def __init__(self, when: float, callback: Any, args: Any, loop: Any, context: Context | None, made: Creation):
        self._context = copy_context() if context is None else context
        self._loop = loop
        self._callback = callback
        self._args = args
        self._cancelled = False
        self._repr = None
        self._when = when
        self._scheduled = False
        self.made: Creation = made

    def cancel(self) -> None:
        """As in asyncio."""
        if not self._cancelled:
            self._loop._timer_handle_cancelled(self)
        super().cancel()


class DebugFuture(asyncio.Future[Any]):
    """A Future that remembers where it was made, and that only its loop's thread may complete."""

    __slots__ = ("made",)

    made: Creation

    @property
    def _source_traceback(self) -> StackSummary | None:
        return as_traceback(getattr(self, "made", None))

    def set_result(self, result: Any) -> None:
        _check_thread(self, "set_result", (result,))
        super().set_result(result)

    def set_exception(self, exception: Any) -> None:
        _check_thread(self, "set_exception", (exception,))
        super().set_exception(exception)

    def cancel(self, msg: Any = None) -> bool:
        _check_thread(self, "cancel", ())
        return super().cancel(msg)


class DebugTask(asyncio.Task[Any]):
    """A Task that remembers where it was made, and that only its loop's thread may cancel."""

    __slots__ = ("made",)

    made: Creation

    @property
    def _source_traceback(self) -> StackSummary | None:
        return as_traceback(getattr(self, "made", None))

    def cancel(self, msg: Any = None) -> bool:
        _check_thread(self, "cancel", ())
        return super().cancel(msg)


_NAMES = {DebugHandle: "Handle", DebugTimerHandle: "TimerHandle", DebugFuture: "Future", DebugTask: "Task"}
for _kind, _name in _NAMES.items():
    _kind.__name__ = _kind.__qualname__ = _name  # asyncio's messages call them so

# -- the wrong thread --------------------------------------------------------------------------------------------------


def _check_thread(future: asyncio.Future[Any], method: str, args: tuple[Any, ...]) -> None:
    loop: Any = future.get_loop()
    guard = loop.guard
    if guard is None or guard == get_ident():
        return
    left = [] if method == "cancel" else left_by(future, sys._getframe(2))
    for each in left:
        loop.call_soon_threadsafe(complete, each, method, args)
    refuse(loop, told=loop.is_watched, changed=bool(left))

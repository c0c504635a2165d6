"""What a loop is doing at the moment, as seen from outside, without asking it.

In: the innermost frame of the loop's thread. Out: a Glance, or None while the loop sleeps or is between two callbacks.
Two glances with the same `turn` were taken in one iteration of the loop, with the same `callback` too in one callback.
"""

from __future__ import annotations

import asyncio
import sys
import weakref
from asyncio.base_events import BaseEventLoop
from collections.abc import Callable
from types import CodeType, FrameType
from typing import Any, NamedTuple, Protocol

from bridge.diagnostics.switch import USUAL_THRESHOLD
from bridge.threads.host import Host
from bridge.threads.loaded import from_loaded

_RUN_ONCE = BaseEventLoop._run_once.__code__  # type: ignore[attr-defined]
#: Frames that are looked through for the loop's own.
_DEEPEST = 5000


class Glance(NamedTuple):
    """`turn` and `callback` are compared by identity. `base` is the loop's own frame, below the callback's frames.
    `began` is when the turn began, if that is known (`time.monotonic`), `first` whether this is its first callback,
    `callbacks` how many the turn has, 0 if unknown. `task` is what runs, if a task does."""

    turn: Any
    callback: Any
    frame: FrameType
    base: FrameType
    began: float | None = None
    first: bool = False
    callbacks: int = 0
    task: Any = None

    def in_turn_of(self, other: Glance | None) -> bool:
        """Is it still the same iteration?"""
        return other is not None and (self.turn is other.turn or self.turn == other.turn)

    def in_callback_of(self, other: Glance | None) -> bool:
        """Is it still the same callback?"""
        return other is not None and self.in_turn_of(other) and self.callback is other.callback


class View(Protocol):
    """How one kind of loop is looked at, from the watchdog's thread."""

    def glance(self, frame: FrameType) -> Glance | None: ...

    def threshold(self) -> float: ...

    def debug(self) -> bool: ...

    def is_over(self) -> bool:
        """Is the loop closed, or its run at its end?"""
        return False

    def asleep(self) -> bool:
        """Is it certain, without a look at frames, that the loop sleeps?"""
        return False

    @property
    def wakes(self) -> bool:
        """Does the loop call when it has slept, so that nobody needs to look at it meanwhile?"""
        return False

    def serves(self) -> str | None:
        """For a loop that is bridge's own business: what it was started for. None for a loop of the program."""
        return None

    def call_at_waking(self, call: Callable[[], None]) -> None:
        """Have a loop that `wakes` call, once, when it has slept."""
        return


def _outwards(frame: FrameType | None, is_base: Callable[[FrameType], bool]) -> tuple[FrameType | None, FrameType | None]:
    """The first frame outwards that `is_base`, and the one that it has called."""
    inner = None
    for _ in range(_DEEPEST):
        if frame is None or is_base(frame):
            return frame, inner
        frame, inner = frame.f_back, frame
    return None, None


class AsyncioView(View):
    """asyncio's own loops and their subclasses, bridge's among them: the variables of `BaseEventLoop._run_once` tell all.

    `end_time` is when the callbacks of an iteration began, and set only then; `handle` and `i` say which one runs. A loop
    with a clock of its own does not say when that was in time.monotonic.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, wakes: bool = False):
        self._weakly: Callable[[], Any] = weakref.ref(loop)
        self._wakes = wakes

    @property
    def wakes(self) -> bool:
        return self._wakes

    def call_at_waking(self, call: Callable[[], None]) -> None:
        loop = self._weakly()
        if loop is not None:
            loop._selector.at_waking = call

    def is_over(self) -> bool:
        return _is_over(self._weakly())

    def asleep(self) -> bool:
        return bool(getattr(self._weakly(), "_nap", 0))

    def threshold(self) -> float:
        return float(getattr(self._weakly(), "slow_callback_duration", USUAL_THRESHOLD))

    def debug(self) -> bool:
        loop = self._weakly()
        return loop is not None and bool(loop.get_debug())

    def serves(self) -> str | None:
        served: str | None = getattr(self._weakly(), "serves", None)
        return served

    def glance(self, frame: FrameType) -> Glance | None:
        loop = self._weakly()
        base, inner = _outwards(frame, lambda each: each.f_code is _RUN_ONCE)
        if loop is None or base is None or inner is None:
            return None
        local = base.f_locals
        began, handle = local.get("end_time"), local.get("handle")
        if began is None or handle is None or local.get("self") is not loop:
            return None
        clock: Any = getattr(loop, "time", None)
        return Glance(
            turn=base,
            callback=handle,
            frame=frame,
            base=base,
            began=began if getattr(clock, "__func__", None) is BaseEventLoop.time else None,
            first=local.get("i") == 0,
            callbacks=local.get("ntodo", 0),
            task=asyncio.current_task(loop),
        )


class OpaqueView(View):
    """A loop that is not written in Python (uvloop): all that can be seen is whether it has called into Python.

    A turn lasts until the loop has answered a call: one is sent whenever it is seen busy and none is on its way. The
    answer is called by the loop itself, so its caller's frame is the one that runs the loop; before the first answer that
    is known only to a view that was made in a task.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop):
        self._weakly: Callable[[], Any] = weakref.ref(loop)
        self._base = _caller_of(asyncio.current_task(loop))
        self._turn = 0
        self._asked = True
        loop.call_soon(self._answer)

    def is_over(self) -> bool:
        if not _is_over(self._weakly()):
            return False
        self._base = None  # whose variables may hold the loop
        return True

    def run_by(self, frame: FrameType | None) -> None:
        """This frame is about to run the loop; None: it has done so."""
        self._base = frame

    def threshold(self) -> float:
        return float(getattr(self._weakly(), "slow_callback_duration", USUAL_THRESHOLD))

    def debug(self) -> bool:
        loop = self._weakly()
        return loop is not None and bool(loop.get_debug())

    def asleep(self) -> bool:
        loop = self._weakly()
        if loop is not None and loop.is_running():
            return False
        self._base = None  # whose variables may hold the loop
        return True

    def glance(self, frame: FrameType) -> Glance | None:
        loop = self._weakly()
        if loop is None or self.asleep():
            return None
        known = self._base
        base, inner = (None, None) if known is None else _outwards(frame, lambda each: each is known)
        if base is not None and inner is None:
            return None
        if not self._asked:
            self._asked = True
            try:
                loop.call_soon_threadsafe(self._answer)
            except RuntimeError:  # closed
                return None
        if base is None:  # run anew, from elsewhere
            return None
        task = asyncio.current_task(loop)
        return Glance(turn=self._turn, callback=task, frame=frame, base=base, task=task)

    def _answer(self) -> None:
        self._base = sys._getframe(1)
        self._turn += 1
        self._asked = False


def _is_over(loop: Any) -> bool:
    return loop is None or bool(loop.is_closed())


def _caller_of(task: asyncio.Task[Any] | None) -> FrameType | None:
    """The frame that has called a task's coroutine, in a step of that task."""
    own = getattr(task.get_coro(), "cr_frame", None) if task is not None else None
    outermost, _ = _outwards(sys._getframe(1), lambda each: each is own)
    return None if outermost is None else outermost.f_back


class TrioView(View):
    """A trio run: the variables of its scheduler's generator say which batch of tasks is run, and which of them.

    `host` is what knows when the run has ended, if there is one.
    """

    def __init__(self, threshold: float, host: Host | None = None):
        self._weakly: Callable[[], Host | None] | None = None if host is None else weakref.ref(host)
        unrolled_run = from_loaded("trio._core._run", "unrolled_run")  # where there is none, nothing is ever seen
        self._scheduler: CodeType | None = getattr(unrolled_run, "__code__", None)
        self._threshold = threshold

    def is_over(self) -> bool:
        host = None if self._weakly is None else self._weakly()
        return self._weakly is not None and (host is None or host.closed is not None)

    def threshold(self) -> float:
        return self._threshold

    def debug(self) -> bool:
        return False

    def glance(self, frame: FrameType) -> Glance | None:
        base, inner = _outwards(frame, lambda each: each.f_code is self._scheduler)
        if base is None or inner is None:
            return None
        local = base.f_locals
        batch, task = local.get("batch"), local.get("task")
        if batch is None or task is None:
            return None
        return Glance(turn=_Same(batch), callback=task, frame=frame, base=base, task=task)


class _Same:
    """Equal to another one of the same object; holds it, so that its identity stays its own."""

    __slots__ = ("_thing",)

    def __init__(self, thing: object):
        self._thing = thing

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and other._thing is self._thing

    __hash__ = None  # type: ignore[assignment]

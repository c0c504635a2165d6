"""Watching loops that are not bridge's own: asyncio's, uvloop, trio.

    watch ── host of the running loop ── not watched already? ── View of its kind ──> Watch ── resume ... pause ── close

None of them calls the watchdog when it wakes up, so it looks at them twenty times a second, idle or not.
"""

from __future__ import annotations

import asyncio
from asyncio.base_events import BaseEventLoop
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, ExitStack
from types import TracebackType
from typing import Any
from weakref import WeakKeyDictionary, ref

from bridge.diagnostics.switch import first_threshold
from bridge.loop.event_loop import EventLoop
from bridge.loop.forgotten import RemembersOrigins
from bridge.loop.hosts import current_host
from bridge.loop.lost import reporting_lost_exceptions
from bridge.loop.watch.thresholds import adopt_threshold, set_threshold
from bridge.loop.watch.views import AsyncioView, OpaqueView, TrioView, View
from bridge.loop.watch.watching import Watch
from bridge.threads.host import Host
from bridge.threads.seconds import check_seconds


class _Blocks:
    """The blocks that want one loop watched; they may end in any order."""

    def __init__(self, watch: Watch, told: ExitStack):
        self.watch = watch
        self.told = ref(told)  # which holds the loop; each open block holds it
        self.open = 0


#: Of the loops that are watched by this module.
_watched: WeakKeyDictionary[Host, _Blocks] = WeakKeyDictionary()


class watch(AbstractAsyncContextManager["watch"]):  # noqa: N801 - reads as a function: async with bridge.watch()
    """Have the running loop watched for the time of a block: `async with bridge.watch():`, on any asyncio loop or trio.

    It reports what blocks the loop (BRG101 to BRG104), coroutines that are forgotten (BRG201) and, on asyncio's loops,
    exceptions that are lost (BRG202), as bridge's own loops do of themselves; there, and inside another such block, it
    does nothing more. `threshold` is in seconds: how long a callback, or a step of a task, may take. By
    default it is the loop's `slow_callback_duration`; where that has not been set, and on trio, it is what
    `BRIDGE_SLOW_CALLBACK_DURATION` in the environment says, and otherwise 0.1. Raises WrongThread where no loop runs.
    """

    def __init__(self, *, threshold: float | None = None):
        if threshold is not None:
            check_seconds("threshold", threshold, "bridge.watch(threshold=0.1)", positive=True)
        self._threshold = threshold
        self._end: Callable[[], None] | None = None

    async def __aenter__(self) -> watch:
        if self._end is not None:
            raise RuntimeError("this watch is already entered: write bridge.watch() for another one")
        self._end = watch_here(self._threshold)
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        end, self._end = self._end, None
        if end is not None:
            end()


def watch_here(threshold: float | None = None) -> Callable[[], None]:
    """Watch the running loop until what is returned is called."""
    host = current_host()
    loop: Any = host.loop
    restore = _threshold_of(loop, threshold)
    if isinstance(loop, EventLoop) and loop.is_watched:
        return restore
    blocks = _watched.get(host)
    if blocks is None or not blocks.watch.serves():  # else of another thread, or of the process that has forked this one
        told = _told_of(loop)
        blocks = _watched[host] = _Blocks(Watch(view_of(loop, threshold, host)), told)
        blocks.watch.resume()
    else:
        told = blocks.told() or ExitStack()
    blocks.open += 1

    def end() -> None:
        blocks.open -= 1
        if not blocks.open:
            if _watched.get(host) is blocks:
                del _watched[host]
            told.close()
            blocks.watch.pause()
            blocks.watch.close()
        restore()

    return end


def _threshold_of(loop: Any, threshold: float | None) -> Callable[[], None]:
    """In force from now on, until what is returned is called. trio's is its view's."""
    if isinstance(loop, asyncio.AbstractEventLoop):
        if threshold is not None:
            return set_threshold(loop, threshold)
        adopt_threshold(loop)
    return lambda: None


def _told_of(loop: Any) -> ExitStack:
    """What is told of the loop besides, until this is closed."""
    told = ExitStack()
    told.enter_context(RemembersOrigins())
    if isinstance(loop, asyncio.AbstractEventLoop):
        told.enter_context(reporting_lost_exceptions(loop))
    return told


def view_of(loop: Any, threshold: float | None = None, host: Host | None = None) -> View:
    """How a loop of this kind is looked at. Called in the thread that runs it."""
    if not isinstance(loop, asyncio.AbstractEventLoop):
        return TrioView(threshold or first_threshold(), host)
    if isinstance(loop, BaseEventLoop) and type(loop)._run_once is BaseEventLoop._run_once:  # type: ignore[attr-defined]
        return AsyncioView(loop, wakes=isinstance(loop, EventLoop) and loop.calls_the_watchdog)
    return OpaqueView(loop)

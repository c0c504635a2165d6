"""From when until when a loop is watched."""

from __future__ import annotations

from asyncio import AbstractEventLoop
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic

from bridge.diagnostics.watchdog import watchdog
from bridge.loop.watch.garbage import collections
from bridge.loop.watch.readings import LoopClocks
from bridge.loop.watch.views import AsyncioView
from bridge.loop.watch.watcher import LoopWatcher


@contextmanager
def watched(loop: AbstractEventLoop) -> Iterator[None]:
    """For the time of a block, in the thread that runs `loop`: have the watchdog look at it."""
    clocks = LoopClocks()
    watcher = LoopWatcher(AsyncioView(loop), clocks, monotonic())
    collections.start()
    watchdog.watch(watcher)
    try:
        yield
    finally:
        watchdog.unwatch(watcher)
        collections.stop()
        clocks.close()

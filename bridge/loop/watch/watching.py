"""From when until when a loop is watched."""

from __future__ import annotations

from asyncio import AbstractEventLoop
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def watched(loop: AbstractEventLoop) -> Iterator[None]:
    """For the time of a block, in the thread that runs `loop`: have the watchdog look at it."""
    yield

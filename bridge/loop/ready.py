"""What a loop has ready to run: the queue that threads append to, and the handles in it.

A handle knows no more than asyncio's loops ask of it. Debug mode makes its own kind (`debug`), which remembers who made
it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from contextvars import Context, copy_context
from typing import Any

#: What we know of asyncio's handles, which have slots and no other place for a state.
HANDLE_SLOTS: set[str] = {"_callback", "_args", "_cancelled", "_loop", "_source_traceback", "_repr", "_context"}
#: Callbacks run before the loop looks at its I/O and timers again.
BATCH = 256


class LeanHandle(asyncio.Handle):
    """A Handle without the debug mode's bookkeeping, made in half the time."""

    __slots__ = ()

    def __init__(self, callback: Any, args: Any, loop: Any, context: Context | None):
        self._context = copy_context() if context is None else context
        self._loop = loop
        self._callback = callback
        self._args = args
        self._cancelled = False
        self._repr = None
        self._source_traceback = None


class LeanTimerHandle(asyncio.TimerHandle):
    """Likewise, due at `when`."""

    __slots__ = ()

    def __init__(self, when: float, callback: Any, args: Any, loop: Any, context: Context | None):
        self._context = copy_context() if context is None else context
        self._loop = loop
        self._callback = callback
        self._args = args
        self._cancelled = False
        self._repr = None
        self._source_traceback = None
        self._when = when
        self._scheduled = False


class Ready(deque[Any]):
    """The ready queue, of which each round of the loop sees a bounded part."""

    __slots__ = ()

    def __len__(self) -> int:
        length = super().__len__()
        return min(BATCH, length)

    def clear(self) -> None:
        """Keep everything: asyncio empties its queue when it closes, and bridge refuses what is in it first."""


def is_in(ready: deque[Any], item: object) -> bool:
    """Is this very item still in there?"""
    return any(left is item for left in list(ready))

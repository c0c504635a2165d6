"""The one door into a loop: whatever comes from outside its thread is an `Item` that goes through here.

    any thread, signal handler, finalizer                      the loop's thread
    put(item) -> items.append -> (first of a burst) wake --->  drain: item._run(), at most BATCH, then again()

Owners: `_items` is shared and only touched by atomic deque operations. `_round` is written by the loop's thread alone, as
the first act of a drain; `_called_in` is the round for which the loop has been woken. There is no lock, so `put` may
interrupt itself (a signal handler, a `__del__`) or be interrupted (Ctrl-C) at any instruction without harm.
Why no wake-up is lost: a putter appends, then compares the two; the drain ends the round, then takes. A putter that is
delayed between waking and noting it down writes an old round, which only means one wake-up too many later on.
Closing: a putter looks at `_closed` after it appended, `close` sets it before it empties. So an item is either seen by
the closer, and refused, or its putter is told `LoopClosed`; it can be both, and answers count once (see `calls`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from bridge.errors import BridgeError, LoopClosed
from bridge.threads.job import name_of

#: Items run before the loop gets a look at its own I/O and timers again.
BATCH = 64


class Item:
    """Something to be run once on a loop's thread.

    It has the face of an `asyncio.Handle` (`_cancelled`, `_run`, and what asyncio's debug mode reads), so that bridge's
    own loop can keep it in its ready queue as it is, without wrapping it.
    """

    __slots__ = ()
    _cancelled = False
    _callback: Any = None
    _args: tuple[Any, ...] = ()
    _source_traceback: Any = None

    @property
    def named(self) -> Any:
        """The function that it is about, for messages; None if it is bridge's own business."""
        return None

    def __repr__(self) -> str:
        named = self.named
        return f"<{type(self).__name__}>" if named is None else f"<{type(self).__name__} of {name_of(named)}>"

    def _run(self) -> None:
        """Run on the loop's thread. Must not raise, except KeyboardInterrupt and SystemExit."""
        raise NotImplementedError

    def refuse(self, error: BridgeError) -> None:
        """Called instead of `_run` if the loop will never get to it, from any thread."""


class Inbox:
    """A coalescing, order-keeping, lock-free door into any loop that has one thread-safe call of its own.

    `wake(drain)` must schedule `drain` on the loop from any thread and raise if the loop is gone; `again(drain)` does the
    same but is only called on the loop's thread. `gone` says whether the loop has ended, where that can be asked.
    """

    def __init__(
        self,
        wake: Callable[[Callable[[], None]], object],
        again: Callable[[Callable[[], None]], object],
        gone: Callable[[], bool] = lambda: False,
    ):
        self._items: deque[Item] = deque()
        self._round = 0
        self._called_in = -1
        self._closed: str | None = None
        self._wake = wake
        self._again = again
        self._gone = gone

    def put(self, item: Item) -> None:
        """Accept `item` to be run once, after everything accepted before. Raises LoopClosed."""
        self._items.append(item)
        current = self._round
        if self._called_in != current:
            try:
                self._wake(self._drain)
                self._called_in = current
            except RuntimeError as error:  # asyncio's "Event loop is closed", trio's RunFinishedError
                self.close(f"the loop was closed before this call could reach it ({error})")
        elif self._gone():
            self.close("the loop was closed before this call could reach it")
        if self._closed is not None:
            raise LoopClosed(self._closed)

    def close(self, reason: str) -> None:
        """Refuse what is inside and whatever comes from now on. Harmless to repeat, from any thread."""
        if self._closed is None:
            self._closed = reason
        while self._items:
            try:
                item = self._items.popleft()
            except IndexError:
                return
            item.refuse(LoopClosed(self._closed))

    def _drain(self) -> None:
        self._round += 1
        items = self._items
        try:
            for _ in range(min(len(items), BATCH)):
                try:
                    item = items.popleft()
                except IndexError:  # two drains met, or the inbox was closed in between
                    break
                item._run()
        finally:
            if self._closed is not None:
                self.close(self._closed)
            elif items and self._called_in != self._round:
                self._called_in = self._round
                self._again(self._drain)

"""The moment in which a loop sleeps: the selector's place in bridge's loop.

    select: number the nap ── look at the ready queue once more ── poll ── awake        waker: append ── napping? ── byte

Why no wake-up is lost: see `event_loop`. Why waking costs no read: the self-pipe is watched edge-triggered where there
is epoll, so a byte that stays unread rings once and no more. It is read after `UNREAD` wake-ups, well before the pipe is
full (about 270 bytes on Linux), and at once while the loop handles signals, because then the bytes mean something.
"""

from __future__ import annotations

import select
import selectors
from collections import deque
from collections.abc import Callable
from math import ceil
from typing import Any

from bridge.diagnostics.watchdog import watchdog

#: Wake-up bytes that may lie in the self-pipe.
UNREAD = 64


class Sleeper:
    """Stands where asyncio expects its selector, and notes when the loop sleeps in it. For any selector."""

    def __init__(self, loop: Any, selector: selectors.BaseSelector):
        self._loop = loop
        self._ready: deque[Any] = loop._ready
        self._poll: Callable[[float | None], Any] = selector.select
        self._naps = 0
        #: Whom the watchdog wants to hear of when the loop has slept: its watcher, while that rests.
        self.at_waking: Callable[[], None] | None = None
        self.selector: selectors.BaseSelector = selector
        self.register: Callable[..., selectors.SelectorKey] = selector.register
        self.unregister: Callable[..., selectors.SelectorKey] = selector.unregister
        self.modify: Callable[..., selectors.SelectorKey] = selector.modify
        self.get_key: Callable[..., selectors.SelectorKey] = selector.get_key
        self.get_map: Callable[[], Any] = selector.get_map
        self.close: Callable[[], None] = selector.close

    def select(self, timeout: float | None = None) -> Any:
        if timeout is not None and timeout <= 0:
            return self._poll(timeout)
        loop = self._loop
        self._naps = nap = self._naps + 1
        loop._nap = nap
        try:
            return self._poll(0 if self._ready else timeout)
        finally:
            loop._nap = 0
            if watchdog.parked and self.at_waking is not None:  # it may be others that rest
                call, self.at_waking = self.at_waking, None
                call()


class EpollSleeper(Sleeper):
    """The same for Linux: wake-ups by other threads neither cost a read nor pass through the ready queue.

    Uses two private details of `selectors.EpollSelector`: the epoll object and the map from descriptor to key.
    """

    def __init__(self, loop: Any, selector: Any):
        super().__init__(loop, selector)
        self._epoll = selector._selector
        self._keys = selector._fd_to_key
        self._bell = loop._ssock.fileno()
        self._unread = 0
        self._poll = self._poll_epoll
        self._epoll.modify(self._bell, select.EPOLLIN | select.EPOLLET)

    @staticmethod
    def can_serve(loop: Any, selector: Any) -> bool:
        """Are the details there that this class is built on?"""
        return (
            type(selector) is getattr(selectors, "EpollSelector", None)
            and isinstance(getattr(selector, "_selector", None), getattr(select, "epoll", ()))
            and isinstance(getattr(selector, "_fd_to_key", None), dict)
            and hasattr(loop, "_signal_handlers")
        )

    def _poll_epoll(self, timeout: float | None) -> Any:
        keys = self._keys
        seconds = -1 if timeout is None else ceil(timeout * 1000) * 0.001  # epoll counts milliseconds; never too early
        try:
            events = self._epoll.poll(seconds, len(keys) or 1)
        except InterruptedError:
            return ()
        if not events:
            return ()
        ready = []
        for descriptor, event in events:
            if descriptor == self._bell:
                self._rung()
                continue
            key = keys.get(descriptor)
            if key is not None:
                mask = (selectors.EVENT_READ if event & ~select.EPOLLOUT else 0) | (
                    selectors.EVENT_WRITE if event & ~select.EPOLLIN else 0
                )
                ready.append((key, mask & key.events))
        return ready

    def _rung(self) -> None:
        self._unread += 1
        if self._unread >= UNREAD or self._loop._signal_handlers:
            self._unread = 0
            self._loop._read_from_self()

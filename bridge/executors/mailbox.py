"""What workers leave for one consumer on a loop: results, items, the news that something has ended.

    worker: put(thing) -> arrived.append ── consumer asleep? ──> the host's door     consumer: take from arrived, or wait

Owners: `arrived` is shared (atomic deque operations); `_asked` is set by the consumer before its last look at `arrived`
and cleared by the worker that wakes it, after its append. So one sees the other; two workers may both wake, harmlessly.
"""

from __future__ import annotations

from collections import deque
from contextlib import suppress
from typing import Any

from anyio import Event

from bridge.errors import LoopClosed
from bridge.loop.patience import wait_patiently
from bridge.threads.host import Host
from bridge.threads.inbox import Item


class Mailbox(Item):
    """A queue from many workers to one consumer on `host`'s loop, with one wake-up for each time the consumer sleeps."""

    __slots__ = ("_asked", "_event", "arrived", "host")

    def __init__(self, host: Host):
        self.host: Host = host
        self.arrived: deque[Any] = deque()
        self._asked = False
        self._event: Event | None = None

    def put(self, thing: Any) -> None:
        """From any thread. Must not raise: if the loop is gone, so is the consumer."""
        self.arrived.append(thing)
        if self._asked:
            self._asked = False
            with suppress(LoopClosed):
                self.host.post(self)

    def _run(self) -> None:
        self.wake()

    def wake(self) -> None:
        """On the loop: make the consumer look again."""
        if self._event is not None:
            self._event.set()

    async def wait(self) -> None:
        """On the loop: return when something may have arrived, at once if something is there."""
        self._event = event = Event()
        self._asked = True
        if self.arrived:
            self._asked = False
            return
        await event.wait()

    async def wait_patiently(self) -> None:
        """Likewise, but not to be cancelled; only a host that is leaving for good ends it."""
        self._event = event = Event()
        self._asked = True
        if not self.arrived:
            await wait_patiently(self.host, event)

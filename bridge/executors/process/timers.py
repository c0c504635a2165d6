"""The crew's own alarm clock: it moves house with the crew, which the timers of an event loop cannot.

Owners: all of it belongs to the home's thread, under the crew's turn. One timer of the loop is armed, for what comes
first.
"""

from __future__ import annotations

import heapq
from asyncio import TimerHandle
from collections.abc import Callable
from itertools import count
from time import monotonic


class Alarm:
    """Something to be done at a time. `cancel()` makes nothing of it."""

    __slots__ = ("action", "at")

    def __init__(self, at: float, action: Callable[[], object]):
        self.at: float = at
        self.action: Callable[[], object] | None = action

    def cancel(self) -> None:
        self.action = None


class Timers:
    """Alarms in the order of time (`time.monotonic`, seconds). `arm(seconds)` sets the loop's timer."""

    def __init__(self, arm: Callable[[float], TimerHandle]):
        self._arm = arm
        self._heap: list[tuple[float, int, Alarm]] = []
        self._handle: TimerHandle | None = None
        self._armed_for = 0.0
        self._numbers = count()

    def after(self, seconds: float, action: Callable[[], object]) -> Alarm:
        """Do `action` in so many seconds."""
        alarm = Alarm(monotonic() + seconds, action)
        heapq.heappush(self._heap, (alarm.at, next(self._numbers), alarm))
        if self._handle is None or alarm.at < self._armed_for:
            self._set(alarm.at)
        return alarm

    def ring(self) -> None:
        """On the home's thread: do what is due."""
        self._handle = None
        now = monotonic()
        while self._heap and self._heap[0][0] <= now:
            alarm = heapq.heappop(self._heap)[2]
            action, alarm.action = alarm.action, None
            if action is not None:
                action()
        while self._heap and self._heap[0][2].action is None:
            heapq.heappop(self._heap)
        if self._heap and self._handle is None:
            self._set(self._heap[0][0])

    def moved(self) -> None:
        """The crew lives elsewhere now."""
        self._handle = None
        if self._heap:
            self._set(self._heap[0][0])

    def _set(self, at: float) -> None:
        if self._handle is not None:
            self._handle.cancel()
        self._armed_for = at
        self._handle = self._arm(max(0.0, at - monotonic()))

"""How long a callback may take on a loop that is not bridge's own, and who has said so.

    loop.slow_callback_duration <── a block's threshold, the last one's ── the block ends ──> what it was before
                                <── the environment's, where nobody has set another; it stays

asyncio and uvloop keep the figure themselves, in an attribute that programs may set at any time; what they have set
stays. In: the loop's thread.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from weakref import WeakKeyDictionary

from bridge.diagnostics.switch import USUAL_THRESHOLD, first_threshold


class _Thresholds:
    """What a loop's `slow_callback_duration` was before the first block that has its own, and those of the open ones."""

    def __init__(self, before: float):
        self.before = before
        self.open: dict[object, float] = {}

    @property
    def in_force(self) -> float:
        return next(reversed(self.open.values()), self.before)


_thresholds: WeakKeyDictionary[asyncio.AbstractEventLoop, _Thresholds] = WeakKeyDictionary()


def set_threshold(loop: asyncio.AbstractEventLoop, threshold: float) -> Callable[[], None]:
    """That of the block entered last is in force, until the program sets another. Returns what ends the block."""
    thresholds = _thresholds.get(loop)
    if thresholds is None:
        thresholds = _thresholds[loop] = _Thresholds(loop.slow_callback_duration)
    block = object()
    thresholds.open[block] = threshold
    loop.slow_callback_duration = threshold

    def restore() -> None:
        ours = loop.slow_callback_duration == thresholds.in_force
        del thresholds.open[block]
        if ours:
            loop.slow_callback_duration = thresholds.in_force
        if not thresholds.open:
            _thresholds.pop(loop, None)

    return restore


def adopt_threshold(loop: asyncio.AbstractEventLoop) -> None:
    """Have the loop keep what the environment says, unless somebody has set another; for all that can be seen, whoever
    sets the usual one has not."""
    if loop.slow_callback_duration == USUAL_THRESHOLD and loop not in _thresholds:
        loop.slow_callback_duration = first_threshold()

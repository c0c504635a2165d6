"""Which line holds the GIL while a loop wants to run (BRG104): where the busiest other thread is, or where it was last.

By the time the watchdog gets the GIL that thread may rest, or have ended: its line is no evidence then. In and out: the
watchdog's thread.
"""

from __future__ import annotations

from bridge.diagnostics.places import is_stdlib
from bridge.diagnostics.stacks import Stack, capture, frames_of_others
from bridge.loop.watch.readings import Window


class GilHolder:
    """The thread that was last seen to hold the GIL, by its ident, and its stack."""

    def __init__(self) -> None:
        self._last: tuple[int, Stack] | None = None

    def stack(self, window: Window, seconds: float) -> Stack | None:
        """Of the thread that has held it for `seconds` of a window; None if that is not known."""
        ident, ran = window.busiest or (0, 0.0)
        frames = frames_of_others()
        if ran >= seconds / 2 and ident in frames:
            stack = capture(frames[ident])
            if stack.place is not None and not is_stdlib(stack.place.file):
                self._last = ident, stack
                return stack
            gone = self._last is not None and self._last[0] == ident
        else:
            gone = self._last is not None and self._last[0] not in frames
        return self._last[1] if self._last is not None and gone else None

"""How long the garbage collector has kept each thread, and at which line it last did so for long.

In: gc's callbacks, in whatever thread a collection happens, while any loop is watched. Out: seconds, and a stack.
Collections of the youngest generation are not counted; they are short, and many.
"""

from __future__ import annotations

import gc
import sys
import threading
import time

from bridge.diagnostics.stacks import Stack, capture

#: Seconds from which on the place of a collection is remembered.
LONG = 0.02


class Collections:
    """Counts while somebody has started it. `spent` maps a thread's ident to seconds."""

    def __init__(self) -> None:
        self.spent: dict[int, float] = {}
        #: The last long one of each thread.
        self.stacks: dict[int, Stack] = {}
        self._began: dict[int, float] = {}
        self._users = 0
        self._lock = threading.Lock()

    def start(self) -> None:
        """Count from now on."""
        with self._lock:
            self._users += 1
            if self._users == 1:
                gc.callbacks.append(self._on_collection)

    def stop(self) -> None:
        """One user less; without any, nothing is counted."""
        with self._lock:
            self._users -= 1
            if self._users == 0:
                gc.callbacks.remove(self._on_collection)
                self.spent, self.stacks, self._began = {}, {}, {}

    def _on_collection(self, phase: str, info: dict[str, int]) -> None:
        if info["generation"] == 0:
            return
        ident = threading.get_ident()
        if phase == "start":
            self._began[ident] = time.monotonic()
            return
        began = self._began.pop(ident, None)
        if began is None:
            return
        took = time.monotonic() - began
        self.spent[ident] = self.spent.get(ident, 0.0) + took
        if took >= LONG:
            self.stacks[ident] = capture(sys._getframe(1))


#: The one count of this process.
collections: Collections = Collections()

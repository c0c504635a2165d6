"""How long the garbage collector has kept each thread, and at which line it last did so for long.

In: gc's callbacks, in whatever thread a collection happens, while any loop is watched. Out: seconds, and a stack.
Collections of the youngest generation are not counted; they are short, and many.

What is known of a thread is one tuple, replaced as a whole: another thread may look in the middle of the callback,
because that is Python, while the collection itself is not.
"""

from __future__ import annotations

import gc
import os
import sys
import threading
import time
from types import CodeType

from bridge.diagnostics.stacks import Stack, capture

#: Seconds from which on the place of a collection is remembered.
LONG = 0.02


class Collections:
    """Counts while somebody has started it."""

    def __init__(self) -> None:
        #: The last long one of each thread.
        self.stacks: dict[int, Stack] = {}
        #: By a thread's ident: seconds, and when the collection began that is going on.
        self._spent: dict[int, tuple[float, float | None]] = {}
        self._users: set[object] = set()
        self._lock = threading.RLock()  # finalizers stop it

    def spent(self, ident: int) -> float:
        """Seconds that a thread has spent collecting, up to now."""
        seconds, began = self._spent.get(ident, (0.0, None))
        return seconds if began is None else seconds + time.monotonic() - began

    def start(self, user: object) -> None:
        """Count from now on."""
        with self._lock:
            self._users.add(user)
            if self._on_collection not in gc.callbacks:
                gc.callbacks.append(self._on_collection)

    def stop(self, user: object) -> None:
        """One user less; without any, nothing is counted. Harmless to repeat."""
        with self._lock:
            self._users.discard(user)
            if not self._users and self._on_collection in gc.callbacks:
                gc.callbacks.remove(self._on_collection)
                self._spent, self.stacks = {}, {}

    def after_fork_in_child(self) -> None:
        self._lock = threading.RLock()
        self._users = set()
        if self._on_collection in gc.callbacks:
            gc.callbacks.remove(self._on_collection)
        self._spent, self.stacks = {}, {}

    def _on_collection(self, phase: str, info: dict[str, int]) -> None:
        if info["generation"] == 0:
            return
        ident = threading.get_ident()
        seconds, began = self._spent.get(ident, (0.0, None))
        if phase == "start":
            self._spent[ident] = seconds, time.monotonic()
            return
        if began is None:
            return
        took = time.monotonic() - began
        if took >= LONG:
            self.stacks[ident] = capture(sys._getframe().f_back)  # None at the interpreter's end
        self._spent[ident] = seconds + took, None


#: The one count of this process.
collections: Collections = Collections()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=collections.after_fork_in_child)
#: What runs in the thread that collects, and is no part of the program.
CALLBACK: CodeType = Collections._on_collection.__code__

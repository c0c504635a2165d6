"""Waiting for a lock, but not for ever, in threads that a signal handler may interrupt.

A signal handler may raise right after the call `lock.acquire(timeout=...)` has returned, before a `try` begins. Then the
lock stays locked for ever. `with lock:` has no such moment, but no timeout either. So wait until the lock is free, and
then take it by `with`.
"""

from __future__ import annotations

from threading import Event
from time import monotonic
from typing import Protocol

#: Seconds between looks.
_INTERVAL = 0.001


class _Lock(Protocol):
    def locked(self) -> bool: ...


def wait_until_free(lock: _Lock, timeout: float) -> bool:
    """Return True when `lock` is free; False if it is still locked after `timeout` seconds."""
    if not lock.locked():
        return True
    deadline = monotonic() + timeout
    pause = Event()
    while lock.locked():
        if monotonic() >= deadline:
            return False
        pause.wait(_INTERVAL)
    return True

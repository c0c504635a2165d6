"""A function that `offload` has decorated, as a module defines it."""

from __future__ import annotations

import os

import bridge


@bridge.offload(to="process", timeout=30)
def decorated(number: int) -> tuple[int, int]:
    return os.getpid(), number

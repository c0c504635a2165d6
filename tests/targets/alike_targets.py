"""Functions that `test_process_alike` runs in worker processes: with short arguments only, so that their calls can travel
together; what they have done is in a file."""

from __future__ import annotations

import os
import time

from process_targets import Deliberate, Gate, Tally


def act(path: str, ident: int, deed: str = "", begun: str = "", gate: str = "") -> tuple[int, int]:
    """Write the number into the file at `path`, then do the deed; the number and the pid are returned."""
    Tally(path).add(ident)
    if deed == "die":
        os._exit(7)
    if deed == "raise":
        raise Deliberate(str(ident))
    if deed == "wait":
        Gate(begun).open(os.getpid())
        Gate(gate).wait()
    if deed == "for ever":
        Gate(begun).open(os.getpid())
        time.sleep(3600)
    if deed == "longer":
        time.sleep(0.01)
    return ident, os.getpid()


def nothing(*_: object) -> None:
    """What most functions return."""


def size_of(obj: bytes) -> int:
    return len(obj)

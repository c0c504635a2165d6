"""What is left in a forked child: one thread, and copies of loops and pools that nobody runs any more.

Whoever could make a caller wait for another thread registers here, and is told in the child, before any other Python
code runs there, to answer everything that is still outstanding.
"""

from __future__ import annotations

import os
from typing import Protocol
from weakref import WeakSet

from bridge.threads.here import here


class LeftBehind(Protocol):
    """Something that owns waiting callers."""

    def after_fork_in_child(self) -> None:
        """Answer every waiting caller with an error; be usable again if that makes sense in the child."""


_registered: WeakSet[LeftBehind] = WeakSet()


def tell_after_fork(owner: LeftBehind) -> None:
    """Have `owner.after_fork_in_child()` called in every child forked from now on, for as long as `owner` lives."""
    _registered.add(owner)


def _in_child() -> None:
    here.worker = here.host = None
    for owner in list(_registered):
        owner.after_fork_in_child()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)

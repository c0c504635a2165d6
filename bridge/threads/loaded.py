"""What the program has imported, for code that must not import it in order to ask.

In: the name of a module, and of something in it. Out: that thing, or None. `sys.modules` also holds modules that another
thread is importing at this moment: they are there and lack what they have not yet defined. So nothing in bridge takes
a module out of `sys.modules` and expects anything of it; it asks for one thing here.
"""

from __future__ import annotations

import sys
from typing import Any

_modules = sys.modules


def from_loaded(module: str, name: str) -> Any:
    """`from module import name`, or None if the module is not loaded, or has no such name (yet)."""
    return getattr(_modules.get(module), name, None)


def trio_runs_here() -> bool:
    """Does the calling thread run trio, in whatever step?"""
    in_trio_run = getattr(_modules.get("trio.lowlevel"), "in_trio_run", None)
    return in_trio_run is not None and in_trio_run()


def trio_task_runs_here() -> bool:
    """Does the calling thread execute a trio task? If trio is a guest of an asyncio loop, that is not always so."""
    in_trio_task = getattr(_modules.get("trio.lowlevel"), "in_trio_task", None)
    return in_trio_task is not None and in_trio_task()

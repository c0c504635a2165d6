"""What makes a worker the child of its parent as multiprocessing understands it, and as `ProcessPoolExecutor` has it.

In: the first frame (`launch._preparation`). Out: `multiprocessing` and `sys.argv` as they would be after its own start.
"""

from __future__ import annotations

import multiprocessing
import pickle
import sys
from multiprocessing import process, resource_tracker
from typing import Any

from bridge.threads import importing


def prepare(payload: memoryview, lifeline: int) -> None:
    """Called once, before anything of the program is imported. `lifeline` is readable when the parent has ended."""
    parent: dict[str, Any] = pickle.loads(payload)
    importing.nested = parent["nested"]
    sys.argv = parent["argv"]
    here: Any = process.current_process()
    here.name = parent["name"]
    here.authkey = parent["authkey"]
    process.ORIGINAL_DIR = parent["folder"] or None  # type: ignore[attr-defined]
    name, pid = parent["parent"]
    process._parent_process = process._ParentProcess(name, pid, lifeline)  # type: ignore[attr-defined]
    if parent["method"] in multiprocessing.get_all_start_methods():
        multiprocessing.set_start_method(parent["method"])
    if parent["tracker"] is not None:
        resource_tracker._resource_tracker._fd = parent["tracker"]  # type: ignore[attr-defined]

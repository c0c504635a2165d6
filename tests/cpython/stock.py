"""CPython's tests of executors, wherever the running Python has them, and its test scripts, made to use bridge's."""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any


def stock(module: str) -> Any:
    """A module of CPython's package of tests; older Pythons have one module with everything in it."""
    whole = importlib.import_module("test.test_concurrent_futures")
    return importlib.import_module(f"{whole.__name__}.{module}") if hasattr(whole, "__path__") else whole


def run_on_bridge(option: str, script: str) -> Any:
    """In place of `assert_python_ok`: the script imports its executor from bridge."""
    from test.support.script_helper import assert_python_ok

    script = script.replace("from concurrent.futures import", "from bridge import")
    script = script.replace("ThreadPoolExecutor", "ThreadExecutor")
    return assert_python_ok(option, script, PYTHONPATH=os.pathsep.join(sys.path))

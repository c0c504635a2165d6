"""bridge: event loop, threads and processes made into one program. Start reading at `bridge.run` and `bridge.to_thread`.

Names are loaded when they are first used, so that a program (or a worker process) pays for what it uses.

PYTEST_DONT_REWRITE, as pytest would like to do with what has a plugin in it, and complain if it was loaded before pytest.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from bridge.threads.program_end import too_late

if TYPE_CHECKING:
    from bridge.diagnostics.events import Event as Event
    from bridge.diagnostics.events import on_event as on_event
    from bridge.diagnostics.formatting import JsonFormatter as JsonFormatter
    from bridge.diagnostics.formatting import LineFormatter as LineFormatter
    from bridge.errors import BridgeError as BridgeError
    from bridge.errors import ExecutorClosed as ExecutorClosed
    from bridge.errors import LoopClosed as LoopClosed
    from bridge.errors import OffloadTimeout as OffloadTimeout
    from bridge.errors import UnknownLane as UnknownLane
    from bridge.errors import WorkerDied as WorkerDied
    from bridge.errors import WorkerMemoryExceeded as WorkerMemoryExceeded
    from bridge.errors import WouldDeadlock as WouldDeadlock
    from bridge.errors import WrongThread as WrongThread
    from bridge.executors.base import Executor as Executor
    from bridge.executors.foreign import ForeignExecutor as ForeignExecutor
    from bridge.executors.lanes import lanes as lanes
    from bridge.executors.process.executor import ProcessExecutor as ProcessExecutor
    from bridge.executors.statistics import ExecutorStatistics as ExecutorStatistics
    from bridge.executors.statistics import Quantiles as Quantiles
    from bridge.executors.statistics import WorkerStatistics as WorkerStatistics
    from bridge.executors.thread import ThreadExecutor as ThreadExecutor
    from bridge.loop.background import background_loop as background_loop
    from bridge.loop.event_loop import new_event_loop as new_event_loop
    from bridge.loop.runner import run as run
    from bridge.loop.watch.foreign_loops import watch as watch
    from bridge.offloading import map as map  # noqa: A004
    from bridge.offloading import offload as offload
    from bridge.offloading import stream as stream
    from bridge.offloading import to_process as to_process
    from bridge.offloading import to_thread as to_thread
    from bridge.portals import portal as portal
    from bridge.portals import syncify as syncify
    from bridge.threads.job import check_cancelled as check_cancelled
    from bridge.threads.portal import Portal as Portal

__version__ = "0.1.0"

_HOME = {
    "BridgeError": "bridge.errors",
    "Event": "bridge.diagnostics.events",
    "Executor": "bridge.executors.base",
    "ExecutorClosed": "bridge.errors",
    "ExecutorStatistics": "bridge.executors.statistics",
    "ForeignExecutor": "bridge.executors.foreign",
    "JsonFormatter": "bridge.diagnostics.formatting",
    "LineFormatter": "bridge.diagnostics.formatting",
    "LoopClosed": "bridge.errors",
    "OffloadTimeout": "bridge.errors",
    "Portal": "bridge.threads.portal",
    "ProcessExecutor": "bridge.executors.process.executor",
    "Quantiles": "bridge.executors.statistics",
    "ThreadExecutor": "bridge.executors.thread",
    "UnknownLane": "bridge.errors",
    "WorkerDied": "bridge.errors",
    "WorkerMemoryExceeded": "bridge.errors",
    "WorkerStatistics": "bridge.executors.statistics",
    "WouldDeadlock": "bridge.errors",
    "WrongThread": "bridge.errors",
    "background_loop": "bridge.loop.background",
    "check_cancelled": "bridge.threads.job",
    "lanes": "bridge.executors.lanes",
    "map": "bridge.offloading",
    "new_event_loop": "bridge.loop.event_loop",
    "on_event": "bridge.diagnostics.events",
    "offload": "bridge.offloading",
    "portal": "bridge.portals",
    "run": "bridge.loop.runner",
    "stream": "bridge.offloading",
    "syncify": "bridge.portals",
    "to_process": "bridge.offloading",
    "to_thread": "bridge.offloading",
    "watch": "bridge.loop.watch.foreign_loops",
}

__all__ = sorted(_HOME)  # noqa: PLE0605


def __getattr__(name: str) -> Any:
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module 'bridge' has no attribute {name!r}")
    with too_late(name, f"Use it earlier, or write `from bridge import {name}` at the top of the program."):
        value = globals()[name] = getattr(importlib.import_module(home), name)
        # The errors too: a finalizer may look for one at the end of the program, when nothing can be imported any more.
        errors = importlib.import_module("bridge.errors")
    globals().update({each: getattr(errors, each) for each, home in _HOME.items() if home == "bridge.errors"})
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})

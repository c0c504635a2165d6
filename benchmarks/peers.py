"""Who else is there: the loops to run on, the libraries to compare with, and what to install for those that are missing.

trio is looked for but not imported here. A process that has imported it makes every library that serves several
backends look twice before it knows which loop runs; the asyncio figures should be those of programs without trio.
"""

from __future__ import annotations

import asyncio
import os
import platform
import sys
from collections.abc import Awaitable, Callable, Coroutine
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Any

import bridge

LoopFactory = Callable[[], asyncio.AbstractEventLoop]

#: Optional peers, and how to get them.
OPTIONAL = {
    "uvloop": "pip install uvloop",
    "asgiref": "pip install asgiref",
    "trio": "pip install trio",
    "numpy": "pip install numpy",
    "pebble": "pip install pebble",
    "trio-parallel": "pip install trio-parallel",
    "aiomultiprocess": "pip install aiomultiprocess",
    "uvicorn": "pip install uvicorn",
    "httptools": "pip install httptools",
}


def is_there(name: str) -> bool:
    """Can this peer be imported?"""
    return find_spec(name.replace("-", "_")) is not None


def missing(names: tuple[str, ...]) -> dict[str, str]:
    """Those of the optional peers `names` that are not installed, each with the command that installs it."""
    return {name: OPTIONAL[name] for name in names if not is_there(name)}


def loop_factories() -> dict[str, LoopFactory]:
    """The asyncio loops by the name that the tables give them: bridge's own, the stock one, uvloop."""
    factories: dict[str, LoopFactory] = {"bridge": bridge.new_event_loop, "asyncio": asyncio.new_event_loop}
    if is_there("uvloop"):
        import uvloop

        factories["uvloop"] = uvloop.new_event_loop
    return factories


def run_with_bridge(factory: LoopFactory, workload: Callable[[], Awaitable[float]]) -> float:
    """One run on a fresh loop, ended by bridge, so that its threads end with it."""
    return bridge.run(workload, loop_factory=factory, debug=False)


def run_without_bridge(factory: LoopFactory, workload: Callable[[], Coroutine[Any, Any, float]]) -> float:
    """One run on a fresh loop as the standard library does it."""
    with asyncio.Runner(loop_factory=factory, debug=False) as runner:
        return runner.run(workload())


def run_with_bridge_on_trio(workload: Callable[[], Awaitable[float]]) -> float:
    """One run on trio, ended by bridge."""
    return bridge.run(workload, backend="trio")


def run_on_trio(workload: Callable[[], Awaitable[float]]) -> float:
    """One run on trio."""
    import trio

    return trio.run(workload)


def environment(core: int | None, turns: bool | None, rounds: int, names: tuple[str, ...]) -> dict[str, Any]:
    """What the figures depend on, the versions of the optional peers `names` among it."""
    return {
        "python": platform.python_version(),
        "implementation": platform.python_implementation(),
        "system": f"{platform.system()} {platform.machine()}",
        "core": core,
        "turns": turns,
        "cores": os.cpu_count(),
        "rounds": rounds,
        "switch_interval": sys.getswitchinterval(),
        "versions": {name: found for name in ("anyio", "loky", *names) if (found := _version(name)) is not None},
    }


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None

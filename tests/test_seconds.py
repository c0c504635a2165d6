"""Numbers of seconds: one check wherever users pass one, and every number that it lets pass works."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from math import inf, nan
from typing import Any

import pytest

import bridge
from tests.conftest import LOOPS, PATIENCE

needs_processes = pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX")

#: Longer than `threading` can wait, and than any loop can.
LONG = [1e10, 1e300, inf]


async def nothing() -> None: ...


async def use_a_thread() -> int:
    return await bridge.to_thread(int, "5")


def close(kind: Callable[..., Any], timeout: Any) -> None:
    executor = kind(1)
    try:
        executor.close_within(timeout)
    finally:
        executor.shutdown()


def foreign(workers: int) -> Any:
    from concurrent.futures import ThreadPoolExecutor

    return bridge.ForeignExecutor(ThreadPoolExecutor(workers), owns=True)


PLACES: dict[str, Callable[[Any], object]] = {
    "bridge.run": lambda value: bridge.run(nothing, shutdown_timeout=value),
    "bridge.run on trio": lambda value: bridge.run(nothing, shutdown_timeout=value, backend="trio"),
    "background_loop": lambda value: bridge.background_loop(shutdown_timeout=value),
    "ThreadExecutor": lambda value: bridge.ThreadExecutor(1, idle_timeout=value),
    "ThreadExecutor's queue": lambda value: bridge.ThreadExecutor(1, queue_limit=value),
    "ThreadExecutor.close_within": partial(close, bridge.ThreadExecutor),
    "ForeignExecutor.close_within": partial(close, foreign),
    "offload": lambda value: bridge.offload(timeout=value),
    "watch": lambda value: bridge.watch(threshold=value),
}
if sys.platform != "win32":
    PLACES |= {
        "ProcessExecutor's idle_timeout": lambda value: bridge.ProcessExecutor(1, idle_timeout=value),
        "ProcessExecutor's grace": lambda value: bridge.ProcessExecutor(1, grace=value),
        "ProcessExecutor's queue": lambda value: bridge.ProcessExecutor(1, queue_limit=value),
        "ProcessExecutor.close_within": partial(close, bridge.ProcessExecutor),
    }


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("value", [nan, -1.0, -inf])
def test_what_is_no_time_to_wait_is_refused_everywhere(place: str, value: float) -> None:
    with pytest.raises(ValueError, match=r"is in seconds and .*, so it cannot be .*: write "):
        PLACES[place](value)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("value", ["5", True, [1]])
def test_what_is_no_number_is_refused_everywhere(place: str, value: Any) -> None:
    with pytest.raises(TypeError, match=r"is in seconds, not .*: write "):
        PLACES[place](value)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("value", LONG)
def test_a_long_time_is_taken_everywhere(place: str, value: float) -> None:
    PLACES[place](value)


# -- and it works --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", LONG)
@pytest.mark.parametrize("loop", LOOPS)
def test_a_run_with_a_long_shutdown_timeout_ends_when_its_work_does(loop: str, value: float) -> None:
    backend, options = LOOPS[loop]
    executors = {"lane": bridge.ThreadExecutor(1)}
    if backend == "trio":
        assert bridge.run(use_a_thread, backend="trio", shutdown_timeout=value, executors=executors) == 5
    else:
        factory = options.get("loop_factory")
        assert bridge.run(use_a_thread, loop_factory=factory, shutdown_timeout=value, executors=executors) == 5


@pytest.mark.parametrize("value", LONG)
def test_a_background_loop_with_a_long_shutdown_timeout_waits_for_its_calls(
    loop_factory: Callable[[], Any] | None, value: float
) -> None:
    with bridge.background_loop(loop_factory=loop_factory, shutdown_timeout=value) as portal:
        future = portal.run_coroutine_threadsafe(use_a_thread())
    assert future.result(PATIENCE) == 5


@pytest.mark.parametrize("value", LONG)
def test_threads_may_stay_for_a_long_time(value: float) -> None:
    with bridge.ThreadExecutor(1, idle_timeout=value) as executor:
        assert executor.submit(int, "5").result(PATIENCE) == 5
        executor.close_within(value)


@needs_processes
@pytest.mark.parametrize("value", LONG)
def test_processes_may_stay_for_a_long_time(value: float) -> None:
    with bridge.ProcessExecutor(1, idle_timeout=value, grace=value) as executor:
        assert executor.submit(int, "5").result(PATIENCE) == 5
        executor.close_within(value)


@pytest.mark.parametrize("value", LONG)
@pytest.mark.parametrize("loop", LOOPS)
def test_a_function_may_take_a_long_time(loop: str, value: float) -> None:
    backend, options = LOOPS[loop]
    offloaded = bridge.offload(timeout=value)(int)
    if backend == "trio":
        assert bridge.run(offloaded, "5", backend="trio") == 5
    else:
        assert bridge.run(offloaded, "5", loop_factory=options.get("loop_factory")) == 5

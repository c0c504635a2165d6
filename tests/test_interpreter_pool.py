"""InterpreterPoolExecutor (Python 3.14 on) through ForeignExecutor: threads of this process, each with an interpreter."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import BrokenExecutor, Executor
from typing import Any

import anyio
import pytest

import bridge
from tests.conftest import PATIENCE

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(sys.version_info < (3, 14), reason="Python has InterpreterPoolExecutor from 3.14 on"),
]


def _interpreters(max_workers: int, **options: Any) -> Executor:
    import concurrent.futures

    pool: Executor = concurrent.futures.InterpreterPoolExecutor(max_workers, **options)
    return pool


@pytest.fixture
def pool() -> Iterator[Executor]:
    with _interpreters(2) as pool:
        yield pool


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """A function in an interpreter waits with `os.read(reader, 1)`: it has no other way to this process."""
    reader, writer = os.pipe()
    yield reader, writer
    os.close(reader)
    os.close(writer)


async def _until(condition: Callable[[], object]) -> None:
    with anyio.fail_after(PATIENCE):
        while not condition():
            await anyio.sleep(0.001)


async def test_functions_run_in_another_interpreter_and_return_or_raise(pool: Executor) -> None:
    async with bridge.ForeignExecutor(pool) as executor:
        assert await executor.run(math.sqrt, 16) == 4.0
        assert await executor.run(eval, "__import__('sys').modules.get('pytest')") is None
        with pytest.raises(ValueError, match="nonnegative"):
            await executor.run(math.sqrt, -1)
        assert executor.submit(math.sqrt, 9).result(PATIENCE) == 3.0


async def test_it_is_a_lane_for_offload_and_map(pool: Executor) -> None:
    async with bridge.lanes(interpreters=bridge.ForeignExecutor(pool)):
        assert await bridge.offload(to="interpreters")(math.sqrt)(25) == 5.0
        numbers = [number async for number in bridge.map(math.sqrt, [n * n for n in range(20)], to="interpreters")]
        assert numbers == list(range(20))


async def test_as_many_run_at_once_as_there_are_interpreters(pool: Executor, pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    async with bridge.ForeignExecutor(pool) as executor, anyio.create_task_group() as group:
        for _ in range(3):
            group.start_soon(executor.run, os.read, reader, 1)
        await _until(lambda: executor.statistics().running == 2)
        assert executor.statistics().queued == 1
        os.write(writer, b"123")


async def test_a_queued_function_is_withdrawn_and_a_running_one_waited_for(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    ended = []

    async def read(scope: anyio.CancelScope) -> None:
        with scope:
            try:
                await executor.run(os.read, reader, 1)
            finally:
                ended.append(scope)

    async with bridge.ForeignExecutor(_interpreters(1), owns=True) as executor, anyio.create_task_group() as group:
        running, queued = anyio.CancelScope(), anyio.CancelScope()
        group.start_soon(read, running)
        await _until(lambda: executor.statistics().running)
        group.start_soon(read, queued)
        await _until(lambda: executor.statistics().queued)
        running.cancel()
        queued.cancel()
        await _until(lambda: ended)
        assert ended == [queued]
        os.write(writer, b"x")
    assert ended == [queued, running]
    assert executor.statistics().cancelled == 1


async def test_there_is_no_way_back_to_the_loop(pool: Executor) -> None:
    async with bridge.ForeignExecutor(pool) as executor:
        with pytest.raises(RuntimeError, match=r"bridge\.portal\(\) was called in a thread"):
            await executor.run(exec, f"import sys; sys.path[:] = {sys.path!r}; import bridge; bridge.portal()")
        with pytest.raises(TypeError, match="cannot stream"):
            executor.stream(range, 3)


async def test_interpreters_that_cannot_be_initialised_fail_each_call(caplog: pytest.LogCaptureFixture) -> None:
    executor = bridge.ForeignExecutor(_interpreters(1, initializer=math.sqrt, initargs=(-1,)), owns=True)
    async with executor:
        for _ in range(2):
            with pytest.raises(BrokenExecutor):
                await executor.run(math.sqrt, 16)

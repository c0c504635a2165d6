"""asyncio's call graph (Python 3.14 on): where a task awaits bridge, and for which task the loop runs a portal call."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

import bridge
from tests.conftest import PATIENCE, Gate

pytestmark = pytest.mark.skipif(sys.version_info < (3, 14), reason="asyncio has a call graph from Python 3.14 on")

LoopFactory = Callable[[], asyncio.AbstractEventLoop] | None

thread = pytest.param(bridge.to_thread, id="thread")
process = pytest.param(
    bridge.to_process,
    id="process",
    marks=pytest.mark.skipif(sys.platform == "win32", reason="there are no worker processes on Windows"),
)


async def _task_named(name: str) -> asyncio.Task[Any]:
    """The task of this loop which runs the function of that name."""
    async with asyncio.timeout(PATIENCE):
        while True:
            for task in asyncio.all_tasks():
                if getattr(task.get_coro(), "__name__", "") == name:
                    return task
            await asyncio.sleep(0.001)


def _functions(graph: Any) -> list[str]:
    """The functions in which a task stands, the outermost first."""
    return [entry.frame.f_code.co_name for entry in reversed(graph.call_stack)]


def _run(main: Callable[[], Awaitable[None]], loop_factory: LoopFactory) -> None:
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(main())


def test_a_job_is_what_its_task_awaits(loop_factory: LoopFactory, gate: Gate, new_gate: type[Gate]) -> None:
    begun = new_gate()

    def function() -> None:
        begun.open()
        gate.wait()

    async def asking() -> None:
        await bridge.to_thread(function)

    async def main() -> None:
        async with asyncio.TaskGroup() as group:
            task = group.create_task(asking())
            try:
                await begun.reached()
                graph = asyncio.capture_call_graph(task)
                assert graph.future is task
                assert _functions(graph) == ["asking", "to_thread"]
                assert [each.future for each in graph.awaited_by] == [asyncio.current_task()]
                assert f"wait_for=<AsyncioJob of {function.__module__}." in repr(task)
            finally:
                gate.open()

    _run(main, loop_factory)


@pytest.mark.parametrize("offloaded", [thread, process])
def test_a_portal_call_is_awaited_by_the_task_that_sent_the_work(
    offloaded: Callable[..., Awaitable[None]], loop_factory: LoopFactory
) -> None:
    def function() -> None:
        bridge.portal().call(asyncio.sleep, 3600)

    async def asking() -> None:
        await offloaded(function)

    async def main() -> None:
        task = asyncio.ensure_future(asking())
        graph = asyncio.capture_call_graph(await _task_named("sleep"))
        assert [each.future for each in graph.awaited_by] == [task]
        assert _functions(graph.awaited_by[0]) == ["asking", offloaded.__name__]
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    _run(main, loop_factory)


def test_a_portal_call_of_a_thread_of_its_own_is_awaited_by_no_task(loop_factory: LoopFactory) -> None:
    async def main() -> None:
        portal = bridge.portal()
        outside = asyncio.get_running_loop().run_in_executor(None, portal.call, asyncio.sleep, 3600)
        task = await _task_named("sleep")
        assert asyncio.capture_call_graph(task).awaited_by == ()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await outside

    _run(main, loop_factory)


PROGRAM = """
import asyncio, sys, bridge

def function():
    bridge.portal().call(last)

async def last():
    print("ready", flush=True)
    await asyncio.sleep(3600)

async def asking():
    await bridge.to_thread(function)

bridge.run(asking)
"""


@pytest.mark.parametrize("command", ["ps", "pstree"])
def test_another_process_sees_it(command: str) -> None:
    program = subprocess.Popen([sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, text=True)
    try:
        assert program.stdout is not None
        assert program.stdout.readline() == "ready\n"
        look = [sys.executable, "-m", "asyncio", command, str(program.pid)]
        seen = subprocess.run(look, capture_output=True, text=True, timeout=6 * PATIENCE, check=False)
        if seen.returncode and "PermissionError" in seen.stderr:
            pytest.skip("the memory of another process may not be read here")
        assert seen.returncode == 0, seen.stderr
        if command == "ps":
            assert "to_thread -> asking" in seen.stdout
            assert "sleep -> last" in seen.stdout
        else:
            lines = [line.strip(" │├└─").split(" ")[0] for line in seen.stdout.splitlines()]
            assert lines[-5:] == ["asking", "to_thread", "(T)", "last", "sleep"]
    finally:
        program.kill()
        program.communicate()

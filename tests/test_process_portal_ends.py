"""How calls from a worker process into a loop end when the job is cancelled, the worker dies or the loop closes."""

# ruff: noqa: F811 - fixtures are imported by name
from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import anyio
import process_targets as targets
import pytest
from process_targets import Gate, Tally

import bridge
from tests.processes import (  # noqa: F401
    Attempt,
    anyio_backend,
    begun,
    gate,
    new_gate,
    no_thread_left,
    tally,
    until,
)

pytestmark = [pytest.mark.anyio, pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX")]


@pytest.fixture(scope="module")
async def executor(anyio_backend: tuple[str, dict[str, Any]]) -> AsyncIterator[bridge.ProcessExecutor]:
    """A single worker: whoever waits for the loop must lend its slot, or others would wait for ever."""
    async with bridge.ProcessExecutor(1, name="single", grace=0.2) as executor:
        yield executor


def waiting_at_home(begun: Gate, ended: list[str]) -> Callable[[], Awaitable[None]]:
    async def wait() -> None:
        begun.open(os.getpid())
        try:
            await anyio.sleep_forever()
        finally:
            ended.append("at home")

    return wait


async def test_cancelling_a_job_that_waits_for_the_loop_cancels_what_it_waits_for(begun: Gate) -> None:
    ended: list[str] = []
    query = waiting_at_home(begun, ended)

    def rollback() -> None:
        ended.append("rollback")

    def work() -> None:
        try:
            bridge.portal().call(query)
        finally:
            bridge.portal().call(rollback)

    async with bridge.ProcessExecutor(1, grace=targets.PATIENCE) as executor:
        pid = await executor.run(targets.pid_of)
        attempt = Attempt()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(attempt.make, executor.run, work)
            await begun.reached()
            attempt.scope.cancel()
        assert attempt.cancelled
        assert ended == ["at home", "rollback"]
        assert await executor.run(targets.pid_of) == pid


async def test_a_worker_that_dies_in_mid_call_disturbs_nobody(
    executor: bridge.ProcessExecutor, begun: Gate, new_gate: Callable[[str], Gate]
) -> None:
    die, ended = new_gate("die"), []
    attempt = Attempt()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(attempt.make, executor.run, targets.die_while_calling, die, waiting_at_home(begun, ended))
        await begun.reached()
        assert await executor.run(targets.call_home, abs, -5) == 5
        die.open()
    assert isinstance(attempt.error, bridge.WorkerDied)
    await until(lambda: ended == ["at home"])
    assert await executor.run(targets.call_home, abs, -6) == 6


async def test_a_worker_that_dies_while_it_iterates_or_holds_a_context_ends_both_at_home(
    executor: bridge.ProcessExecutor, tally: Tally, new_gate: Callable[[str], Gate]
) -> None:
    ended = new_gate("ended")

    def work() -> None:
        with bridge.portal().enter(targets.entered(tally)):
            for _ in bridge.portal().iterate(targets.count_up(10, ended)):
                os._exit(1)

    with pytest.raises(bridge.WorkerDied):
        await executor.run(work)
    await until(lambda: f"out-{os.getpid()}" in tally.count())
    assert int(await ended.reached()) == os.getpid()


def test_a_loop_that_closed_answers_loop_closed(begun: Gate, gate: Gate, new_gate: Callable[[str], Gate]) -> None:
    with bridge.ProcessExecutor(2) as executor:
        with bridge.background_loop() as portal:
            late = portal.call(executor.submit, targets.call_home_later, begun, gate, abs, -1)
            begun.wait()
        gate.open()
        with pytest.raises(bridge.LoopClosed):
            late.result(targets.PATIENCE)


def test_work_that_no_loop_has_sent_has_no_way_home() -> None:
    with bridge.ProcessExecutor(1) as executor:
        with pytest.raises(bridge.WrongThread):
            executor.submit(targets.call_home, abs, -1).result(targets.PATIENCE)
        assert executor.submit(abs, -1).result(targets.PATIENCE) == 1

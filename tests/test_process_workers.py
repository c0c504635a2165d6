"""How workers come and go, what the executor says about them, and what is left when it is closed."""

# ruff: noqa: F811 - fixtures are imported by name
from __future__ import annotations

import dataclasses
import os
import sys
from collections import Counter

import process_targets as targets
import pytest
from process_targets import Deliberate, Gate

import bridge
from tests.processes import (  # noqa: F401
    alive,
    anyio_backend,
    attempt_all,
    begun,
    children,
    executor,
    gate,
    no_thread_left,
    reaped,
    until,
)

pytestmark = [pytest.mark.anyio, pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX")]


# -- workers come and go -------------------------------------------------------------------------------------------------


async def test_workers_come_when_there_is_work_and_no_more_than_needed(begun: Gate, gate: Gate) -> None:
    before = children()
    async with bridge.ProcessExecutor(3) as executor:
        assert executor.statistics().workers == ()
        assert children() == before
        for _ in range(5):
            await executor.run(targets.pid_of)
        assert len(executor.statistics().workers) == 1
        busy = executor.submit(targets.announce_and_wait, begun, gate)
        pid = int(await begun.reached())
        assert await executor.run(targets.pid_of) != pid
        assert len(executor.statistics().workers) == 2
        gate.open()
        await until(busy.done)
    assert children() == before


async def test_the_worker_used_last_is_used_first(begun: Gate, gate: Gate) -> None:
    async with bridge.ProcessExecutor(2) as executor:
        busy = executor.submit(targets.announce_and_wait, begun, gate)
        first = int(await begun.reached())
        second = await executor.run(targets.pid_of)
        gate.open()
        await until(busy.done)
        assert {await executor.run(targets.pid_of) for _ in range(10)} == {first}
        assert second != first


async def test_idle_workers_leave_and_others_come_when_needed() -> None:
    async with bridge.ProcessExecutor(2, idle_timeout=0.05) as executor:
        pid = await executor.run(targets.pid_of)
        await until(lambda: not executor.statistics().workers)
        await until(lambda: reaped(pid))
        assert await executor.run(targets.pid_of) != pid


async def test_prestart_brings_up_every_worker_and_runs_the_initializer() -> None:
    async with bridge.ProcessExecutor(2, initializer=targets.initialize, initargs=("a", 1)) as executor:
        await executor.prestart()
        there = children()
        assert len(executor.statistics().workers) >= 2
        pid, initialized = await executor.run(targets.read_initialized)
        assert pid in there
        assert initialized == [("a", 1)]


async def test_a_worker_leaves_after_its_share_of_tasks() -> None:
    async with bridge.ProcessExecutor(2, max_tasks_per_child=3) as executor:
        attempts = await attempt_all(*(executor.run(targets.pid_of) for _ in range(12)))
        pids = Counter(attempt.value for attempt in attempts)
        pids.update([await executor.run(targets.pid_of) for _ in range(4)])
    assert None not in pids
    assert max(pids.values()) <= 3
    assert sum(pids.values()) == 16


async def test_env_is_set_before_the_worker_begins_and_only_there() -> None:
    async with bridge.ProcessExecutor(1, env={"BRIDGE_TEST": "for workers"}) as executor:
        assert await executor.run(os.getenv, "BRIDGE_TEST") == "for workers"
    assert "BRIDGE_TEST" not in os.environ


async def test_numeric_libraries_are_held_to_the_cores_unless_env_says_otherwise(
    executor: bridge.ProcessExecutor,
) -> None:
    held = await executor.run(os.getenv, "OMP_NUM_THREADS")
    assert held is not None
    assert 1 <= int(held) <= (os.cpu_count() or 1)
    async with bridge.ProcessExecutor(1, env={"OMP_NUM_THREADS": "7"}) as free:
        assert await free.run(os.getenv, "OMP_NUM_THREADS") == "7"


async def test_ctrl_c_is_the_parents_business(executor: bridge.ProcessExecutor) -> None:
    pid = await executor.run(targets.interrupt_oneself)
    assert alive(pid)


# -- what it says about itself -------------------------------------------------------------------------------------------


async def test_statistics_say_what_each_worker_does(begun: Gate, gate: Gate) -> None:
    async with bridge.ProcessExecutor(1, name="counted") as executor:
        await executor.run(targets.pid_of)
        with pytest.raises(Deliberate):
            await executor.run(targets.fail)
        running = executor.submit(targets.announce_and_wait, begun, gate)
        pid = int(await begun.reached())
        queued = executor.submit(targets.pid_of)
        await until(lambda: executor.statistics().queued == 1)
        busy = executor.statistics()
        gate.open()
        await until(queued.done)
        idle = executor.statistics()
    assert (busy.name, busy.max_workers) == ("counted", 1)
    assert (busy.completed, busy.failed, busy.running, busy.queued) == (1, 1, 1, 1)
    [worker] = busy.workers
    assert worker.pid == pid
    assert worker.function is not None
    assert "announce_and_wait" in worker.function
    assert 0 < worker.age < 1000
    assert worker.rss > 1_000_000
    assert worker.completed == 2
    with pytest.raises(dataclasses.FrozenInstanceError):
        worker.pid = 0
    assert running.result() == pid
    assert (idle.completed, idle.running, idle.queued) == (3, 0, 0)
    assert [(each.function, each.completed) for each in idle.workers] == [(None, 4)]


async def test_repr_says_name_and_size(executor: bridge.ProcessExecutor) -> None:
    assert "'crew'" in repr(executor)
    assert "2" in repr(executor)


# -- scopes --------------------------------------------------------------------------------------------------------------


async def test_leaving_the_block_waits_for_what_was_submitted_and_ends_the_workers() -> None:
    before = children()
    async with bridge.ProcessExecutor(1) as executor:
        futures = [executor.submit(targets.echo, n) for n in range(30)]
        pid = executor.submit(targets.pid_of)
    assert [future.result(0) for future in futures] == list(range(30))
    assert reaped(pid.result(0))
    assert children() == before


async def test_leaving_by_an_exception_withdraws_the_queue_and_ends_what_runs(begun: Gate) -> None:
    with pytest.raises(KeyError):  # noqa: PT012 - leaving the block is what is tested
        async with bridge.ProcessExecutor(1, grace=0.05) as executor:
            running = executor.submit(targets.sleep_for_ever, begun)
            queued = executor.submit(targets.pid_of)
            pid = int(await begun.reached())
            raise KeyError
    assert queued.cancelled()
    assert running.done()
    assert reaped(pid)


async def test_a_closed_executor_takes_no_more_work() -> None:
    async with bridge.ProcessExecutor(1, name="was here") as executor:
        await executor.run(targets.pid_of)
    with pytest.raises(bridge.ExecutorClosed, match="was here"):
        await executor.run(targets.pid_of)
    with pytest.raises(bridge.ExecutorClosed):
        executor.submit(targets.pid_of)


async def test_an_executor_that_was_never_used_closes_at_once() -> None:
    async with bridge.ProcessExecutor(2):
        pass
    bridge.ProcessExecutor(2).shutdown()


async def test_parameters_that_make_no_sense_are_refused() -> None:
    for workers in ("4", 1.5, True):
        with pytest.raises(TypeError):
            bridge.ProcessExecutor(workers)  # type: ignore[arg-type]
    for wrong in (
        {"max_workers": 0},
        {"idle_timeout": -1},
        {"grace": -1},
        {"max_tasks_per_child": 0},
        {"memory_limit": 0},
    ):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            bridge.ProcessExecutor(**wrong)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        bridge.ProcessExecutor(1, initializer="not a function")  # type: ignore[arg-type]

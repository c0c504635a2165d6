"""What an executor says about itself, and that every function is in exactly one of its counts."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import anyio
import pytest

import bridge
from bridge.executors.statistics import Quantiles
from tests.conftest import PATIENCE, Gate

pytestmark = pytest.mark.anyio


async def until(condition: Callable[[], object]) -> None:
    with anyio.fail_after(PATIENCE):
        while not condition():
            await anyio.sleep(0.001)


def test_a_new_executor_has_nothing_to_report() -> None:
    with bridge.ThreadExecutor(3, name="files") as executor:
        none = Quantiles(0.0, 0.0, 0.0, 0.0)
        assert executor.statistics() == bridge.ExecutorStatistics("files", 3, 0, 0, 0, 0, 0, 0, 0, none, none)


def test_the_figures_are_frozen() -> None:
    with bridge.ThreadExecutor(1) as executor:
        statistics: Any = executor.statistics()
        with pytest.raises(dataclasses.FrozenInstanceError):
            statistics.queued = 1


async def test_queued_running_and_idle_are_seen_while_they_last(new_gate: type[Gate]) -> None:
    gate = new_gate()
    async with bridge.ThreadExecutor(2) as executor:
        futures = [executor.submit(gate.wait) for _ in range(5)]
        await until(lambda: executor.statistics().running == 2)
        assert executor.statistics().queued == 3
        assert executor.statistics().idle == 0
        gate.open()
        for future in futures:
            future.result(PATIENCE)
        await until(lambda: executor.statistics().idle == 2)
        assert executor.statistics().running == 0
        assert executor.statistics().queued == 0
        assert executor.statistics().completed == 5


async def test_values_errors_and_cancellations_are_counted_apart(new_gate: type[Gate]) -> None:
    gate = new_gate()
    async with bridge.ThreadExecutor(1) as executor:
        futures = [executor.submit(gate.wait), executor.submit(divmod, 1, 0), executor.submit(int), executor.submit(int)]
        await until(lambda: executor.statistics().running == 1)
        assert futures[2].cancel()
        with anyio.move_on_after(0.01):
            await executor.run(int)
        gate.open()
        futures[3].result(PATIENCE)
    statistics = executor.statistics()
    assert (statistics.completed, statistics.failed, statistics.cancelled) == (2, 1, 2)


async def test_cancelling_a_future_twice_counts_once(gate: Gate) -> None:
    async with bridge.ThreadExecutor(1) as executor:
        executor.submit(gate.wait)
        future = executor.submit(int)
        assert future.cancel()
        assert future.cancel()
        gate.open()
    assert executor.statistics().cancelled == 1


async def test_a_dropped_queue_is_counted_as_cancelled(gate: Gate) -> None:
    executor = bridge.ThreadExecutor(1)
    executor.submit(gate.wait)
    await until(lambda: executor.statistics().running == 1)
    futures = [executor.submit(int) for _ in range(4)]
    executor.shutdown(wait=False, cancel_futures=True)
    assert all(future.cancelled() for future in futures)
    assert executor.statistics().cancelled == 4
    gate.open()
    await executor.aclose()


async def test_a_function_that_waits_for_its_loop_is_running_and_lent(new_gate: type[Gate]) -> None:
    called, answer = new_gate(), new_gate()

    async def called_back() -> None:
        called.open()
        await answer.reached()

    async with bridge.ThreadExecutor(1) as executor, anyio.create_task_group() as tasks:
        tasks.start_soon(executor.run, lambda: bridge.portal().call(called_back))
        await called.reached()
        statistics = executor.statistics()
        assert (statistics.running, statistics.lent) == (1, 1)
        answer.open()


async def test_counts_survive_the_threads_that_made_them() -> None:
    async with bridge.ThreadExecutor(2, idle_timeout=0.005) as executor:
        for _ in range(3):
            await executor.run(int)
            with pytest.raises(ZeroDivisionError):
                await executor.run(divmod, 1, 0)
            await until(lambda: not executor._pool.workers)
        statistics = executor.statistics()
        assert (statistics.completed, statistics.failed, statistics.idle) == (3, 3, 0)


async def test_every_function_is_accounted_for_after_many_of_every_kind() -> None:
    async with bridge.ThreadExecutor(2) as executor:

        async def impatient(number: int) -> None:
            with anyio.move_on_after(0.0005 * (number % 4)):
                await executor.run(divmod, 1, number % 3)

        async def careless(number: int) -> None:
            try:
                await impatient(number)
            except ZeroDivisionError:
                pass

        async with anyio.create_task_group() as tasks:
            for number in range(200):
                tasks.start_soon(careless, number)
        futures = [executor.submit(int) for _ in range(100)]
        for future in futures[::2]:
            future.cancel()
    statistics = executor.statistics()
    never_submitted = 300 - statistics.completed - statistics.failed - statistics.cancelled
    # trio does not submit at all for a scope that is cancelled already.
    assert 0 <= never_submitted <= 50
    assert statistics.cancelled >= sum(future.cancelled() for future in futures)
    assert statistics.queued == statistics.running == 0


async def test_run_and_wait_times_are_in_seconds(new_gate: type[Gate]) -> None:
    async with bridge.ThreadExecutor(1) as executor:
        pause = new_gate()

        def slow() -> None:
            pause._event.wait(0.05)

        first, second = executor.submit(slow), executor.submit(int)
        first.result(PATIENCE)
        second.result(PATIENCE)
    statistics = executor.statistics()
    assert 0.045 <= statistics.run_time.max < PATIENCE
    assert 0.04 <= statistics.queue_wait.max < PATIENCE
    assert 0 <= statistics.run_time.p50 <= statistics.run_time.p90 <= statistics.run_time.p99 <= statistics.run_time.max


def test_quantiles_are_taken_from_the_values_that_were_seen() -> None:
    assert Quantiles.of([]) == Quantiles(0.0, 0.0, 0.0, 0.0)
    assert Quantiles.of([3.0]) == Quantiles(3.0, 3.0, 3.0, 3.0)
    assert Quantiles.of([float(n) for n in range(101)]) == Quantiles(50.0, 90.0, 99.0, 100.0)
    assert Quantiles.of([2.0, 1.0]).max == 2.0


async def test_only_the_latest_jobs_are_remembered() -> None:
    async with bridge.ThreadExecutor(1) as executor:
        async for _ in executor.amap(int, (str(n) for n in range(1500)), in_flight=100):
            pass
        assert len(executor._pool.samples) == 1024
        assert executor.statistics().completed == 1500

"""Slot lending: a function that waits for its loop is not counted among the `max_workers` that run."""

from __future__ import annotations

import random
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import anyio
import pytest

import bridge
from tests.conftest import PATIENCE, Gate

pytestmark = pytest.mark.anyio


class Running:
    """Counts the functions that run just now, leaving out those that wait in a portal call."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._now = 0
        self.peak = 0

    def _add(self, number: int) -> None:
        with self._lock:
            self._now += number
            self.peak = max(self.peak, self._now)

    @contextmanager
    def counted(self) -> Iterator[None]:
        self._add(1)
        try:
            yield
        finally:
            self._add(-1)

    def call(self, fn: Any, *args: Any) -> Any:
        """`portal.call`, not counted meanwhile."""
        self._add(-1)
        try:
            return bridge.portal().call(fn, *args)
        finally:
            self._add(1)


def descend(executor: bridge.ThreadExecutor, running: Running, depth: int) -> int:
    """loop -> worker -> loop -> worker -> ...: the number of workers in the chain."""
    with running.counted():
        if depth == 1:
            return 1
        deeper: int = running.call(executor.run, descend, executor, running, depth - 1)
        return deeper + 1


async def until(condition: Any) -> None:
    with anyio.fail_after(PATIENCE):
        while not condition():
            await anyio.sleep(0.001)


@pytest.mark.parametrize("workers", [1, 2])
async def test_a_chain_deeper_than_the_executor_completes(workers: int) -> None:
    running = Running()
    async with bridge.ThreadExecutor(workers) as executor:
        with anyio.fail_after(PATIENCE):
            assert await executor.run(descend, executor, running, 12) == 12
    assert running.peak == 1


@pytest.mark.parametrize("workers", [1, 2])
async def test_many_chains_at_once_complete_with_never_more_running_than_workers(workers: int) -> None:
    running = Running()
    depths: list[int] = []

    async def one(depth: int) -> None:
        depths.append(await executor.run(descend, executor, running, depth))

    async with bridge.ThreadExecutor(workers) as executor:
        with anyio.fail_after(2 * PATIENCE):
            async with anyio.create_task_group() as tasks:
                for number in range(40):
                    tasks.start_soon(one, 1 + number % 6)
        assert executor.statistics().lent == 0
    assert sorted(depths) == sorted(1 + number % 6 for number in range(40))
    assert running.peak <= workers


async def test_more_chains_than_the_default_lane_has_threads_complete() -> None:
    async def leaf() -> int:
        return await bridge.to_thread(int, "1")

    found: list[int] = []

    async def one() -> None:
        found.append(await bridge.to_thread(lambda: bridge.portal().call(leaf)))

    with anyio.fail_after(2 * PATIENCE):
        async with anyio.create_task_group() as tasks:
            for _ in range(150):
                tasks.start_soon(one)
    assert found == [1] * 150


@pytest.mark.parametrize("workers", [1, 2])
async def test_random_chains_under_quick_switches_keep_the_limit(workers: int) -> None:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        running = Running()
        rng = random.Random(workers)
        depths = [rng.randint(1, 5) for _ in range(60)]
        found: list[int] = []

        async def one(depth: int, delay: float) -> None:
            await anyio.sleep(delay)
            found.append(await executor.run(descend, executor, running, depth))

        async with bridge.ThreadExecutor(workers, idle_timeout=0.001) as executor:
            with anyio.fail_after(3 * PATIENCE):
                async with anyio.create_task_group() as tasks:
                    for depth in depths:
                        tasks.start_soon(one, depth, rng.random() * 0.02)
        assert sorted(found) == sorted(depths)
        assert running.peak <= workers
    finally:
        sys.setswitchinterval(before)


async def test_an_error_goes_up_the_whole_chain_and_no_slot_is_lost() -> None:
    def fail(depth: int) -> None:
        if depth == 0:
            raise LookupError("at the bottom")
        bridge.portal().call(executor.run, fail, depth - 1)

    async with bridge.ThreadExecutor(1) as executor:
        for _ in range(5):
            with anyio.fail_after(PATIENCE):
                with pytest.raises(LookupError, match="at the bottom"):
                    await executor.run(fail, 5)
        assert await executor.run(int) == 0


async def test_a_function_that_comes_back_waits_until_a_slot_is_free_and_goes_before_the_queue(
    new_gate: type[Gate],
) -> None:
    called, answer, other_runs, other_may_end = new_gate(), new_gate(), new_gate(), new_gate()
    order: list[str] = []

    async def called_back() -> None:
        called.open()
        await answer.reached()

    def first() -> None:
        bridge.portal().call(called_back)
        order.append("first came back")

    def second() -> None:
        other_runs.open()
        other_may_end.wait()
        order.append("second ended")

    async with bridge.ThreadExecutor(1) as executor:
        pool = executor._pool
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(executor.run, first)
            await called.reached()
            assert executor.statistics().lent == 1
            tasks.start_soon(executor.run, second)
            await other_runs.reached()
            executor.submit(order.append, "third")
            answer.open()
            await until(lambda: pool.returners)
            assert order == []
            other_may_end.open()
    assert order == ["second ended", "first came back", "third"]


async def test_a_function_that_comes_back_takes_the_slot_that_another_lends(new_gate: type[Gate]) -> None:
    called, answer, second_runs, second_may_call, second_waits, first_is_back = (new_gate() for _ in range(6))

    async def called_back() -> None:
        called.open()
        await answer.reached()

    async def until_first_is_back() -> bool:
        second_waits.open()
        with anyio.move_on_after(PATIENCE / 2):
            await first_is_back.reached()
        return first_is_back.is_open()

    def first() -> None:
        bridge.portal().call(called_back)
        first_is_back.open()

    def second() -> bool:
        second_runs.open()
        second_may_call.wait()
        return bridge.portal().call(until_first_is_back)

    async with bridge.ThreadExecutor(1) as executor:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(executor.run, first)
            await called.reached()
            future = executor.submit(second)
            await second_runs.reached()
            answer.open()
            await until(lambda: executor._pool.returners)
            second_may_call.open()
        assert await bridge.to_thread(future.result), "the slot lay idle while somebody waited for it"


async def test_a_function_that_comes_back_takes_the_slot_of_an_idle_thread(new_gate: type[Gate]) -> None:
    called, answer = new_gate(), new_gate()

    async def called_back() -> None:
        called.open()
        await answer.reached()

    async with bridge.ThreadExecutor(1) as executor:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(executor.run, lambda: bridge.portal().call(called_back))
            await called.reached()
            await executor.run(int)
            await until(lambda: executor._pool.idle)
            answer.open()
        assert await executor.run(int) == 0
        assert executor._pool._slots == 1


async def test_surplus_threads_leave() -> None:
    async with bridge.ThreadExecutor(1, idle_timeout=0.05) as executor:
        assert await executor.run(descend, executor, Running(), 6) == 6
        assert executor.statistics().completed == 6
        await until(lambda: not executor._pool.workers)
        assert await executor.run(int) == 0
        assert len(executor._pool.workers) == 1


async def test_a_surplus_thread_is_used_again_before_another_is_made() -> None:
    async with bridge.ThreadExecutor(1) as executor:
        for _ in range(10):
            assert await executor.run(descend, executor, Running(), 4) == 4
            await until(lambda: all(worker.resting for worker in list(executor._pool.workers)))
        # Without using any again it would be 41; on a busy machine some are late.
        assert len(executor._pool.workers) <= 20


async def test_a_session_lends_its_slot_at_each_step() -> None:
    async def numbers() -> AsyncIterator[int]:
        for number in range(3):
            yield await executor.run(int, str(number))

    @asynccontextmanager
    async def manager() -> AsyncIterator[int]:
        value = await executor.run(int, "7")
        yield value
        await executor.run(int)

    def visit() -> tuple[int, list[int]]:
        portal = bridge.portal()
        with portal.enter(manager()) as value:
            return value, list(portal.iterate(numbers()))

    async with bridge.ThreadExecutor(1) as executor:
        with anyio.fail_after(PATIENCE):
            assert await executor.run(visit) == (7, [0, 1, 2])


async def test_waiting_for_a_portals_future_lends_the_slot_too() -> None:
    async def leaf() -> int:
        return await executor.run(int, "5")

    def wait() -> int:
        future = bridge.portal().run_coroutine_threadsafe(leaf())
        assert future.exception() is None
        return future.result()

    async with bridge.ThreadExecutor(1) as executor:
        with anyio.fail_after(PATIENCE):
            assert await executor.run(wait) == 5


async def test_two_executors_of_one_worker_each_can_call_each_other_through_the_loop() -> None:
    async with bridge.ThreadExecutor(1) as one, bridge.ThreadExecutor(1) as other:

        def ping(depth: int) -> int:
            if depth == 0:
                return 0
            here = one if depth % 2 else other
            deeper: int = bridge.portal().call(here.run, ping, depth - 1)
            return deeper + 1

        with anyio.fail_after(PATIENCE):
            assert await one.run(ping, 10) == 10


async def test_closing_waits_for_a_function_whose_slot_is_lent(new_gate: type[Gate]) -> None:
    called, answer = new_gate(), new_gate()
    order: list[str] = []

    async def called_back() -> None:
        called.open()
        await answer.reached()

    def first() -> None:
        bridge.portal().call(called_back)
        order.append("first")

    async with anyio.create_task_group() as tasks:
        executor = bridge.ThreadExecutor(1)
        tasks.start_soon(executor.run, first)
        await called.reached()
        executor.submit(order.append, "second").result(PATIENCE)
        tasks.start_soon(executor.aclose)
        await until(lambda: executor._pool.closing)
        answer.open()
    assert order == ["second", "first"]
    assert not executor._pool.workers

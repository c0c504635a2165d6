"""amap and stream over processes: order, bounds, and what happens to a worker's generator when the consumer leaves."""

# ruff: noqa: F811 - fixtures are imported by name
from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import aclosing
from typing import Any

import process_targets as targets
import pytest
from process_targets import Deliberate, Gate, Tally

import bridge
from tests.processes import (  # noqa: F401
    alive,
    anyio_backend,
    begun,
    collect,
    executor,
    gate,
    new_gate,
    no_thread_left,
    tally,
    until,
)

pytestmark = [pytest.mark.anyio, pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX")]


class Counted:
    """An iterator that knows how many items were taken from it."""

    def __init__(self, items: Any):
        self.items = iter(items)
        self.taken = 0

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        item = next(self.items)
        self.taken += 1
        return item


# -- amap ----------------------------------------------------------------------------------------------------------------


async def test_amap_gives_results_in_the_order_of_the_input(executor: bridge.ProcessExecutor) -> None:
    assert [x async for x in executor.amap(pow, range(300), itertools.repeat(2))] == [n * n for n in range(300)]


async def test_thousands_of_short_calls_come_back_in_order_and_once(executor: bridge.ProcessExecutor) -> None:
    assert [x async for x in executor.amap(abs, range(-5000, 0))] == list(range(5000, 0, -1))


async def test_thousands_of_short_calls_as_completed_come_back_once(executor: bridge.ProcessExecutor) -> None:
    found = [x async for x in executor.amap(abs, range(-5000, 0), ordered=False)]
    assert sorted(found) == list(range(1, 5001))


async def test_bridge_map_runs_in_the_executor_that_is_given(executor: bridge.ProcessExecutor) -> None:
    pids = {pid async for pid in bridge.map(targets.pid_of, range(5), to=executor)}
    assert os.getpid() not in pids


async def test_as_completed_the_slowest_comes_last(executor: bridge.ProcessExecutor, gate: Gate) -> None:
    found = []
    slow = itertools.repeat(gate)
    async with aclosing(executor.amap(targets.slowest_first, range(10), slow, ordered=False, in_flight=4)) as results:
        async for result in results:
            found.append(result)
            if len(found) == 9:
                gate.open()
    assert sorted(found) == list(range(10))
    assert found[-1] == 0


@pytest.mark.parametrize("ordered", [True, False])
async def test_the_input_may_be_endless_because_little_of_it_is_in_flight(
    executor: bridge.ProcessExecutor, ordered: bool
) -> None:
    source, yielded = Counted(itertools.count()), 0
    async with aclosing(executor.amap(abs, source, in_flight=6, ordered=ordered)) as results:
        async for _ in results:
            assert source.taken <= yielded + 6
            yielded += 1
            if yielded == 500:
                break
    assert source.taken <= 506


async def test_the_first_error_ends_the_iteration(executor: bridge.ProcessExecutor) -> None:
    found: list[int] = []
    with pytest.raises(ZeroDivisionError):
        await collect(executor.amap(lambda n: 10 // (5 - n), range(50)), found)
    assert found == [2, 2, 3, 5, 10]


async def test_leaving_amap_early_withdraws_what_has_not_begun(executor: bridge.ProcessExecutor, tally: Tally) -> None:
    async with aclosing(executor.amap(targets.add_and_return, itertools.repeat(tally), itertools.count())) as results:
        async for number in results:
            if number == 20:
                break
    counted = tally.count()
    assert set(counted.values()) == {1}
    assert await executor.run(targets.echo, "still there") == "still there"
    assert tally.count() == counted


async def test_leaving_amap_early_ends_what_would_run_for_ever(executor: bridge.ProcessExecutor, begun: Gate) -> None:
    def work(number: int, begun: Gate) -> int:
        if number:
            targets.sleep_for_ever(begun)
        return number

    async with aclosing(executor.amap(work, itertools.count(), itertools.repeat(begun), in_flight=2)) as results:
        async for number in results:
            assert number == 0
            await begun.reached()
            break


# -- stream --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("in_flight", [1, 16])
async def test_stream_gives_every_item_in_order(executor: bridge.ProcessExecutor, in_flight: int) -> None:
    assert [x async for x in executor.stream(targets.numbers, 300, in_flight=in_flight)] == list(range(300))
    assert [x async for x in executor.stream(targets.numbers, 0, in_flight=in_flight)] == []


async def test_bridge_stream_takes_anything_that_returns_an_iterable(executor: bridge.ProcessExecutor) -> None:
    assert [x async for x in bridge.stream(range, 5, to=executor)] == [0, 1, 2, 3, 4]
    assert [x async for x in executor.stream(lambda: (n * n for n in range(4)))] == [0, 1, 4, 9]


async def test_the_generator_is_as_far_ahead_as_allowed_and_no_further(
    executor: bridge.ProcessExecutor, tally: Tally
) -> None:
    taken = 0
    async with aclosing(executor.stream(targets.numbers, 1000, tally, in_flight=5)) as items:
        async for _ in items:
            taken += 1
            if taken == 1:
                await until(lambda: tally.count().total() >= 5)
                await executor.run(targets.pid_of)  # time to run further ahead, had it been allowed to
            assert tally.count().total() <= taken + 6
            if taken == 60:
                break
    assert tally.count().total() <= 66


async def test_a_generator_that_waits_for_its_consumer_lends_its_worker_slot(tally: Tally) -> None:
    async with bridge.ProcessExecutor(1) as executor:
        async with aclosing(executor.stream(targets.numbers, 1000, tally, in_flight=3)) as items:
            assert await anext(items) == 0
            await until(lambda: tally.count().total() >= 3)
            assert await executor.run(targets.echo, "beside it") == "beside it"
            assert await anext(items) == 1


async def test_leaving_a_stream_closes_the_generator_in_its_worker(
    executor: bridge.ProcessExecutor, new_gate: Callable[[str], Gate]
) -> None:
    closed = new_gate("closed")
    async with aclosing(executor.stream(targets.numbers, 100_000, None, closed, in_flight=4)) as items:
        async for number in items:
            if number == 10:
                break
    assert closed.is_open()
    assert alive(int(closed.wait()))


async def test_leaving_a_stream_whose_generator_never_yields_again_does_not_hang(
    executor: bridge.ProcessExecutor, begun: Gate
) -> None:
    async with aclosing(executor.stream(targets.numbers_then, 2, targets.sleep_for_ever, begun)) as items:
        assert await anext(items) == 0
        await begun.reached()
    assert not alive(int(begun.wait()))


async def test_an_error_of_the_generator_comes_after_its_items(executor: bridge.ProcessExecutor) -> None:
    found: list[int] = []
    with pytest.raises(Deliberate):
        await collect(executor.stream(targets.numbers_then, 30, targets.fail), found)
    assert found == list(range(30))


async def test_two_streams_and_calls_at_once_do_not_mix(executor: bridge.ProcessExecutor) -> None:
    async with aclosing(executor.stream(range, 0, 200, 2)) as even, aclosing(executor.stream(range, 1, 200, 2)) as odd:
        for number in range(100):
            assert await anext(even) == 2 * number
            assert await anext(odd) == 2 * number + 1
            if number % 20 == 0:
                assert await executor.run(targets.echo, number) == number

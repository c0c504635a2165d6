"""bridge.map and Executor.amap: order, bounds, errors, and what is left when the consumer leaves."""

from __future__ import annotations

import gc
import itertools
import threading
import time
import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing
from typing import Any

import anyio
import pytest

import bridge
from tests.conftest import PATIENCE, Gate

pytestmark = pytest.mark.anyio


def double(number: int) -> int:
    return 2 * number


async def arange(*args: int) -> AsyncIterator[int]:
    for number in range(*args):
        await anyio.sleep(0)
        yield number


class Counting:
    """An endless asynchronous iterable that is no generator, so that nobody need close it."""

    def __init__(self) -> None:
        self.number = -1

    def __aiter__(self) -> Counting:
        return self

    async def __anext__(self) -> int:
        self.number += 1
        return self.number


async def until(condition: Callable[[], object]) -> None:
    with anyio.fail_after(PATIENCE):
        while not condition():
            await anyio.sleep(0.001)


async def collect(results: AsyncIterator[Any], found: list[Any]) -> None:
    async for result in results:
        found.append(result)  # noqa: PERF401 - what came before an error counts


def until_cancelled(started: Gate) -> None:
    started.open()
    give_up = time.monotonic() + PATIENCE
    while time.monotonic() < give_up:
        bridge.check_cancelled()
        time.sleep(0.001)
    raise AssertionError("nobody cancelled this function")


SOURCES: list[Any] = [lambda n: range(n), lambda n: iter(range(n)), arange]


@pytest.mark.parametrize("source", SOURCES, ids=["sequence", "iterator", "async"])
async def test_results_come_in_the_order_of_the_input(source: Callable[[int], Any]) -> None:
    assert [x async for x in bridge.map(double, source(100))] == [2 * n for n in range(100)]


async def test_ordered_results_wait_for_the_slowest_in_front(new_gate: type[Gate]) -> None:
    slow, others = new_gate(), []

    def work(number: int) -> int:
        if number == 0:
            slow.wait()
        else:
            others.append(number)
            if len(others) == 3:
                slow.open()
        return number

    async with bridge.ThreadExecutor(4) as executor:
        assert [x async for x in executor.amap(work, range(4))] == [0, 1, 2, 3]
    assert sorted(others) == [1, 2, 3]


@pytest.mark.parametrize("source", SOURCES, ids=["sequence", "iterator", "async"])
async def test_as_completed_the_slowest_comes_last(source: Callable[[int], Any], new_gate: type[Gate]) -> None:
    slow = new_gate()

    def work(number: int) -> int:
        if number == 0:
            slow.wait()
        return number

    found = []
    async with bridge.ThreadExecutor(2) as executor:
        async with aclosing(executor.amap(work, source(10), ordered=False)) as results:
            async for result in results:
                found.append(result)
                if len(found) == 9:
                    slow.open()
    assert sorted(found) == list(range(10))
    assert found[-1] == 0


@pytest.mark.parametrize("ordered", [True, False])
async def test_an_empty_input_gives_nothing(ordered: bool) -> None:
    assert [x async for x in bridge.map(double, [], ordered=ordered)] == []
    assert [x async for x in bridge.map(double, arange(0), ordered=ordered)] == []


async def test_several_inputs_are_zipped_up_to_the_shortest() -> None:
    def join(*parts: object) -> str:
        return "".join(map(str, parts))

    assert [x async for x in bridge.map(join, "abc", range(9), itertools.repeat("!"))] == ["a0!", "b1!", "c2!"]
    assert [x async for x in bridge.map(join, arange(3), "abcd", [7, 8, 9])] == ["0a7", "1b8", "2c9"]
    assert [x async for x in bridge.map(join, "abc", Counting(), [7, 8, 9])] == ["a07", "b18", "c29"]
    assert [x async for x in bridge.map(join, arange(2), "abc")] == ["0a", "1b"]


async def test_runs_in_the_lane_that_is_named_and_in_an_executor_that_is_given() -> None:
    def where(_: int) -> str:
        return threading.current_thread().name

    async with bridge.lanes(files=bridge.ThreadExecutor(1, name="files")):
        assert {x async for x in bridge.map(where, range(3), to="files")} == {"files-1"}
    async with bridge.ThreadExecutor(1, name="given") as executor:
        assert {x async for x in bridge.map(where, range(3), to=executor)} == {"given-1"}


# -- bounds --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("ordered", [False, True])
@pytest.mark.parametrize("in_flight", [1, 3, 20])
async def test_never_more_than_in_flight_between_the_input_and_the_consumer(
    asynchronous: bool, ordered: bool, in_flight: int
) -> None:
    read = taken = peak = 0

    def note() -> None:
        nonlocal peak
        peak = max(peak, read - taken)

    def numbers() -> Iterator[int]:
        nonlocal read
        for number in range(60):
            read += 1
            note()
            yield number

    async def anumbers() -> AsyncIterator[int]:
        for number in numbers():
            yield number

    source: Any = anumbers() if asynchronous else numbers()
    async with bridge.ThreadExecutor(4) as executor:
        async for _ in executor.amap(double, source, ordered=ordered, in_flight=in_flight):
            taken += 1
            if taken % 7 == 0:
                await anyio.sleep(0.002)  # a slow consumer, so that results pile up as far as they may
    assert taken == 60
    # An asynchronous source is read one item ahead, before there is room to submit it.
    assert peak <= in_flight + asynchronous
    if not asynchronous:
        assert peak == in_flight


async def test_results_that_nobody_takes_stop_the_input() -> None:
    read = 0

    def endless() -> Iterator[int]:
        nonlocal read
        for number in itertools.count():
            read = number + 1
            yield number

    async with bridge.ThreadExecutor(2) as executor:
        async with aclosing(executor.amap(double, endless(), in_flight=5)) as results:
            assert await anext(results) == 0
            await until(lambda: executor.statistics().completed == read)
            assert read <= 6


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("ordered", [False, True])
async def test_an_endless_input_is_used_as_far_as_needed(asynchronous: bool, ordered: bool) -> None:
    source: Any = arange(10**9) if asynchronous else itertools.count()
    found = []
    async with aclosing(bridge.map(double, source, in_flight=8, ordered=ordered)) as results:
        async for result in results:
            found.append(result)
            if len(found) == 50:
                break
    assert len(set(found)) == 50
    if ordered:
        assert found == [2 * n for n in range(50)]


async def test_memory_stays_constant_over_a_long_input() -> None:
    class Item:
        """Something that a weak reference can watch."""

    alive: weakref.WeakSet[Item] = weakref.WeakSet()

    def items() -> Iterator[Item]:
        for _ in range(300):
            item = Item()
            alive.add(item)
            yield item

    def same(item: Item) -> Item:
        return item

    peak = taken = 0
    async with bridge.ThreadExecutor(2) as executor:
        async for _ in executor.amap(same, items(), in_flight=4):
            taken += 1
            if taken % 50 == 0:
                gc.collect()
                peak = max(peak, len(alive))
    assert taken == 300
    assert peak <= 4 + 2 + 6  # in flight, in the workers' hands, in the frames of the generators


# -- errors --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ordered", [False, True])
async def test_an_error_of_the_function_ends_the_iteration_at_its_place(ordered: bool) -> None:
    def invert(number: int) -> float:
        return 1 / number

    found: list[float] = []
    async with bridge.ThreadExecutor(1) as executor:
        with pytest.raises(ZeroDivisionError):
            await collect(executor.amap(invert, [1, 2, 4, 0, 5], ordered=ordered), found)
        assert found == [1, 0.5, 0.25]
        assert executor.statistics().running == 0
        assert executor.statistics().queued == 0


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_an_error_of_the_input_comes_after_the_results_of_what_was_read_before(asynchronous: bool) -> None:
    def numbers() -> Iterator[int]:
        yield from range(3)
        raise LookupError("the input is broken")

    async def anumbers() -> AsyncIterator[int]:
        for number in numbers():
            yield number

    found: list[int] = []
    with pytest.raises(LookupError, match="the input is broken"):
        await collect(bridge.map(double, anumbers() if asynchronous else numbers()), found)
    assert found == [0, 2, 4]


async def test_a_stop_iteration_of_the_function_does_not_look_like_the_end() -> None:
    with pytest.raises(RuntimeError, match="raised StopIteration"):
        async for _ in bridge.map(next, [iter(())]):
            pass


async def test_what_cannot_be_iterated_is_refused_at_the_first_step() -> None:
    not_iterable: Any = 5
    with pytest.raises(TypeError, match="int"):
        async for _ in bridge.map(double, not_iterable):
            pass
    with pytest.raises(TypeError, match="int"):
        async for _ in bridge.map(divmod, arange(3), not_iterable):
            pass


async def test_a_closed_executor_is_reported_by_name() -> None:
    executor = bridge.ThreadExecutor(1, name="gone")
    executor.shutdown()
    with pytest.raises(bridge.ExecutorClosed, match="'gone' was shut down"):
        async for _ in executor.amap(double, [1]):
            pass


@pytest.mark.parametrize(("in_flight", "kind"), [(0, ValueError), (-3, ValueError), (True, TypeError), (1.5, TypeError)])
async def test_an_in_flight_that_makes_no_sense_is_refused(in_flight: Any, kind: type[Exception]) -> None:
    with pytest.raises(kind, match="in_flight must be"):
        async for _ in bridge.map(double, [1], in_flight=in_flight):
            pass


# -- leaving early -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_leaving_early_withdraws_the_queue_tells_what_runs_and_waits_for_it(
    asynchronous: bool, new_gate: type[Gate]
) -> None:
    started, begun = new_gate(), []

    def work(number: int) -> None:
        begun.append(number)
        if number:
            until_cancelled(started)

    async with bridge.ThreadExecutor(1) as executor:
        source: Any = arange(100) if asynchronous else range(100)
        async with aclosing(executor.amap(work, source, in_flight=4)) as results:
            await anext(results)
            await started.reached()
        assert executor.statistics().running == 0
        assert executor.statistics().queued == 0
    assert begun == [0, 1]


async def test_cancelling_the_consumer_withdraws_and_waits(new_gate: type[Gate]) -> None:
    started = new_gate()
    async with bridge.ThreadExecutor(1) as executor:

        async def consume() -> None:
            async for _ in executor.amap(until_cancelled, itertools.repeat(started), in_flight=4):
                pass

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(consume)
            await started.reached()
            tasks.cancel_scope.cancel()
        assert executor.statistics().running == 0
        assert executor.statistics().queued == 0


async def test_leaving_early_ends_the_reading_of_an_asynchronous_input(new_gate: type[Gate]) -> None:
    ended = new_gate()

    async def slow() -> AsyncIterator[int]:
        try:
            yield 1
            await anyio.sleep_forever()
        finally:
            ended.open()

    with anyio.fail_after(PATIENCE):
        async with aclosing(bridge.map(double, slow())) as results:
            assert await anext(results) == 2
    assert ended.is_open()


async def test_leaving_while_the_input_waits_for_room_leaves_no_generator_to_the_collector() -> None:
    source = arange(1000)
    read_ahead = [0]

    async def counted() -> AsyncIterator[int]:
        async for number in source:
            read_ahead[0] += 1
            yield number

    middle = counted()
    async with aclosing(bridge.map(double, middle, in_flight=2)) as results:
        assert await anext(results) == 0
        await until(lambda: read_ahead[0] >= 3)
    await middle.aclose()  # type: ignore[attr-defined]
    await source.aclose()  # type: ignore[attr-defined]
    gc.collect()  # trio warns of generators that end up here, and warnings are errors
    await anyio.sleep(0)


async def test_results_that_come_fast_do_not_keep_the_loop_from_its_other_work() -> None:
    rounds = 0

    async def other() -> None:
        nonlocal rounds
        while True:
            rounds += 1
            await anyio.sleep(0)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(other)
        async for _ in bridge.map(double, range(500)):
            pass
        tasks.cancel_scope.cancel()
    assert rounds > 1


async def test_map_inside_a_function_that_map_runs(new_gate: type[Gate]) -> None:
    async def inner(number: int) -> int:
        return sum([x async for x in executor.amap(double, range(number))])

    def outer(number: int) -> int:
        return bridge.portal().call(inner, number)

    async with bridge.ThreadExecutor(1) as executor:
        with anyio.fail_after(PATIENCE):
            assert [x async for x in executor.amap(outer, range(5))] == [sum(2 * m for m in range(n)) for n in range(5)]


@pytest.mark.anyio
async def test_a_proxy_whose_class_cannot_be_asked_for_fails_with_its_own_error() -> None:
    with pytest.raises(ValueError, match="bad") as raised:
        [_ async for _ in bridge.map(Proxy(), [1])]
    assert any("input 0" in note for note in raised.value.__notes__)


class Proxy:
    """As werkzeug's LocalProxy outside of its context."""

    @property
    def __class__(self) -> Any:
        raise RuntimeError("working outside of context")

    def __call__(self, number: int) -> int:
        raise ValueError("bad")


# -- inputs ------------------------------------------------------------------------------------------------------------


async def test_a_map_without_inputs_is_refused() -> None:
    async with bridge.ThreadExecutor(1) as executor:
        for use in (bridge.map, executor.amap):
            with pytest.raises(TypeError, match=r"needs inputs: write bridge\.map\(fn, inputs\)"):
                use(str)


@pytest.mark.parametrize("nonsense", [5, None, print])
async def test_an_input_that_cannot_be_iterated_is_refused(nonsense: Any) -> None:
    async with bridge.ThreadExecutor(1) as executor:
        for use in (bridge.map, executor.amap):
            with pytest.raises(TypeError, match=r"needs iterables of inputs, not .*functools\.partial"):
                use(str, [1], nonsense)


async def test_inputs_may_be_a_sequence_of_the_old_kind() -> None:
    class Old:
        def __getitem__(self, index: int) -> int:
            return [1, 2][index]

    assert [text async for text in bridge.map(str, Old())] == ["1", "2"]  # type: ignore[call-overload]

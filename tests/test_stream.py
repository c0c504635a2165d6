"""bridge.stream: a synchronous generator in one worker thread, consumed on the loop, never far ahead."""

from __future__ import annotations

import asyncio
import contextvars
import itertools
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing
from typing import Any

import anyio
import pytest

import bridge
from bridge.executors.mailbox import Mailbox
from bridge.loop.hosts import current_host
from tests.conftest import PATIENCE, Gate, within


async def until(condition: Callable[[], object]) -> None:
    with anyio.fail_after(PATIENCE):
        while not condition():
            await anyio.sleep(0.001)


async def collect(items: AsyncIterator[Any], found: list[Any]) -> None:
    async for item in items:
        found.append(item)  # noqa: PERF401 - what came before an error counts


class Watched:
    """A generator function that notes how far it is, in which threads, and how it ended."""

    def __init__(self, length: int | None = None):
        self.length = length
        self.made = 0
        self.threads: set[int] = set()
        self.ended = Gate()
        self.ended_in = 0

    def __call__(self) -> Iterator[int]:
        try:
            for number in itertools.count() if self.length is None else range(self.length):
                self.threads.add(threading.get_ident())
                self.made = number + 1
                yield number
        finally:
            self.ended_in = threading.get_ident()
            self.ended.open()


@pytest.mark.anyio
async def test_items_come_in_order_and_all_of_them() -> None:
    assert [x async for x in bridge.stream(range, 1000)] == list(range(1000))
    assert [x async for x in bridge.stream(Watched(1000), in_flight=1)] == list(range(1000))
    assert [x async for x in bridge.stream(Watched(0))] == []


@pytest.mark.anyio
async def test_arguments_and_context_reach_the_generator() -> None:
    var: contextvars.ContextVar[str] = contextvars.ContextVar("var")
    var.set("from the loop")

    def parts(first: str, *, last: str) -> Iterator[str]:
        yield first
        yield var.get()
        yield last

    assert [x async for x in bridge.stream(parts, "a", last="z")] == ["a", "from the loop", "z"]


@pytest.mark.anyio
async def test_the_whole_generator_runs_in_one_thread_which_is_not_the_loops() -> None:
    watched = Watched(200)
    async with bridge.ThreadExecutor(4) as executor:
        async for _ in executor.stream(watched, in_flight=3):
            await executor.run(int)  # other work, so that other workers are about
    assert len(watched.threads) == 1
    assert watched.threads == {watched.ended_in}
    assert threading.get_ident() not in watched.threads


@pytest.mark.anyio
@pytest.mark.parametrize("in_flight", [1, 2, 16])
async def test_the_generator_is_never_further_ahead_than_in_flight(in_flight: int) -> None:
    watched = Watched(300)
    taken = 0
    async for _ in bridge.stream(watched, in_flight=in_flight):
        taken += 1
        if taken % 50 == 0:
            await anyio.sleep(0.002)  # so that the generator gets as far ahead as it may
        assert watched.made - taken <= in_flight
    assert taken == 300


@pytest.mark.anyio
async def test_a_consumer_that_takes_nothing_stops_the_generator() -> None:
    watched = Watched()
    async with bridge.ThreadExecutor(1) as executor:
        async with aclosing(executor.stream(watched, in_flight=5)) as stream:
            assert await anext(stream) == 0
            await until(lambda: executor.statistics().lent == 1)
            assert watched.made <= 6


@pytest.mark.anyio
async def test_leaving_early_closes_the_generator_in_its_own_thread() -> None:
    watched = Watched()
    async with aclosing(bridge.stream(watched, in_flight=4)) as stream:
        async for item in stream:
            if item == 10:
                break
    assert watched.ended.is_open()
    assert watched.threads == {watched.ended_in}


@pytest.mark.anyio
async def test_leaving_before_the_first_item_closes_it_too(new_gate: type[Gate]) -> None:
    watched = Watched()
    stream = bridge.stream(watched, in_flight=4)
    await stream.aclose()
    assert watched.made == 0
    async with bridge.ThreadExecutor(1) as executor:
        with anyio.CancelScope() as scope:
            scope.cancel()
            async for _ in executor.stream(watched, in_flight=4):
                pass
        assert executor.statistics().running == 0
    assert watched.ended.is_open() or watched.made == 0


@pytest.mark.anyio
async def test_a_generator_that_is_still_queued_is_withdrawn(new_gate: type[Gate]) -> None:
    watched, gate = Watched(), new_gate()
    async with bridge.ThreadExecutor(1) as executor:
        executor.submit(gate.wait)
        try:
            with anyio.move_on_after(0.01) as scope:
                async for _ in executor.stream(watched):
                    pass
            assert scope.cancelled_caught
        finally:
            gate.open()
    assert watched.made == 0


@pytest.mark.anyio
async def test_a_generator_that_blocks_is_told_that_the_consumer_has_left(new_gate: type[Gate]) -> None:
    ended = new_gate()

    def slow() -> Iterator[int]:
        try:
            yield 1
            give_up = time.monotonic() + PATIENCE
            while time.monotonic() < give_up:
                bridge.check_cancelled()
                time.sleep(0.001)
        finally:
            ended.open()

    with anyio.fail_after(PATIENCE / 2):
        async with aclosing(bridge.stream(slow)) as stream:
            assert await anext(stream) == 1
    assert ended.is_open()


@pytest.mark.anyio
async def test_an_error_comes_after_the_items_before_it() -> None:
    def broken() -> Iterator[int]:
        yield from range(20)
        raise LookupError("the disk is gone")

    found: list[int] = []
    with pytest.raises(LookupError, match="the disk is gone"):
        await collect(bridge.stream(broken, in_flight=3), found)
    assert found == list(range(20))


@pytest.mark.anyio
async def test_an_error_of_the_clean_up_on_leaving_early_is_not_lost() -> None:
    def broken() -> Iterator[int]:
        try:
            yield from itertools.count()
        finally:
            raise LookupError("could not close the file")

    with pytest.raises(LookupError, match="could not close the file"):
        async with aclosing(bridge.stream(broken, in_flight=3)) as stream:
            await anext(stream)


@pytest.mark.anyio
async def test_an_error_of_the_consumer_closes_the_generator() -> None:
    watched = Watched()
    with pytest.raises(KeyError):  # noqa: PT012 - the blocks are what is tested
        async with aclosing(bridge.stream(watched)) as stream:
            async for _ in stream:
                raise KeyError
    assert watched.ended.is_open()


@pytest.mark.anyio
async def test_what_is_not_iterable_is_a_type_error() -> None:
    not_a_generator: Any = int
    with pytest.raises(TypeError, match="not iterable"):
        async for _ in bridge.stream(not_a_generator):
            pass


async def fetch_all() -> Any:
    yield 1


async def fetch() -> None: ...


@pytest.mark.anyio
@pytest.mark.parametrize("async_fn", [fetch_all, fetch])
async def test_an_async_function_is_refused_with_the_right_line(async_fn: Any) -> None:
    with pytest.raises(TypeError, match=rf"{async_fn.__name__} is an? (async|coroutine)"):
        async for _ in bridge.stream(async_fn):
            pass


@pytest.mark.anyio
async def test_items_are_passed_on_without_being_compared() -> None:
    class Array:
        """Like numpy's: comparing gives no truth."""

        __hash__ = None  # type: ignore[assignment]

        def __eq__(self, other: object) -> bool:
            raise ValueError("the truth value of an array is ambiguous")

    def arrays() -> Iterator[Array]:
        while True:
            yield Array()

    async with aclosing(bridge.stream(arrays, in_flight=4)) as stream:
        async for _ in stream:
            break


@pytest.mark.anyio
async def test_an_end_that_arrives_while_a_leaving_consumer_clears_up_is_not_lost(new_gate: type[Gate]) -> None:
    # The worker's last message falls into the consumer's look at the mailbox, between looking and emptying.
    may_end, mailboxes = new_gate(), []
    ended = new_gate()

    class Slow(deque[Any]):
        def clear(self) -> None:
            may_end.open()
            give_up = time.monotonic() + 1.0
            while not ended.is_open() and time.monotonic() < give_up:
                time.sleep(0.001)
            time.sleep(0.01)
            super().clear()

    put = Mailbox.put

    def watch(mailbox: Mailbox, thing: Any) -> None:
        put(mailbox, thing)
        if may_end.is_open():
            ended.open()

    def slow() -> Iterator[int]:
        yield 1
        may_end.wait()

    init = Mailbox.__init__

    def make(mailbox: Mailbox, host: Any) -> None:
        init(mailbox, host)
        mailbox.arrived = Slow()
        mailboxes.append(mailbox)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Mailbox, "__init__", make)
        patch.setattr(Mailbox, "put", watch)
        stream = bridge.stream(slow)
        assert await anext(stream) == 1
        left = new_gate()

        async def leave() -> None:
            await stream.aclose()
            left.open()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(leave)
            await ended_or_nudged(mailboxes[0], left, may_end)


async def ended_or_nudged(mailbox: Mailbox, left: Gate, may_end: Gate) -> None:
    """Let a consumer that would hang go, and fail."""
    for _ in range(2000):
        if left.is_open():
            return
        await anyio.sleep(0.001)
    may_end.open()
    mailbox.host.leave()
    raise AssertionError("the consumer waits for an end that has come")


@pytest.mark.anyio
async def test_the_consumer_may_use_the_same_single_worker_while_it_iterates() -> None:
    watched = Watched(100)
    executor = bridge.ThreadExecutor(1)
    async with bridge.lanes(thread=executor):
        total = 0
        with anyio.fail_after(PATIENCE):
            async for item in executor.stream(watched, in_flight=4):
                total += await bridge.to_thread(int, str(item))
    assert total == sum(range(100))
    assert len(watched.threads) == 1


@pytest.mark.anyio
async def test_two_streams_on_one_worker_take_turns() -> None:
    found = []
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(leave_after_a_while)
        async with bridge.ThreadExecutor(1) as executor:
            async with aclosing(executor.stream(Watched(20), in_flight=2)) as one:
                async with aclosing(executor.stream(Watched(20), in_flight=2)) as other:
                    for _ in range(20):
                        found.append((await anext(one), await anext(other)))  # noqa: PERF401 - in turns
        tasks.cancel_scope.cancel()
    assert found == [(number, number) for number in range(20)]


async def leave_after_a_while() -> None:
    """Make streams that would hang end, and fail."""
    await anyio.sleep(PATIENCE / 2)
    current_host().leave()
    raise AssertionError("a stream hangs")


@pytest.mark.anyio
async def test_a_generator_may_call_into_the_loop_between_its_items() -> None:
    async def fetch(number: int) -> int:
        return await executor.run(int, str(number))

    def numbers() -> Iterator[int]:
        for number in range(10):
            yield bridge.portal().call(fetch, number)

    async with bridge.ThreadExecutor(1) as executor:
        with anyio.fail_after(PATIENCE):
            assert [x async for x in executor.stream(numbers, in_flight=2)] == list(range(10))


@pytest.mark.parametrize("in_flight", [0, -1, True, 2.5])
def test_an_in_flight_that_makes_no_sense_is_refused(in_flight: Any) -> None:
    async def main() -> None:
        with pytest.raises((TypeError, ValueError), match="in_flight must be"):
            async for _ in bridge.stream(range, 3, in_flight=in_flight):
                pass

    bridge.run(main)


def test_a_loop_that_ends_while_the_generator_waits_for_room_lets_it_go(loop_factory: Any) -> None:
    watched = Watched()
    executor = bridge.ThreadExecutor(1)
    kept: list[Any] = []

    async def main() -> None:
        stream = executor.stream(watched, in_flight=2)
        kept.append(stream)
        await anext(stream)
        await until(lambda: executor.statistics().lent == 1)

    def run() -> None:
        # Closed without a word: neither are generators shut down, nor does a runner tell bridge.
        loop = asyncio.new_event_loop() if loop_factory is None else loop_factory()
        loop.run_until_complete(main())
        loop.close()

    thread = threading.Thread(target=run)
    thread.start()
    within(thread)
    watched.ended.wait()
    assert watched.threads == {watched.ended_in}
    executor.shutdown()
    forget(kept)


def forget(streams: list[Any]) -> None:
    """Let generators go whose loop is gone: nobody can run their `finally` any more."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        streams.clear()


def test_a_run_that_ends_while_a_generator_waits_for_room_closes_it() -> None:
    watched = Watched()
    kept: list[Any] = []

    async def main() -> None:
        stream = bridge.stream(watched, in_flight=2)
        kept.append(stream)
        await anext(stream)
        await until(lambda: watched.made >= 2)

    bridge.run(main)
    watched.ended.wait()

"""Lending has a bound: waiting for a loop is no way to endless threads and processes, and nesting starves nowhere."""

from __future__ import annotations

import os
import random
import signal
import sys
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from types import CodeType
from typing import Any

import anyio
import process_targets as targets
import pytest

import bridge
from bridge.threads import lending, pool
from bridge.threads.pool import LEVEL
from tests.conftest import PATIENCE, Gate, events_of
from tests.interruptions import interrupt, where_handlers_run

pytestmark = pytest.mark.anyio

needs_processes = pytest.mark.skipif(sys.platform == "win32", reason="ProcessExecutor needs POSIX")


class Begun:
    """Counts the functions that have begun and not ended, and those among them that run; and the most of each."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.now = self.peak = self.running = self.peak_running = 0
        self.total = 0

    @contextmanager
    def counted(self) -> Iterator[None]:
        with self._lock:
            self.total += 1
            self.now += 1
            self.peak = max(self.peak, self.now)
        self._runs(1)
        try:
            yield
        finally:
            self._runs(-1)
            with self._lock:
                self.now -= 1

    def _runs(self, number: int) -> None:
        with self._lock:
            self.running += number
            self.peak_running = max(self.peak_running, self.running)

    def call(self, fn: Any, *args: Any) -> Any:
        """`portal.call`; the function does not run meanwhile."""
        self._runs(-1)
        try:
            return bridge.portal().call(fn, *args)
        finally:
            self._runs(1)


class Flood:
    """Functions that wait on the loop until `end` is called, and how many have begun."""

    def __init__(self, executor: bridge.ThreadExecutor, begun: Begun):
        self.executor = executor
        self.begun = begun
        self.ended = 0
        self._event = anyio.Event()

    def wait(self) -> None:
        with self.begun.counted():
            self.begun.call(self._event.wait)

    async def one(self) -> None:
        await self.executor.run(self.wait)
        self.ended += 1

    def end(self) -> None:
        self._event.set()


async def until(condition: Callable[[], object]) -> None:
    with anyio.fail_after(PATIENCE):
        while not condition():
            await anyio.sleep(0.001)


@asynccontextmanager
async def flooded(executor: bridge.ThreadExecutor, number: int = 200, begun: Begun | None = None) -> AsyncIterator[Flood]:
    """While as many functions wait as may, and more are queued."""
    flood = Flood(executor, begun or Begun())
    async with anyio.create_task_group() as tasks:
        for _ in range(number):
            tasks.start_soon(flood.one)
        await until(lambda: flood.begun.now == executor.max_workers + executor.max_lent)
        try:
            yield flood
        finally:
            flood.end()
    assert flood.ended == number


# -- breadth -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("workers", "lent"), [(1, 0), (1, 3), (2, 5), (4, 1)])
async def test_no_more_functions_begin_than_the_bound_says(workers: int, lent: int) -> None:
    async with bridge.ThreadExecutor(workers, max_lent=lent) as executor:
        async with flooded(executor) as flood:
            await anyio.sleep(0.05)  # time in which more would begin
            statistics = executor.statistics()
            assert (statistics.running, statistics.lent) == (workers + lent, workers + lent)
            assert statistics.queued == 200 - workers - lent
        assert flood.begun.peak == workers + lent
        assert flood.begun.peak_running <= workers
        assert executor.statistics().lent == executor.statistics().queued == 0


async def test_threads_are_bounded_by_default() -> None:
    async with bridge.ThreadExecutor(2) as executor:
        assert executor.max_lent == 64
        async with flooded(executor, 500):
            own = [each for each in threading.enumerate() if each.name.startswith(f"{executor.name}-")]
            assert len(own) <= 66 + 1
    assert bridge.ThreadExecutor(64).max_lent == 256


async def test_calls_begin_in_order_at_the_bound_too() -> None:
    order: list[int] = []

    def note(number: int) -> None:
        order.append(number)
        bridge.portal().call(anyio.sleep, 0)

    async with bridge.ThreadExecutor(1, max_lent=0) as executor:
        async with flooded(executor, 20):
            futures = [executor.submit(note, number) for number in range(100)]
        for future in futures:
            await bridge.to_thread(future.result)
    assert order == list(range(100))


async def test_a_long_queue_is_sorted_once_and_never_searched(monkeypatch: pytest.MonkeyPatch) -> None:
    sorted_jobs: list[Any] = []
    searches: list[None] = []
    depth_of, everything = lending.depth_of, lending.Backlog.__iter__

    def counted(job: Any, to: str) -> int:
        sorted_jobs.append(job)
        return depth_of(job, to)

    def searched(backlog: lending.Backlog) -> Iterator[Any]:
        searches.append(None)
        return everything(backlog)

    monkeypatch.setattr(lending, "depth_of", counted)
    monkeypatch.setattr(lending.Backlog, "__iter__", searched)
    async with bridge.ThreadExecutor(2, max_lent=2, queue_limit=None) as executor:
        async with flooded(executor, 1000):
            pass
    # A worker that takes a job while it is being sorted sees it a second time, and drops it.
    assert len(sorted_jobs) < 1500
    assert len(searches) <= 1


@pytest.mark.parametrize("max_lent", [-1, 1.5, True, "4"])
@pytest.mark.parametrize("kind", [bridge.ThreadExecutor, pytest.param(bridge.ProcessExecutor, marks=needs_processes)])
async def test_what_is_no_number_of_functions_is_refused(kind: Any, max_lent: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="max_lent"):
        kind(2, max_lent=max_lent)


# -- nesting -------------------------------------------------------------------------------------------------------------


def descend(executor: bridge.Executor, begun: Begun, depth: int) -> int:
    with begun.counted():
        if depth == 0:
            return 0
        deeper: int = begun.call(executor.run, descend, executor, begun, depth - 1)
        return deeper + 1


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("lent", [0, 3])
async def test_a_chain_of_any_depth_goes_on_from_within_the_bound(workers: int, lent: int) -> None:
    """Each level has a thread, however full the executor is; the lines of the trail are cut long before."""
    begun = Begun()
    async with bridge.ThreadExecutor(workers, max_lent=lent) as executor:
        async with anyio.create_task_group() as tasks:
            chain_may_begin, depths = anyio.Event(), list[int]()

            async def below() -> int:
                await chain_may_begin.wait()
                return await executor.run(descend, executor, begun, 160)

            def top() -> int:
                with begun.counted():
                    depth: int = begun.call(below)
                    return depth

            async def chain() -> None:
                depths.append(await executor.run(top))

            tasks.start_soon(chain)
            await until(lambda: begun.now == 1)
            async with flooded(executor, 300, begun):
                chain_may_begin.set()
                await until(lambda: depths)
            assert depths == [160]
    assert begun.peak <= workers + lent + 161
    assert begun.peak_running <= workers


async def test_a_chain_that_waits_in_the_queue_completes_when_it_is_its_turn() -> None:
    begun = Begun()
    async with bridge.ThreadExecutor(2, max_lent=2) as executor:
        async with flooded(executor, 100, begun):
            future = executor.submit(descend, executor, begun, 25)
        assert await bridge.to_thread(future.result) == 25


async def test_what_a_call_sends_many_of_is_bounded_too() -> None:
    """One function whose call sends 300 others, each of which sends another, all of which wait."""
    begun = Begun()

    def leaf() -> int:
        with begun.counted():
            begun.call(anyio.sleep, 0.001)
            return 1

    def branch() -> int:
        with begun.counted():
            done: int = begun.call(executor.run, leaf)
            return done

    async def spread() -> int:
        done: list[int] = []

        async def one() -> None:
            done.append(await executor.run(branch))

        async with anyio.create_task_group() as tasks:
            for _ in range(300):
                tasks.start_soon(one)
        return sum(done)

    def root() -> int:
        with begun.counted():
            done: int = begun.call(spread)
            return done

    async with bridge.ThreadExecutor(2, max_lent=4) as executor:
        with anyio.fail_after(3 * PATIENCE):
            assert await executor.run(root) == 300
    assert begun.peak <= 2 + 4 + 2 * LEVEL


async def test_what_sends_itself_off_again_does_not_become_nested_for_ever() -> None:
    """A job that leaves its successor behind on the loop and ends: the last one's flood is bounded as any other."""
    begun = Begun()
    over = anyio.Event()
    depths: list[int] = []

    async def again(left: int, before: threading.Thread) -> None:
        while not ended[left + 1].is_open():
            await anyio.sleep(0.001)
        if left:
            await executor.run(link, left - 1)
            return
        async with flooded(executor, 100, begun):
            depths.append(begun.now)
        over.set()

    def link(left: int) -> None:
        bridge.portal().run_coroutine_threadsafe(again(left, threading.current_thread()))
        ended[left + 1].open()

    ended = {number: Gate() for number in range(1, 60)}
    async with bridge.ThreadExecutor(2, max_lent=2) as executor:
        await executor.run(link, 50)
        with anyio.fail_after(2 * PATIENCE):
            await over.wait()
        # The last link may not quite have ended, as the pool sees it, when its successor is sent.
        assert begun.peak <= 2 + 2 + LEVEL
    assert depths


# -- all the ways in which a function can wait for what it has sent ------------------------------------------------------


class Ways:
    """Functions that wait for `executor` to run something, each in its own way; each returns 7."""

    def __init__(self, executor: bridge.ThreadExecutor):
        self.executor = executor
        self.other = bridge.ThreadExecutor(1, max_lent=0)

    async def work(self) -> int:
        return await self.executor.run(int, "7")

    def call(self) -> int:
        return bridge.portal().call(self.work)

    def executor_itself(self) -> int:
        return bridge.portal().call(self.executor.run, int, "7")

    def future(self) -> int:
        return bridge.portal().run_coroutine_threadsafe(self.work()).result()

    def future_waited_for_later(self) -> int:
        """The work is sent before its function waits for anything."""
        sent = Gate()

        async def work() -> int:
            future = self.executor.submit(int, "7")
            sent.open()
            while not future.done():
                await anyio.sleep(0.001)
            return future.result()

        future = bridge.portal().run_coroutine_threadsafe(work())
        sent.wait()
        return future.result()

    def scope(self) -> int:
        with bridge.portal() as portal:
            future = portal.run_coroutine_threadsafe(self.work())
        return future.result()

    def enter(self) -> int:
        @asynccontextmanager
        async def manager() -> AsyncIterator[int]:
            value = await self.work()
            yield value
            await self.work()

        with bridge.portal().enter(manager()) as value:
            return value

    def iterate(self) -> int:
        async def numbers() -> AsyncIterator[int]:
            for _ in range(7):
                yield await self.work() // 7

        return sum(bridge.portal().iterate(numbers()))

    def tasks(self) -> int:
        async def many() -> int:
            found: list[int] = []

            async def one() -> None:
                found.append(await self.work())

            async with anyio.create_task_group() as tasks:
                for _ in range(50):
                    tasks.start_soon(one)
            return sum(found) // 50

        return bridge.portal().call(many)

    def submitted(self) -> int:
        """A call of `submit` in a worker, whose future the loop waits for."""
        future = self.executor.submit(int, "7")

        async def wait() -> int:
            while not future.done():
                await anyio.sleep(0.001)
            return future.result()

        return bridge.portal().call(wait)

    def mapped(self) -> int:
        async def count() -> int:
            return sum([each async for each in self.executor.amap(int, ["1"] * 7)])

        return bridge.portal().call(count)

    def streamed(self) -> int:
        """A stream that waits for its consumer, who waits for the same executor."""

        async def consume() -> int:
            total = 0
            async for number in self.executor.stream(range, 100, in_flight=2):
                total += await self.executor.run(min, number, 1)
            return total // 14

        return bridge.portal().call(consume)

    def through_another_executor(self) -> int:
        return bridge.portal().call(self.other.run, self.call)

    def through_the_default_threads(self) -> int:
        return bridge.portal().call(bridge.to_thread, self.call)

    @bridge.syncify
    async def _syncified(self) -> int:
        return await self.work()

    def syncified(self) -> int:
        return self._syncified()


WAYS = [name for name, each in vars(Ways).items() if callable(each) and not name.startswith("_") and name != "work"]


@pytest.mark.parametrize("way", WAYS)
async def test_what_a_function_waits_for_begins_however_many_others_wait(way: str) -> None:
    """All that may have begun do the same, so that none can count on the others; more of them are queued."""
    async with bridge.ThreadExecutor(2, max_lent=1) as executor:
        ways = Ways(executor)
        found: list[int] = []

        async def one() -> None:
            found.append(await executor.run(getattr(ways, way)))

        async with ways.other:
            with anyio.fail_after(3 * PATIENCE):
                async with anyio.create_task_group() as tasks:
                    for _ in range(30):
                        tasks.start_soon(one)
        assert found == [7] * 30
        statistics = executor.statistics()
        assert statistics.lent == statistics.queued == statistics.running == 0


async def test_many_streams_at_once_wait_for_consumers_that_need_their_executor() -> None:
    totals: list[int] = []

    async def one() -> None:
        total = 0
        async for number in executor.stream(range, 20, in_flight=2):
            total += await executor.run(int, str(number))
        totals.append(total)

    async with bridge.ThreadExecutor(1, max_lent=2) as executor:
        with anyio.fail_after(3 * PATIENCE):
            async with anyio.create_task_group() as tasks:
                for _ in range(30):
                    tasks.start_soon(one)
    assert totals == [190] * 30


# -- random trees --------------------------------------------------------------------------------------------------------


class Trees:
    """Random trees of calls over a few executors: each node calls its children in one of several ways, and counts."""

    def __init__(self, seed: int, executors: list[bridge.ThreadExecutor]):
        self.rng = random.Random(seed)
        self.executors = executors
        self.begun = {executor: Begun() for executor in executors}
        self.results: Counter[int] = Counter()
        self.deepest = 0
        self._numbers = iter(range(10**9))

    def tree(self, depth: int, breadth: int) -> tuple[Any, ...]:
        """number, executor, way, depth, children"""
        children = [self.tree(depth - 1, breadth) for _ in range(self.rng.randint(0, breadth))] if depth else []
        way = self.rng.choice(["each", "all", "futures"])
        return next(self._numbers), self.rng.choice(self.executors), way, depth, children

    async def send(self, tree: tuple[Any, ...]) -> int:
        return await tree[1].run(self.visit, tree)

    async def send_all(self, trees: list[Any]) -> int:
        found: list[int] = []

        async def one(tree: Any) -> None:
            found.append(await self.send(tree))

        async with anyio.create_task_group() as tasks:
            for tree in trees:
                tasks.start_soon(one, tree)
        return sum(found)

    def visit(self, tree: tuple[Any, ...]) -> int:
        number, executor, way, _, children = tree
        begun = self.begun[executor]
        with begun.counted():
            self.results[number] += 1
            if way == "each":
                return 1 + sum(begun.call(self.send, child) for child in children)
            if way == "all":
                return 1 + begun.call(self.send_all, children)
            portal = bridge.portal()
            futures = [portal.run_coroutine_threadsafe(self.send(child)) for child in children]
            begun._runs(-1)
            total = 1 + sum(future.result() for future in futures)
            begun._runs(1)
            return total


def size(tree: tuple[Any, ...]) -> int:
    return 1 + sum(size(child) for child in tree[4])


def height(tree: tuple[Any, ...]) -> int:
    return 1 + max((height(child) for child in tree[4]), default=0)


@pytest.mark.parametrize("seed", range(6))
async def test_random_trees_of_calls_complete_within_the_bounds(seed: int) -> None:
    rng = random.Random(seed)
    before = sys.getswitchinterval()
    sys.setswitchinterval(rng.choice([before, 1e-5]))
    executors = [
        bridge.ThreadExecutor(rng.randint(1, 3), max_lent=rng.randint(0, 4), idle_timeout=rng.choice([0.001, 10.0]))
        for _ in range(rng.randint(1, 3))
    ]
    trees = Trees(seed, executors)
    forest = [trees.tree(rng.randint(0, 6), rng.choice([1, 2, 3])) for _ in range(60)]
    try:
        with anyio.fail_after(6 * PATIENCE):
            assert await trees.send_all(forest) == sum(map(size, forest))
    finally:
        sys.setswitchinterval(before)
        for executor in executors:
            await executor.aclose()
    assert set(trees.results.values()) == {1}
    assert sum(trees.results.values()) == sum(map(size, forest))
    levels = max(map(height, forest)) - 1
    for executor, begun in trees.begun.items():
        assert begun.peak <= executor.max_workers + executor.max_lent + levels * LEVEL
        assert begun.peak_running <= executor.max_workers
        statistics = executor.statistics()
        assert statistics.completed == begun.total
        assert statistics.running == statistics.lent == statistics.queued == 0


# -- the ends of what is queued at the bound -----------------------------------------------------------------------------


async def test_a_call_that_is_cancelled_at_the_bound_never_begins() -> None:
    called: list[int] = []
    async with bridge.ThreadExecutor(1, max_lent=1) as executor:
        async with flooded(executor, 20):
            for _ in range(50):
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(executor.run, called.append, 1)
                    await until(lambda: executor.statistics().queued == 19)
                    tasks.cancel_scope.cancel()
            assert executor.statistics().cancelled == 50
            assert executor.statistics().queued == 18
    assert called == []


async def test_cancelled_calls_leave_nothing_behind_in_the_queue_at_the_bound() -> None:
    async with bridge.ThreadExecutor(1, max_lent=1) as executor:
        async with flooded(executor, 2):
            futures = [executor.submit(int) for _ in range(100)]
            for future in futures:
                assert future.cancel()
            assert not executor._pool.jobs


async def test_what_is_queued_at_the_bound_can_be_withdrawn_at_shutdown() -> None:
    called: list[int] = []
    async with bridge.ThreadExecutor(1, max_lent=1) as executor:
        async with flooded(executor, 2):
            futures = [executor.submit(called.append, number) for number in range(50)]
            executor.shutdown(wait=False, cancel_futures=True)
        assert all(future.cancelled() for future in futures)
        assert executor.statistics().queued == 0
    assert called == []


async def test_closing_at_the_bound_does_all_that_was_accepted() -> None:
    begun = Begun()
    executor = bridge.ThreadExecutor(2, max_lent=1)
    async with anyio.create_task_group() as tasks:
        flood = Flood(executor, begun)
        for _ in range(50):
            tasks.start_soon(flood.one)
        await until(lambda: begun.now == 3)
        tasks.start_soon(executor.aclose)
        await until(lambda: executor._pool.closing)
        flood.end()
    assert flood.ended == begun.total == 50
    assert begun.peak == 3
    assert not executor._pool.workers


async def test_after_the_bound_the_executor_is_as_before() -> None:
    async with bridge.ThreadExecutor(2, max_lent=2, idle_timeout=0.05) as executor:
        for _ in range(3):
            async with flooded(executor, 30):
                pass
            assert await executor.run(int, "5") == 5
        await until(lambda: not executor._pool.workers)
        assert await executor.run(int, "6") == 6
        assert not executor._pool.crowded


def test_a_submitter_that_is_interrupted_while_it_sorts_the_queue_loses_no_call() -> None:
    """Ctrl-C may come at any bytecode. The call that it interrupts may have been accepted or not; the others were."""
    done: list[int] = []
    number, position = 0, None
    with bridge.ThreadExecutor(1, max_lent=0) as executor, bridge.background_loop() as portal:
        workers = executor._pool
        while number == 0 or position is not None:
            number += 1
            waiting, held = Gate(), Gate()

            async def wait(waiting: Gate = waiting, held: Gate = held) -> None:
                waiting.open()
                await held.reached()

            async def crowd(wait: Any = wait) -> None:
                await executor.run(lambda: bridge.portal().call(wait))

            future = portal.run_coroutine_threadsafe(crowd())
            waiting.wait()
            for each in range(3):
                executor.submit(done.append, each)
            workers.queue.extend(workers.jobs)  # as if none of them had been sorted yet
            workers.backlog.lines.clear()
            position = interrupt(partial(executor.submit, done.append, 3), number, counts=handlers_run)
            held.open()
            executor.submit(int).result(PATIENCE)
            future.result(PATIENCE)
            assert done in ([0, 1, 2], [0, 1, 2, 3]), position
            done.clear()
    assert number > 30, "nothing was interrupted"


def handlers_run(code: CodeType, offset: int) -> bool:
    """True where a signal handler may run in the pool and its backlog."""
    return code.co_filename in (lending.__file__, pool.__file__) and where_handlers_run(code, offset)


# -- what is told --------------------------------------------------------------------------------------------------------


async def test_the_bound_is_reported_once_for_each_executor() -> None:
    with events_of("BRG405", "BRG401") as events:
        async with bridge.ThreadExecutor(1, name="db", max_lent=2, queue_limit=None) as executor:
            for _ in range(2):
                async with flooded(executor, 10):
                    await until(lambda: events)
        async with bridge.ThreadExecutor(1, max_lent=0) as executor:
            async with flooded(executor, 5):
                await until(lambda: len(events) == 2)
    event, other = events
    assert event.code == other.code == "BRG405"
    assert "3 functions of 'db'" in event.headline
    assert "wait in test_lending_bound.Flood" not in event.headline
    assert event.attributes["bridge.begun"] == 3
    assert event.attributes["bridge.max_lent"] == 2
    assert event.attributes["bridge.executor.name"] == "db"
    assert "max_lent=" in event.advice
    [line] = [line for line in event.details if "Flood.wait" in line]
    assert "3 x " in line


async def test_nesting_is_not_reported() -> None:
    with events_of("BRG405") as events:
        async with bridge.ThreadExecutor(1, max_lent=2) as executor:
            assert await executor.run(descend, executor, Begun(), 30) == 30
    assert events == []


# -- processes -----------------------------------------------------------------------------------------------------------


class Held:
    """On the loop: calls of worker processes that wait, and the processes that they come from."""

    def __init__(self) -> None:
        self.now = self.peak = 0
        self.pids: set[int] = set()
        self._event = anyio.Event()
        targets.at_home["wait"] = self._wait

    async def _wait(self, pid: int) -> None:
        self.now += 1
        self.pids.add(pid)
        self.peak = max(self.peak, self.now)
        await self._event.wait()
        self.now -= 1

    def end(self) -> None:
        self._event.set()


@needs_processes
@pytest.mark.parametrize(("workers", "lent"), [(1, 0), (1, 1), (2, None)])
async def test_no_more_processes_than_the_bound_says(workers: int, lent: int | None) -> None:
    held = Held()
    most = workers + (workers if lent is None else lent)
    with events_of("BRG405") as events:
        async with bridge.ProcessExecutor(workers, max_lent=lent) as executor:
            assert executor.max_lent == most - workers
            done = 0

            async def one() -> None:
                nonlocal done
                await executor.run(targets.wait_at_home)
                done += 1

            with anyio.fail_after(6 * PATIENCE):
                async with anyio.create_task_group() as tasks:
                    for _ in range(40):
                        tasks.start_soon(one)
                    while held.now < most:
                        await anyio.sleep(0.01)
                    statistics = executor.statistics()
                    assert (statistics.running, statistics.lent, statistics.queued) == (most, most, 40 - most)
                    held.end()
            assert done == 40
            assert held.peak == most
            assert len(held.pids) <= most
            assert executor.statistics().queued == 0
    [event] = events
    assert "ProcessExecutor" in event.advice


@needs_processes
@pytest.mark.parametrize("workers", [1, 2])
async def test_nesting_in_processes_goes_on_however_many_wait(workers: int) -> None:
    async with bridge.ProcessExecutor(workers, max_lent=0) as executor:
        found: list[int] = []

        async def one() -> None:
            found.append(await executor.run(targets.descend_in, [executor], 2))

        with anyio.fail_after(6 * PATIENCE):
            async with anyio.create_task_group() as tasks:
                for _ in range(12):
                    tasks.start_soon(one)
        assert found == [2] * 12
        assert len(executor.statistics().workers) <= 3 * workers


@needs_processes
async def test_nesting_goes_on_across_threads_and_processes() -> None:
    async with (
        bridge.ProcessExecutor(1, max_lent=0) as processes,
        bridge.ThreadExecutor(1, max_lent=0) as threads,
    ):
        found: list[int] = []

        async def one(first: bridge.Executor) -> None:
            found.append(await first.run(targets.descend_in, [threads, processes], 6))

        with anyio.fail_after(6 * PATIENCE):
            async with anyio.create_task_group() as tasks:
                for number in range(8):
                    tasks.start_soon(one, threads if number % 2 else processes)
        assert found == [6] * 8


@needs_processes
async def test_streams_of_processes_do_not_starve_their_consumers() -> None:
    totals: list[int] = []

    async def one() -> None:
        total = 0
        async for number in executor.stream(range, 10, in_flight=2):
            total += await executor.run(int, str(number))
        totals.append(total)

    async with bridge.ProcessExecutor(1, max_lent=1) as executor:
        with anyio.fail_after(6 * PATIENCE):
            async with anyio.create_task_group() as tasks:
                for _ in range(8):
                    tasks.start_soon(one)
    assert totals == [45] * 8


@needs_processes
async def test_calls_to_processes_that_are_cancelled_at_the_bound_never_begin() -> None:
    held = Held()
    async with bridge.ProcessExecutor(1, max_lent=0) as executor:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(executor.run, targets.wait_at_home)
            while not held.now:
                await anyio.sleep(0.01)
            for _ in range(5):
                with anyio.move_on_after(0.01):
                    await executor.run(targets.wait_at_home)
            futures = [executor.submit(int) for _ in range(5)]
            assert all(future.cancel() for future in futures)
            held.end()
        assert await executor.run(int, "3") == 3
        assert executor.statistics().completed == 2
        assert executor.statistics().cancelled == 10


@needs_processes
async def test_a_worker_that_dies_while_it_waits_gives_its_place_back() -> None:
    held = Held()
    async with bridge.ProcessExecutor(1, max_lent=1) as executor:
        died = 0

        async def one() -> None:
            nonlocal died
            try:
                await executor.run(targets.wait_at_home)
            except bridge.WorkerDied:
                died += 1

        with anyio.fail_after(6 * PATIENCE):
            async with anyio.create_task_group() as tasks:
                for _ in range(6):
                    tasks.start_soon(one)
                for number in (1, 2):
                    while len(held.pids) < 2 * number:
                        await anyio.sleep(0.01)
                    for worker in executor.statistics().workers:
                        os.kill(worker.pid, signal.SIGKILL)
                    while died < 2 * number:
                        await anyio.sleep(0.01)
                while len(held.pids) < 6:
                    await anyio.sleep(0.01)
                held.end()
        assert died == 4
        assert await executor.run(int, "3") == 3
        statistics = executor.statistics()
        assert statistics.lent == statistics.queued == executor._crew.roster.lent == 0


# -- a loop in a worker process ------------------------------------------------------------------------------------------


@needs_processes
async def test_a_function_in_a_process_may_have_a_background_loop() -> None:
    async with bridge.ProcessExecutor(1) as executor:
        assert await executor.run(targets.with_a_loop_of_its_own) == 7
        assert await executor.run(targets.with_a_loop_of_its_own) == 7

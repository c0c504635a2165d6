"""ForeignExecutor: other people's executors as places for bridge, their threads with portals, the rest without.

`Scripted` is a foreign executor that does only what the test tells it to; it stands for all that are not thread pools.
loky's reusable executor is the real one. Its workers are started once, because that takes long.
"""

from __future__ import annotations

import concurrent.futures
import contextvars
import logging
import os
import re
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import BrokenExecutor, Future, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import aclosing
from typing import Any

import anyio
import loky
import pytest

import bridge
from bridge.executors import foreign_futures
from bridge.threads.here import here
from tests.conftest import PATIENCE, Gate, logged, within
from tests.test_fork import run as run_forking
from tests.test_thread_executor import until_cancelled

pytestmark = pytest.mark.anyio


class Scripted(concurrent.futures.Executor):
    """Runs the functions that it has accepted when `step` is called, in order, in the calling thread."""

    _broken = False

    def __init__(self) -> None:
        self.queue: list[tuple[Future[Any], Callable[[], Any]]] = []
        self.begun: list[tuple[Future[Any], Callable[[], Any]]] = []
        self.shut: list[bool] = []

    def submit(self, fn: Any, *args: Any, priority: int = 0, **kwargs: Any) -> Future[Any]:  # type: ignore[override]
        if self.shut:
            raise RuntimeError("cannot schedule new futures after shutdown")
        future: Future[Any] = Future()
        self.queue.append((future, lambda: fn(*args, **kwargs)))
        return future

    def begin(self) -> None:
        future, fn = self.queue.pop(0)
        if future.set_running_or_notify_cancel():
            self.begun.append((future, fn))

    def finish(self) -> None:
        future, fn = self.begun.pop(0)
        try:
            value = fn()
        except BaseException as error:
            future.set_exception(error)
        else:
            future.set_result(value)

    def step(self) -> None:
        self.begin()
        if self.begun:
            self.finish()

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        self.shut.append(wait)
        while cancel_futures and self.queue:
            future, _ = self.queue.pop()
            future.cancel()
            future.set_running_or_notify_cancel()


class Promise:
    """What became of an `await` in another task."""

    def __init__(self) -> None:
        self.value: Any = None
        self.error: BaseException | None = None
        self.scope = anyio.CancelScope()
        self.done = Gate()

    async def of(self, fn: Callable[..., Any], *args: Any) -> None:
        try:
            with self.scope:
                self.value = await fn(*args)
        except Exception as error:
            self.error = error
        finally:
            self.done.open()


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1, "foreign") as pool:
        yield pool


async def until(condition: Callable[[], object]) -> None:
    with anyio.fail_after(PATIENCE):
        while not condition():
            await anyio.sleep(0.001)


# -- in a thread pool ----------------------------------------------------------------------------------------------------


async def test_run_returns_and_raises_what_the_function_does(pool: ThreadPoolExecutor) -> None:
    async with bridge.ForeignExecutor(pool) as executor:
        assert await executor.run(divmod, 7, 2) == (3, 1)
        assert await executor.run(lambda: threading.current_thread().name) == "foreign_0"
        with pytest.raises(ZeroDivisionError):
            await executor.run(divmod, 1, 0)
        assert executor.submit(divmod, 7, 2).result(PATIENCE) == (3, 1)
        assert list(executor.map(str, range(3))) == ["0", "1", "2"]


async def test_functions_in_a_thread_pool_call_back_and_see_the_callers_context(pool: ThreadPoolExecutor) -> None:
    var: contextvars.ContextVar[str] = contextvars.ContextVar("var")
    var.set("here")

    async def double(number: int) -> int:
        await anyio.sleep(0)
        return 2 * number

    async with bridge.ForeignExecutor(pool) as executor:
        assert await executor.run(lambda: bridge.portal().call(double, 21)) == 42
        assert await executor.run(var.get) == "here"
    assert pool.submit(lambda: here.worker).result(PATIENCE) is None  # the thread is not bridge's any more
    with pytest.raises(bridge.WrongThread):
        pool.submit(bridge.portal).result(PATIENCE)


async def test_a_running_function_hears_of_its_cancellation(pool: ThreadPoolExecutor, gate: Gate) -> None:
    async with bridge.ForeignExecutor(pool) as executor, anyio.create_task_group() as tasks:
        tasks.start_soon(executor.run, until_cancelled, gate)
        await gate.reached()
        tasks.cancel_scope.cancel()
    assert executor.statistics().running == 0


async def test_a_queued_function_is_withdrawn_and_never_begins(pool: ThreadPoolExecutor, gate: Gate) -> None:
    promise, ran = Promise(), Gate()
    async with bridge.ForeignExecutor(pool) as executor, anyio.create_task_group() as tasks:
        blocker = executor.submit(gate.wait)
        tasks.start_soon(promise.of, executor.run, ran.open)
        await until(lambda: executor.statistics().queued == 1)
        promise.scope.cancel()
        await promise.done.reached()
        assert not blocker.done()
        gate.open()
    assert promise.scope.cancelled_caught
    assert not ran.is_open()
    assert executor.statistics().cancelled == 1


async def test_abandoning_ends_the_await_and_the_scope_still_waits(pool: ThreadPoolExecutor, gate: Gate) -> None:
    async with bridge.ForeignExecutor(pool) as executor:
        slow = bridge.offload(to=executor, cancel="abandon", timeout=0.01)(gate.wait)
        with pytest.raises(bridge.OffloadTimeout, match=r"did not end within 0\.01 s"):
            await slow()
        gate.open()
    assert executor.statistics().completed == 1


async def test_nothing_foreign_can_be_killed(pool: ThreadPoolExecutor) -> None:
    async with bridge.ForeignExecutor(pool, name="theirs") as executor:
        with pytest.raises(ValueError, match="cancel='kill' is not possible on 'theirs'"):
            bridge.offload(to=executor, cancel="kill")(int)


async def test_stop_iteration_survives_on_its_way_to_an_await(pool: ThreadPoolExecutor) -> None:
    for foreign in (pool, Inline()):
        async with bridge.ForeignExecutor(foreign) as executor:
            with pytest.raises(RuntimeError, match="next raised StopIteration"):
                await executor.run(next, iter(()))
            assert isinstance(executor.submit(next, iter(())).exception(PATIENCE), StopIteration)


async def test_map_keeps_the_order_and_the_limit(pool: ThreadPoolExecutor) -> None:
    async with bridge.ForeignExecutor(pool) as executor:
        assert [square async for square in executor.amap(lambda n: n * n, range(50), in_flight=5)] == [
            n * n for n in range(50)
        ]
        assert {c async for c in bridge.map(str, range(9), to=executor, ordered=False)} == set("012345678")


async def test_a_stream_runs_in_the_threads_and_is_closed_there(pool: ThreadPoolExecutor, gate: Gate) -> None:
    def numbers() -> Iterator[int]:
        try:
            yield from range(1000)
        finally:
            assert threading.current_thread().name == "foreign_0"
            gate.open()

    async with bridge.ForeignExecutor(pool) as executor:
        assert [n async for n in executor.stream(numbers, in_flight=3)] == list(range(1000))
        gate._event.clear()
        async with aclosing(bridge.stream(numbers, to=executor)) as stream:
            assert await anext(stream) == 0
        assert gate.is_open()


async def test_coroutine_functions_are_refused_by_threads_and_by_others(pool: ThreadPoolExecutor) -> None:
    async def fetch() -> None:
        raise AssertionError("ran")

    for foreign in (pool, Inline()):
        async with bridge.ForeignExecutor(foreign) as executor:
            with pytest.raises(TypeError, match=r"fetch is a coroutine function.*await fetch\(\.\.\.\)"):
                await executor.run(fetch)


# -- in a thread pool: deadlocks -----------------------------------------------------------------------------------------


async def test_a_call_back_that_needs_its_own_thread_is_refused(pool: ThreadPoolExecutor) -> None:
    async with bridge.ForeignExecutor(pool, name="one") as executor:

        async def nested() -> object:
            return await executor.run(int, "1")

        with pytest.raises(bridge.WouldDeadlock, match=r"int cannot begin on 'one'.*bridge\.ThreadExecutor\(1\)"):
            await executor.run(lambda: bridge.portal().call(nested))
        assert await executor.run(int, "2") == 2


async def test_threads_that_wait_for_each_other_in_a_circle_are_refused() -> None:
    async def from_two(executor: bridge.ForeignExecutor) -> int:
        return await executor.run(lambda: bridge.portal().call(from_three, executor))

    async def from_three(executor: bridge.ForeignExecutor) -> int:
        return await executor.run(int, "3")

    for threads in (2, 3):
        with ThreadPoolExecutor(threads) as pool:
            async with bridge.ForeignExecutor(pool) as executor:
                outer = bridge.offload(to=executor)(lambda ex=executor: bridge.portal().call(from_two, ex))
                if threads == 3:
                    assert await outer() == 3
                else:
                    with pytest.raises(bridge.WouldDeadlock):
                        await outer()


async def test_the_consumer_of_a_full_stream_is_told_that_no_thread_is_left(pool: ThreadPoolExecutor) -> None:
    async with bridge.ForeignExecutor(pool) as executor:
        async with aclosing(executor.stream(range, 100, in_flight=2)) as numbers:
            with pytest.raises(bridge.WouldDeadlock):  # noqa: PT012 - at which item depends on the thread's speed
                async for _ in numbers:
                    await executor.run(int)


async def test_a_task_that_nobody_in_the_pool_waits_for_is_not_refused(pool: ThreadPoolExecutor) -> None:
    """The pool's thread waits for the loop, and work from the loop waits for the thread, without any harm."""
    queued = anyio.Event()
    promise = Promise()

    async with bridge.ForeignExecutor(pool) as executor, anyio.create_task_group() as tasks:

        def send() -> None:
            tasks.start_soon(promise.of, executor.run, int, "5")

        def feed() -> None:
            bridge.portal().call(send)
            bridge.portal().call(queued.wait)

        async def look() -> None:
            await until(lambda: executor.statistics().queued == 1)
            queued.set()

        tasks.start_soon(look)
        await executor.run(feed)
        await promise.done.reached()
    assert (promise.value, promise.error) == (5, None)


# -- lanes and scopes ----------------------------------------------------------------------------------------------------


def test_a_run_takes_it_as_a_lane_and_leaves_the_foreign_executor_open(pool: ThreadPoolExecutor) -> None:
    executor = bridge.ForeignExecutor(pool)

    async def main() -> str:
        where = bridge.offload(to="theirs")(lambda: threading.current_thread().name)
        return await where()

    assert bridge.run(main, executors={"theirs": executor}) == "foreign_0"
    with pytest.raises(bridge.ExecutorClosed, match="takes no more work"):
        executor.submit(int)
    assert pool.submit(int).result(PATIENCE) == 0


def test_a_run_says_what_has_not_ended_and_goes_its_way(
    pool: ThreadPoolExecutor, gate: Gate, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        executor.submit(gate.wait)

    for foreign, says in ((pool, "its thread 'foreign_0' is left behind"), (Scripted(), "it is left to the Scripted")):
        executor = bridge.ForeignExecutor(foreign, name="theirs")
        caplog.clear()
        with caplog.at_level(logging.ERROR):
            bridge.run(main, executors={"x": executor}, shutdown_timeout=0.05)
        (record,) = logged(caplog, "bridge.executors.BRG404")
        assert re.match(r"BRG404 tests\.conftest\.Gate\.wait( in 'theirs')? has not ended", record.getMessage())
        assert says in record.getMessage()
    gate.open()


async def test_leaving_the_block_waits_for_what_was_sent_and_not_for_the_others(new_gate: type[Gate]) -> None:
    ours, theirs = new_gate(), new_gate()
    with ThreadPoolExecutor(2) as pool:
        other = pool.submit(theirs.wait)
        async with anyio.create_task_group() as tasks:
            async with bridge.ForeignExecutor(pool) as executor:
                future = executor.submit(ours.wait)
                tasks.start_soon(anyio.to_thread.run_sync, ours.open)
            assert future.done()
        assert not other.done()
        theirs.open()
        assert pool.submit(int).result(PATIENCE) == 0


def test_a_function_is_in_flight_until_its_answer_is_given(pool: ThreadPoolExecutor, new_gate: type[Gate]) -> None:
    in_flight: list[int] = []
    for foreign in (pool, Scripted()):
        gate = new_gate()
        with bridge.ForeignExecutor(foreign) as executor:
            flights = executor._flights
            future = executor.submit(gate.wait)
            future.add_done_callback(lambda _: in_flight.append(len(flights)))  # noqa: B023 - done before the next
            gate.open()
            if isinstance(foreign, Scripted):
                foreign.step()
    assert in_flight == [1, 1]


async def test_an_owned_executor_is_shut_down_however_the_scope_is_left() -> None:
    def refuses(pool: ThreadPoolExecutor) -> bool:
        with pytest.raises(RuntimeError, match="after shutdown"):
            pool.submit(int)
        return True

    pool = ThreadPoolExecutor(1)
    async with bridge.ForeignExecutor(pool, owns=True) as executor:
        assert await executor.run(int) == 0
    assert refuses(pool)
    pool = ThreadPoolExecutor(1)
    with bridge.ForeignExecutor(pool, owns=True) as executor:
        executor.submit(int)
    assert refuses(pool)
    pool = ThreadPoolExecutor(1)
    bridge.ForeignExecutor(pool, owns=True).close_within(PATIENCE)
    assert refuses(pool)
    scripted = Scripted()
    bridge.ForeignExecutor(scripted, owns=True).shutdown(wait=False)
    assert scripted.shut == [False]


async def test_leaving_by_an_exception_withdraws_the_queue_and_tells_what_runs(
    pool: ThreadPoolExecutor, gate: Gate
) -> None:
    with pytest.raises(KeyError):  # noqa: PT012 - leaving the block is what is tested
        async with bridge.ForeignExecutor(pool) as executor:
            running = executor.submit(until_cancelled, gate)
            queued = executor.submit(print, "never")
            await gate.reached()
            raise KeyError
    assert queued.cancelled()
    assert "left by an exception" in str(running.exception(PATIENCE))


async def test_a_cancelled_close_withdraws_and_leaves_nothing_behind(pool: ThreadPoolExecutor, gate: Gate) -> None:
    executor = bridge.ForeignExecutor(pool)
    running, queued = executor.submit(until_cancelled, gate), executor.submit(print, "never")
    await gate.reached()
    with anyio.CancelScope() as scope:
        scope.cancel()
        await executor.aclose()
    assert queued.cancelled()
    assert running.done()
    await executor.aclose()


async def test_a_function_that_shuts_its_own_executor_down_is_refused(pool: ThreadPoolExecutor) -> None:
    async with bridge.ForeignExecutor(pool, name="theirs") as executor:
        with pytest.raises(bridge.WouldDeadlock, match=r"'theirs' was told to shut down.*shutdown\(wait=False\)"):
            await executor.run(executor.shutdown)


async def test_a_blocking_shutdown_on_the_loop_refuses_those_that_call_back(pool: ThreadPoolExecutor, gate: Gate) -> None:
    def late_call() -> None:
        portal = bridge.portal()
        gate.wait()
        while True:  # until the loop stands still
            portal.call(int)

    executor = bridge.ForeignExecutor(pool)
    future = executor.submit(late_call)
    gate.open()
    executor.shutdown()
    assert isinstance(future.exception(PATIENCE), bridge.WouldDeadlock)


# -- where only the foreign future knows ---------------------------------------------------------------------------------


class Inline(Scripted):
    """Has every function done before `submit` returns."""

    def submit(self, fn: Any, *args: Any, priority: int = 0, **kwargs: Any) -> Future[Any]:  # type: ignore[override]
        future = super().submit(fn, *args, priority=priority, **kwargs)
        self.step()
        return future


async def test_a_result_that_is_there_before_submit_returns_is_not_lost() -> None:
    async with bridge.ForeignExecutor(Inline()) as executor:
        assert await executor.run(divmod, 7, 2) == (3, 1)
        assert executor.submit(divmod, 7, 2).result(0) == (3, 1)
        assert [n async for n in executor.amap(abs, [-1, -2])] == [1, 2]


async def test_keyword_arguments_belong_to_the_function_whatever_they_are_called(pool: ThreadPoolExecutor) -> None:
    def echo(**kwargs: Any) -> dict[str, Any]:
        return kwargs

    names: dict[str, Any] = {"fn": 1, "self": 2, "timeout": 3, "priority": 4, "job": 5}
    for foreign in (pool, Inline()):
        async with bridge.ForeignExecutor(foreign) as executor:
            assert await executor.run(echo, **names) == names
            assert executor.submit(echo, **names).result(PATIENCE) == names


async def test_a_future_is_cancelled_only_as_long_as_the_foreign_executor_has_not_begun() -> None:
    foreign = Scripted()
    executor = bridge.ForeignExecutor(foreign)
    begun, queued = executor.submit(int), executor.submit(int)
    foreign.begin()
    assert begun.running()
    assert not queued.running()
    assert not begun.cancel()
    assert queued.cancel()
    assert queued.cancel()
    assert concurrent.futures.wait([queued], timeout=PATIENCE).done == {queued}
    foreign.finish()
    assert begun.result(0) == 0
    assert not begun.cancel()
    foreign.begin()
    assert foreign.begun == []
    await executor.aclose()
    statistics = executor.statistics()
    assert (statistics.completed, statistics.failed, statistics.cancelled) == (1, 0, 1)


async def test_cancelling_the_await_withdraws_what_is_queued_and_waits_for_what_runs(new_gate: type[Gate]) -> None:
    foreign, running, queued, ran = Scripted(), Promise(), Promise(), new_gate()
    async with bridge.ForeignExecutor(foreign) as executor, anyio.create_task_group() as tasks:
        tasks.start_soon(running.of, executor.run, ran.open)
        await until(lambda: len(foreign.queue) == 1)
        foreign.begin()
        tasks.start_soon(queued.of, executor.run, int)
        await until(lambda: len(foreign.queue) == 1)
        running.scope.cancel()
        queued.scope.cancel()
        await queued.done.reached()
        await anyio.wait_all_tasks_blocked()
        assert not running.done.is_open()
        foreign.finish()
        await running.done.reached()
    assert running.scope.cancelled_caught
    assert queued.scope.cancelled_caught
    assert ran.is_open()


class Careless(Scripted):
    """Its futures are pending until they are done, so that they can be cancelled while their functions run."""

    def begin(self) -> None:
        self.begun.append(self.queue.pop(0))

    def finish(self) -> None:
        future, fn = self.begun.pop(0)
        value = fn()
        if not future.cancelled():
            future.set_result(value)


@pytest.mark.parametrize("begins", [True, False])
@pytest.mark.parametrize("kind", [Scripted, Careless])
async def test_a_timeout_says_no_more_than_is_known(
    begins: bool, kind: type[Scripted], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only of some executors is it known that what could be cancelled had not begun."""
    if kind is Scripted:
        monkeypatch.setattr(foreign_futures, "_CAREFUL", {__name__})
    foreign, promise = kind(), Promise()
    async with bridge.ForeignExecutor(foreign, name="theirs") as executor, anyio.create_task_group() as tasks:
        limited = bridge.offload(to=executor, timeout=0.05, cancel="abandon")(int)
        tasks.start_soon(promise.of, limited)
        await until(lambda: foreign.queue)
        if begins:
            foreign.begin()
        await promise.done.reached()
        if begins:
            foreign.finish()
    assert isinstance(promise.error, bridge.OffloadTimeout)
    expected = "its future was cancelled, but it may run all the same: Careless is not known to mark what has begun"
    if kind is Scripted:
        expected = "it could not be withdrawn any more" if begins else "it had not begun, and was withdrawn"
    assert f"int did not end within 0.05 s on 'theirs', queueing included; {expected}" in str(promise.error)


@pytest.mark.parametrize("kind", [Scripted, Careless])
async def test_what_is_dropped_is_said_not_to_have_begun_only_where_that_is_known(
    kind: type[Scripted], monkeypatch: pytest.MonkeyPatch
) -> None:
    if kind is Scripted:
        monkeypatch.setattr(foreign_futures, "_CAREFUL", {__name__})
    foreign, dropped, cancelled = kind(), Promise(), Promise()
    async with anyio.create_task_group() as tasks:
        executor = bridge.ForeignExecutor(foreign, name="theirs")
        tasks.start_soon(cancelled.of, executor.run, int)
        await until(lambda: len(foreign.queue) == 1)
        foreign.queue[0][0].cancel()
        await cancelled.done.reached()
        tasks.start_soon(dropped.of, executor.run, int)
        await until(lambda: len(foreign.queue) == 2)
        executor.shutdown(wait=False, cancel_futures=True)
        await dropped.done.reached()
    for promise, why in ((dropped, "was withdrawn"), (cancelled, "was cancelled by its executor")):
        assert isinstance(promise.error, bridge.ExecutorClosed)
        assert why in str(promise.error)
        assert ("had not begun on 'theirs'" in str(promise.error)) is (kind is Scripted)
        assert ("may run all the same" in str(promise.error)) is (kind is Careless)


def test_of_the_standard_executors_and_lokys_it_is_known_that_they_mark_what_has_begun(pool: ThreadPoolExecutor) -> None:
    processes = concurrent.futures.ProcessPoolExecutor(1)
    known: list[Any] = [pool, processes, loky.ProcessPoolExecutor(1), loky.get_reusable_executor(1)]
    assert [foreign_futures.knows_beginnings(each) for each in known] == [True] * 4
    assert not foreign_futures.knows_beginnings(Scripted())
    for each in known[1:]:
        each.shutdown()


def test_the_end_of_the_program_is_no_shutdown_by_others() -> None:
    class Ending(Scripted):
        def submit(self, fn: Any, *args: Any, priority: int = 0, **kwargs: Any) -> Future[Any]:  # type: ignore[override]
            raise RuntimeError("cannot schedule new futures after interpreter shutdown")

    with bridge.ForeignExecutor(Ending(), name="theirs") as executor:
        with pytest.raises(bridge.ExecutorClosed, match=r"Ending behind 'theirs' takes no more work.*program is ending"):
            executor.submit(int)


async def test_streaming_without_shared_memory_is_refused_with_the_way_out() -> None:
    async with bridge.ForeignExecutor(Inline(), name="theirs") as executor:
        with pytest.raises(TypeError, match=r"'theirs' cannot stream range.*bridge\.ProcessExecutor"):
            executor.stream(range, 3)
        with pytest.raises(TypeError, match=r"bridge\.ProcessExecutor"):
            await anext(bridge.stream(range, 3, to=executor))


# -- ends that nobody asked for ------------------------------------------------------------------------------------------


async def test_whoever_waits_is_told_when_the_executor_is_shut_down_underneath() -> None:
    foreign, promise = Scripted(), Promise()
    async with bridge.ForeignExecutor(foreign, name="theirs") as executor, anyio.create_task_group() as tasks:
        tasks.start_soon(promise.of, executor.run, int)
        future = executor.submit(int)
        await until(lambda: len(foreign.queue) == 2)
        foreign.shutdown(cancel_futures=True)
        await promise.done.reached()
        with pytest.raises(bridge.ExecutorClosed, match=r"Scripted behind 'theirs' was shut down.*after shutdown"):
            await executor.run(int)
    assert isinstance(promise.error, bridge.ExecutorClosed)
    assert "was cancelled by its executor" in str(promise.error)
    assert future.cancelled()
    assert concurrent.futures.wait([future], timeout=PATIENCE).done == {future}
    assert executor.statistics().cancelled == 2


async def test_a_thread_pool_that_is_shut_down_answers_too(gate: Gate) -> None:
    promise, pool = Promise(), ThreadPoolExecutor(1)
    async with bridge.ForeignExecutor(pool) as executor, anyio.create_task_group() as tasks:
        running = executor.submit(gate.wait)
        tasks.start_soon(promise.of, executor.run, int)
        future = executor.submit(int)
        await until(lambda: executor.statistics().queued == 2)
        pool.shutdown(wait=False, cancel_futures=True)
        await promise.done.reached()
        gate.open()
    assert isinstance(promise.error, bridge.ExecutorClosed)
    assert future.cancelled()
    assert running.result(0) is None


async def test_a_pool_that_breaks_tells_every_caller_with_an_error_of_his_own() -> None:
    """One future in three is answered by the pool, as by Python 3.11's, if one is cancelled."""
    foreign, promises = Scripted(), [Promise() for _ in range(3)]
    async with bridge.ForeignExecutor(foreign) as executor, anyio.create_task_group() as tasks:
        for promise in promises:
            tasks.start_soon(promise.of, executor.run, int)
        await until(lambda: len(foreign.queue) == 3)
        foreign._broken = True
        foreign.queue[0][0].set_exception(BrokenProcessPool("a worker died"))
        for promise in promises:
            await promise.done.reached()
    assert [str(promise.error) for promise in promises] == ["a worker died"] * 3
    assert {type(promise.error) for promise in promises} == {BrokenProcessPool}
    assert len({id(promise.error) for promise in promises}) == 3
    assert executor.statistics().failed == 3


async def test_an_error_that_a_function_raises_about_a_pool_of_its_own_is_its_own() -> None:
    def nested() -> None:
        raise BrokenProcessPool("a pool inside the worker")

    foreign = Scripted()
    executor = bridge.ForeignExecutor(foreign)
    failing, other = executor.submit(nested), executor.submit(int)
    foreign.step()
    assert isinstance(failing.exception(0), BrokenProcessPool)
    assert not other.done()
    foreign.step()
    assert other.result(0) == 0
    await executor.aclose()


async def test_threads_that_cannot_be_initialised_tell_all_who_wait(gate: Gate, caplog: pytest.LogCaptureFixture) -> None:
    def initializer() -> None:
        gate.wait()
        raise KeyError("no database")

    promises = [Promise() for _ in range(3)]
    with ThreadPoolExecutor(1, initializer=initializer) as pool:
        async with bridge.ForeignExecutor(pool) as executor, anyio.create_task_group() as tasks:
            for promise in promises:
                tasks.start_soon(promise.of, executor.run, int)
            await until(lambda: executor.statistics().queued == 3)
            promises[1].scope.cancel()
            await promises[1].done.reached()
            gate.open()
            await promises[0].done.reached()
            await promises[2].done.reached()
            with pytest.raises(BrokenExecutor):
                await executor.run(int)
    assert promises[1].scope.cancelled_caught
    assert isinstance(promises[0].error, BrokenExecutor)
    assert isinstance(promises[2].error, BrokenExecutor)


def test_an_answer_for_a_loop_that_is_gone_harms_nobody() -> None:
    foreign = Scripted()
    executor = bridge.ForeignExecutor(foreign)

    async def main() -> None:
        with pytest.raises(bridge.OffloadTimeout):
            await bridge.offload(to=executor, timeout=0.01, cancel="abandon")(int)()

    thread = threading.Thread(target=lambda: bridge.run(main))
    thread.start()
    while not foreign.queue:
        thread.join(0.001)
    foreign.begin()
    within(thread)
    assert executor.statistics().running == 1
    foreign.finish()
    executor.shutdown()
    assert executor.statistics().completed == 1


@pytest.mark.skipif(sys.platform != "linux", reason="forks")
def test_in_the_child_of_a_fork_nobody_waits_for_workers_that_are_not_there() -> None:
    said = run_forking("""
        from concurrent.futures import ThreadPoolExecutor
        gate = threading.Event()
        used, unused = (bridge.ForeignExecutor(ThreadPoolExecutor(1), name=name) for name in ("used", "unused"))
        running, queued = used.submit(gate.wait), used.submit(int)
        print(*in_child(
            running.result,
            queued.result,
            lambda: used.submit(int),
            used.shutdown,
            lambda: unused.submit(int).result(),
        ), sep="\\n")
        gate.set()
        print(queued.result())
        used.shutdown()
    """)
    assert [line.partition(":")[0] for line in said[:3]] == ["ExecutorClosed"] * 3
    assert "make a new executor" in said[2]
    assert said[3:] == ["returned None", "returned 0", "0"]


# -- what it says --------------------------------------------------------------------------------------------------------


async def test_every_function_is_in_one_count(new_gate: type[Gate]) -> None:
    gate = new_gate()
    with ThreadPoolExecutor(2) as pool:
        async with bridge.ForeignExecutor(pool, name="theirs") as executor:
            futures = [executor.submit(gate.wait) for _ in range(5)]
            await until(lambda: executor.statistics().running == 2)
            assert executor.statistics().queued == 3
            assert futures[-1].cancel()
            assert executor.statistics().queued == 2
            gate.open()
            with pytest.raises(ZeroDivisionError):
                await executor.run(divmod, 1, 0)
    statistics = executor.statistics()
    assert (statistics.name, statistics.max_workers) == ("theirs", 2)
    assert (statistics.queued, statistics.running) == (0, 0)
    assert (statistics.completed, statistics.failed, statistics.cancelled) == (4, 1, 1)
    assert 0 < statistics.queue_wait.max < PATIENCE
    assert 0 < statistics.run_time.max < PATIENCE


async def test_without_a_begin_times_are_from_submission_to_end(gate: Gate) -> None:
    foreign = Scripted()
    executor = bridge.ForeignExecutor(foreign, max_workers=3)
    executor.submit(int)
    executor.submit(int)
    assert (executor.statistics().queued, executor.statistics().running) == (2, 0)
    foreign.begin()
    assert (executor.statistics().queued, executor.statistics().running) == (1, 1)
    gate._event.wait(0.02)
    foreign.finish()
    foreign.step()
    statistics = executor.statistics()
    assert (statistics.completed, statistics.max_workers) == (2, 3)
    assert statistics.run_time.p50 >= 0.02
    assert statistics.queue_wait.max == 0
    await executor.aclose()


def test_it_says_who_it_is_and_what_is_behind_it(pool: ThreadPoolExecutor) -> None:
    with bridge.ForeignExecutor(pool, name="theirs") as executor:
        assert repr(executor) == "<bridge.ForeignExecutor 'theirs' over ThreadPoolExecutor, 0 functions in flight>"
        assert executor.max_workers == 1
    assert repr(executor) == "<bridge.ForeignExecutor 'theirs' over ThreadPoolExecutor, closed>"
    assert bridge.ForeignExecutor(Scripted()).max_workers == os.cpu_count()
    assert bridge.ForeignExecutor(Scripted()).name.startswith("ForeignExecutor-")


def test_what_is_no_foreign_executor_is_refused(pool: ThreadPoolExecutor) -> None:
    with bridge.ForeignExecutor(pool) as executor, pytest.raises(TypeError, match="bridge's own: use it as it is"):
        bridge.ForeignExecutor(executor)
    cases: list[tuple[Any, str]] = [
        (ThreadPoolExecutor, r"not its class: write ForeignExecutor\(ThreadPoolExecutor\(\)\)"),
        (len, "needs a concurrent.futures.Executor, not <built-in function len>"),
        (None, "needs a concurrent.futures.Executor, not None"),
    ]
    for wrong, message in cases:
        with pytest.raises(TypeError, match=message):
            bridge.ForeignExecutor(wrong)
    with pytest.raises(ValueError, match="max_workers must be greater than 0, not 0"):
        bridge.ForeignExecutor(pool, max_workers=0)
    wrong_number: Any = "4"
    with pytest.raises(TypeError, match="max_workers must be a whole number, not '4'"):
        bridge.ForeignExecutor(pool, max_workers=wrong_number)


# -- loky ----------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shared() -> Iterator[Any]:
    """loky's reusable executor with its threads and workers started, so that no test seems to leave them behind."""
    executor = loky.get_reusable_executor(max_workers=2)
    for future in [executor.submit(os.getpid) for _ in range(4)]:
        future.result(6 * PATIENCE)
    yield executor
    loky.get_reusable_executor(max_workers=2).shutdown(wait=True, kill_workers=True)


async def test_lokys_reusable_executor_runs_functions_and_is_left_open(shared: Any) -> None:
    class Unpicklable:
        def __reduce__(self) -> Any:
            raise KeyError("not to be pickled")

    def pid_and(number: int) -> tuple[bool, int]:
        return os.getpid() != parent, number

    parent = os.getpid()
    async with bridge.ForeignExecutor(shared) as executor:
        assert executor.max_workers == 2
        assert await executor.run(pid_and, 1) == (True, 1)
        assert executor.submit(pid_and, number=2).result(PATIENCE) == (True, 2)
        assert [found async for found in executor.amap(pid_and, range(20))] == [(True, number) for number in range(20)]
        with pytest.raises(bridge.WrongThread, match=r"bridge\.portal\(\) was called in a thread that knows no loop"):
            await executor.run(bridge.portal)
        with pytest.raises(Exception, match="pickle"):
            await executor.run(print, Unpicklable())
        with pytest.raises(ZeroDivisionError):
            await executor.run(divmod, 1, 0)
        assert executor.statistics().failed == 3
    assert shared.submit(int).result(PATIENCE) == 0


def test_a_worker_of_loky_that_dies_fails_all_that_wait_and_its_owner_ends_the_rest() -> None:
    async def main() -> list[Promise]:
        promises = [Promise() for _ in range(4)]
        async with bridge.ForeignExecutor(loky.ProcessPoolExecutor(1), owns=True) as executor:
            async with anyio.create_task_group() as tasks:
                for promise in promises:
                    tasks.start_soon(promise.of, executor.run, os._exit, 3)
            with pytest.raises(BrokenExecutor):
                await executor.run(int)
        return promises

    promises = bridge.run(main)
    assert all(isinstance(promise.error, BrokenExecutor) for promise in promises)
    assert len({id(promise.error) for promise in promises}) == len(promises)

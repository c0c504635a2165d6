"""ThreadExecutor where the ecosystem expects a `concurrent.futures.Executor`."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from collections.abc import Iterator
from concurrent.futures import CancelledError, Future
from typing import Any

import pytest

import bridge
from tests.conftest import PATIENCE, Gate, within


@pytest.fixture
def executor() -> Iterator[bridge.ThreadExecutor]:
    with bridge.ThreadExecutor(2, name="pool") as executor:
        yield executor


def test_it_is_one(executor: bridge.ThreadExecutor) -> None:
    assert isinstance(executor, concurrent.futures.Executor)
    assert isinstance(executor, bridge.Executor)
    assert isinstance(executor.submit(int), Future)


def test_submit_gives_a_future_of_the_outcome(executor: bridge.ThreadExecutor) -> None:
    assert executor.submit(int, "ff", base=16).result(PATIENCE) == 255
    assert isinstance(executor.submit(divmod, 1, 0).exception(PATIENCE), ZeroDivisionError)


def test_map_keeps_the_order_and_raises_at_its_place(executor: bridge.ThreadExecutor) -> None:
    assert list(executor.map(pow, range(5), [2] * 5)) == [0, 1, 4, 9, 16]
    results = executor.map(divmod, [4, 1], [2, 0])
    assert next(results) == (2, 0)
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_map_gives_up_after_its_timeout(executor: bridge.ThreadExecutor, gate: Gate) -> None:
    results = executor.map(lambda _: gate.wait(), [1], timeout=0.01)
    with pytest.raises(TimeoutError):
        next(results)
    gate.open()


def test_wait_and_as_completed_see_what_happens(executor: bridge.ThreadExecutor, new_gate: type[Gate]) -> None:
    gates = [new_gate(), new_gate()]
    first, second = (executor.submit(gate.wait) for gate in gates)
    gates[1].open()
    done, pending = concurrent.futures.wait([first, second], PATIENCE, concurrent.futures.FIRST_COMPLETED)
    assert (done, pending) == ({second}, {first})
    completed = concurrent.futures.as_completed([first, second], PATIENCE)
    assert next(completed) is second
    gates[0].open()
    assert next(completed) is first


def test_a_queued_future_can_be_cancelled_and_waiters_are_told(gate: Gate) -> None:
    with bridge.ThreadExecutor(1) as executor:
        running, queued = executor.submit(gate.wait), executor.submit(print, "never")
        waiter = threading.Thread(target=concurrent.futures.wait, args=([queued],))
        waiter.start()
        assert queued.cancel()
        within(waiter)
        assert queued.cancelled()
        with pytest.raises(CancelledError):
            queued.result(0)
        assert list(concurrent.futures.as_completed([queued], 0)) == [queued]
        gate.open()
        running.result(PATIENCE)
        assert not running.cancel()


def test_a_running_future_cannot_be_cancelled(executor: bridge.ThreadExecutor, new_gate: type[Gate]) -> None:
    started, gate = new_gate(), new_gate()

    def work() -> str:
        started.open()
        gate.wait()
        return "done"

    future = executor.submit(work)
    started.wait()
    assert future.running()
    assert not future.cancel()
    gate.open()
    assert future.result(PATIENCE) == "done"


def test_done_callbacks_are_called_once_whatever_the_outcome(gate: Gate) -> None:
    called: list[Future[Any]] = []
    with bridge.ThreadExecutor(1) as executor:
        futures = [executor.submit(gate.wait), executor.submit(divmod, 1, 0), executor.submit(int)]
        for future in futures:
            future.add_done_callback(called.append)
        assert futures[2].cancel()
        gate.open()
    assert sorted(map(id, called)) == sorted(map(id, futures))


def test_a_done_callback_that_fails_stops_neither_the_worker_nor_the_others(
    gate: Gate, caplog: pytest.LogCaptureFixture
) -> None:
    called: list[Future[Any]] = []

    def broken(future: Future[Any]) -> None:
        raise LookupError("broken callback")

    with bridge.ThreadExecutor(1) as executor:
        future = executor.submit(gate.wait)
        future.add_done_callback(broken)
        future.add_done_callback(called.append)
        gate.open()
        assert executor.submit(int).result(PATIENCE) == 0
    assert called == [future]
    assert "broken callback" in caplog.text


def test_a_done_callback_may_submit(executor: bridge.ThreadExecutor, gate: Gate) -> None:
    followed: Future[Future[int]] = Future()
    future = executor.submit(gate.wait)
    future.add_done_callback(lambda _: followed.set_result(executor.submit(int, "8")))
    gate.open()
    assert followed.result(PATIENCE).result(PATIENCE) == 8


def test_shutdown_waits_and_takes_no_more(gate: Gate) -> None:
    executor = bridge.ThreadExecutor(1, name="pool")
    futures = [executor.submit(gate.wait), executor.submit(int)]
    executor.shutdown(wait=False)
    with pytest.raises(RuntimeError, match="'pool' was shut down"):
        executor.submit(int)
    assert not futures[0].done()
    gate.open()
    executor.shutdown()
    assert [future.done() for future in futures] == [True, True]


def test_shutdown_can_cancel_what_is_queued_and_only_that(new_gate: type[Gate]) -> None:
    started, gate = new_gate(), new_gate()

    def work() -> str:
        started.open()
        gate.wait()
        return "done"

    executor = bridge.ThreadExecutor(1)
    running = executor.submit(work)
    queued = [executor.submit(print, "never") for _ in range(10)]
    started.wait()
    executor.shutdown(wait=False, cancel_futures=True)
    assert all(future.cancelled() for future in queued)
    assert len(concurrent.futures.wait(queued, 0).done) == 10
    gate.open()
    assert running.result(PATIENCE) == "done"
    executor.shutdown()


def test_many_threads_may_submit_at_once(executor: bridge.ThreadExecutor) -> None:
    totals: list[int] = []

    def submitter(number: int) -> None:
        futures = [executor.submit(int, str(number)) for _ in range(200)]
        totals.append(sum(future.result(PATIENCE) for future in futures))

    threads = [threading.Thread(target=submitter, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        within(thread)
    assert sorted(totals) == [200 * number for number in range(8)]


def test_a_job_may_submit_to_its_own_executor(executor: bridge.ThreadExecutor) -> None:
    def outer() -> int:
        return executor.submit(int, "3").result(PATIENCE)

    assert executor.submit(outer).result(PATIENCE) == 3


def test_a_job_may_submit_and_go_on_even_with_one_worker() -> None:
    with bridge.ThreadExecutor(1) as executor:
        assert executor.submit(executor.submit, int, "4").result(PATIENCE).result(PATIENCE) == 4


def test_base_exceptions_are_outcomes_too(executor: bridge.ThreadExecutor) -> None:
    def leave() -> None:
        raise SystemExit(3)

    for _ in range(3):
        assert isinstance(executor.submit(leave).exception(PATIENCE), SystemExit)
    assert executor.submit(int).result(PATIENCE) == 0


def test_a_future_can_be_awaited_through_asyncio(loop_factory: Any, executor: bridge.ThreadExecutor) -> None:
    async def main() -> None:
        assert await asyncio.wrap_future(executor.submit(int, "5")) == 5
        assert await asyncio.get_running_loop().run_in_executor(executor, int, "6") == 6

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(main())


@pytest.mark.anyio
async def test_the_way_back_is_inherited_by_what_a_job_submits() -> None:
    home = threading.get_ident()

    async def on_the_loop() -> int:
        return threading.get_ident()

    def leaf() -> int:
        return bridge.portal().call(on_the_loop)

    async with bridge.ThreadExecutor(1) as other:

        def outer() -> int:
            return other.submit(leaf).result(PATIENCE)

        assert await bridge.to_thread(outer) == home
        assert (
            await bridge.to_thread(lambda: other.submit(lambda: other.submit(leaf)).result(PATIENCE).result(PATIENCE))
            == home
        )


@pytest.mark.anyio
async def test_a_future_submitted_on_the_loop_has_that_loop_as_its_way_back() -> None:
    home = threading.get_ident()
    async with bridge.ThreadExecutor(1) as executor:
        future = executor.submit(lambda: bridge.portal().call(threading.get_ident))
        while not future.done():
            await bridge.to_thread(int)
        assert future.result(0) == home


def test_what_a_plain_thread_submits_has_no_way_back(executor: bridge.ThreadExecutor) -> None:
    error = executor.submit(bridge.portal).exception(PATIENCE)
    assert isinstance(error, bridge.WrongThread)
    assert "background_loop" in str(error)

"""ThreadExecutor as a place and as a scope: where functions run, in what order, and what is left when it is closed."""

from __future__ import annotations

import contextvars
import threading
import time
from typing import Any

import anyio
import anyio.lowlevel
import pytest

import bridge
from bridge.threads.future_job import FutureJob
from bridge.threads.pool import WorkerPool, pools
from tests.conftest import PATIENCE, Gate, within

pytestmark = pytest.mark.anyio


def until_cancelled(started: Gate) -> None:
    """A well-behaved blocking function: it asks from time to time whether anybody still wants it."""
    started.open()
    give_up = time.monotonic() + PATIENCE
    while time.monotonic() < give_up:
        bridge.check_cancelled()
        time.sleep(0.001)
    raise AssertionError("nobody cancelled this function")


async def test_run_returns_and_raises_what_the_function_does() -> None:
    async with bridge.ThreadExecutor(1) as executor:
        assert await executor.run(divmod, 7, 2) == (3, 1)
        with pytest.raises(ZeroDivisionError):
            await executor.run(divmod, 1, 0)


async def test_keyword_arguments_belong_to_the_function_whatever_they_are_called() -> None:
    def echo(**kwargs: Any) -> dict[str, Any]:
        return kwargs

    async with bridge.ThreadExecutor(1) as executor:
        names: dict[str, Any] = {"fn": 1, "self": 2, "timeout": 3, "cancel": 4, "to": 5}
        assert await executor.run(echo, **names) == names
        assert executor.submit(echo, **names).result(PATIENCE) == names


async def test_one_worker_begins_functions_in_the_order_of_submission(new_gate: type[Gate]) -> None:
    first, order = new_gate(), []
    async with bridge.ThreadExecutor(1) as executor:
        executor.submit(first.wait)
        for number in range(50):
            executor.submit(order.append, number)
        first.open()
    assert order == list(range(50))


async def test_never_more_functions_at_once_than_workers() -> None:
    lock, now, peak = threading.Lock(), 0, 0

    def work() -> None:
        nonlocal now, peak
        with lock:
            now += 1
            peak = max(peak, now)
        time.sleep(0.001)
        with lock:
            now -= 1

    async with bridge.ThreadExecutor(3) as executor:
        for _ in range(60):
            executor.submit(work)
    assert peak <= 3


async def test_context_variables_travel_with_run_and_with_submit() -> None:
    var: contextvars.ContextVar[str] = contextvars.ContextVar("var", default="unset")
    async with bridge.ThreadExecutor(1) as executor:
        var.set("first")
        future = executor.submit(var.get)
        var.set("second")
        assert await executor.run(var.get) == "second"
        assert future.result(PATIENCE) == "first"


async def test_a_coroutine_function_is_refused_and_nothing_of_it_runs() -> None:
    async def fetch() -> None:
        raise AssertionError("ran")

    async with bridge.ThreadExecutor(1) as executor:
        with pytest.raises(TypeError, match=r"fetch is a coroutine function.*await fetch\(\.\.\.\)"):
            await executor.run(fetch)
        with pytest.raises(TypeError, match="fetch is a coroutine function"):
            executor.submit(fetch).result(PATIENCE)


async def test_stop_iteration_survives_on_its_way_to_an_await() -> None:
    async with bridge.ThreadExecutor(1) as executor:
        with pytest.raises(RuntimeError, match="raised StopIteration"):
            await executor.run(next, iter(()))


async def test_another_library_sees_a_task_that_waits_for_a_thread_as_blocked(gate: Gate) -> None:
    async with bridge.ThreadExecutor(1) as executor, anyio.create_task_group() as tasks:
        tasks.start_soon(executor.run, gate.wait)
        try:
            await anyio.wait_all_tasks_blocked()
        finally:
            gate.open()


async def test_leaving_the_block_waits_for_what_was_submitted(gate: Gate) -> None:
    done: list[int] = []
    async with anyio.create_task_group() as tasks:
        async with bridge.ThreadExecutor(1) as executor:
            executor.submit(gate.wait)
            for number in range(5):
                executor.submit(done.append, number)
            tasks.start_soon(anyio.lowlevel.checkpoint)
            gate.open()
        assert done == list(range(5))


async def test_the_loop_runs_on_while_a_block_is_left(gate: Gate) -> None:
    async def open_it() -> None:
        gate.open()

    async with anyio.create_task_group() as tasks:
        async with bridge.ThreadExecutor(1) as executor:
            executor.submit(gate.wait)
            tasks.start_soon(open_it)


async def test_leaving_by_an_exception_withdraws_the_queue_and_tells_what_runs(new_gate: type[Gate]) -> None:
    started = new_gate()
    with pytest.raises(KeyError):  # noqa: PT012 - leaving the block is what is tested
        async with bridge.ThreadExecutor(1) as executor:
            running = executor.submit(until_cancelled, started)
            queued = executor.submit(print, "never")
            await started.reached()
            raise KeyError
    assert queued.cancelled()
    assert "left by an exception" in str(running.exception(PATIENCE))


async def test_an_awaiting_task_is_told_when_the_queue_is_dropped(new_gate: type[Gate]) -> None:
    started, told = new_gate(), new_gate()
    executor = bridge.ThreadExecutor(1, name="small")

    async def wait() -> None:
        with pytest.raises(bridge.ExecutorClosed, match="'small' was shut down before"):
            await executor.run(print, "never")
        told.open()

    async with anyio.create_task_group() as tasks:
        executor.submit(until_cancelled, started)
        await started.reached()
        tasks.start_soon(wait)
        while executor.statistics().queued < 1:
            await anyio.sleep(0.001)
        executor.cancel_all()
        await told.reached()
    await executor.aclose()


async def test_after_closing_work_is_refused_with_the_advice() -> None:
    async with bridge.ThreadExecutor(1, name="small") as executor:
        pass
    for _ in range(2):
        with pytest.raises(bridge.ExecutorClosed, match=r"'small' was shut down.*with"):
            await executor.run(print)
        with pytest.raises(RuntimeError, match="'small' was shut down"):
            executor.submit(print)
    assert "closed" in repr(executor)


async def test_closing_twice_is_harmless() -> None:
    executor = bridge.ThreadExecutor(1)
    await executor.run(int)
    await executor.aclose()
    await executor.aclose()
    executor.shutdown()


async def test_closing_an_executor_that_never_ran_anything_is_harmless() -> None:
    await bridge.ThreadExecutor(1).aclose()


async def test_a_cancelled_close_tells_what_runs_and_leaves_nothing_behind(new_gate: type[Gate]) -> None:
    started = new_gate()
    executor = bridge.ThreadExecutor(1)
    running, queued = executor.submit(until_cancelled, started), executor.submit(print, "never")
    await started.reached()
    with anyio.CancelScope() as scope:
        scope.cancel()
        await executor.aclose()
    assert scope.cancelled_caught
    assert queued.cancelled()
    assert running.done()


async def test_closing_inside_the_block_is_harmless() -> None:
    async with bridge.ThreadExecutor(1) as executor:
        await executor.aclose()


def test_a_block_cannot_be_nested_but_can_be_told_so() -> None:
    executor = bridge.ThreadExecutor(1, name="small")
    with executor:
        with pytest.raises(RuntimeError, match=r"'small' is already entered.*use the executor as it is"):
            executor.__enter__()
        assert executor.submit(int).result(PATIENCE) == 0


def test_an_executor_that_is_forgotten_still_does_what_it_accepted(gate: Gate) -> None:
    done: list[int] = []
    executor = bridge.ThreadExecutor(1, name="forgotten")
    executor.submit(gate.wait)
    for number in range(3):
        executor.submit(done.append, number)
    (pool,) = [pool for pool in pools if pool.name == "forgotten"]
    threads = [worker.thread for worker in pool.workers]
    with pytest.warns(ResourceWarning, match="unclosed ThreadExecutor 'forgotten'"):
        del executor
    assert pool.closing
    gate.open()
    for thread in threads:
        within(thread)
    assert done == [0, 1, 2]


def test_one_executor_serves_two_loops_in_two_threads() -> None:
    both = threading.Barrier(2, timeout=PATIENCE)
    answers: dict[str, int] = {}

    with bridge.ThreadExecutor(2) as executor:

        async def main(name: str) -> None:
            await executor.run(both.wait)
            for number in range(100):
                answers[name] = answers.get(name, 0) + await executor.run(int, str(number))

        threads = [threading.Thread(target=bridge.run, args=(main, name)) for name in "ab"]
        for thread in threads:
            thread.start()
        for thread in threads:
            within(thread)
    assert answers == {"a": sum(range(100)), "b": sum(range(100))}


def test_it_says_who_it_is() -> None:
    with bridge.ThreadExecutor(3, name="files") as executor:
        assert repr(executor) == "<bridge.ThreadExecutor 'files', max_workers=3, 0 threads>"
        executor.submit(int).result(PATIENCE)
        assert repr(executor) == "<bridge.ThreadExecutor 'files', max_workers=3, 1 threads>"
    assert repr(executor) == "<bridge.ThreadExecutor 'files', max_workers=3, closed>"


def test_without_a_number_there_are_workers_enough_and_a_name() -> None:
    with bridge.ThreadExecutor() as executor:
        assert executor.max_workers >= 32
        assert executor.name.startswith("ThreadExecutor-")


@pytest.mark.parametrize("workers", [0, -1, -100])
def test_less_than_one_worker_is_refused(workers: int) -> None:
    with pytest.raises(ValueError, match=rf"greater than 0, not {workers}: write ThreadExecutor\(8\)"):
        bridge.ThreadExecutor(workers)


@pytest.mark.parametrize("workers", [True, False, 2.0, "4", [1]])
def test_workers_that_are_not_a_whole_number_are_refused(workers: Any) -> None:
    with pytest.raises(TypeError, match=r"whole number of threads, not .*: write ThreadExecutor\(8\)"):
        bridge.ThreadExecutor(workers)


def test_a_negative_idle_timeout_is_refused() -> None:
    with pytest.raises(ValueError, match="idle_timeout is in seconds and cannot be negative"):
        bridge.ThreadExecutor(1, idle_timeout=-0.1)


def test_outside_any_loop_awaiting_says_how_to_start_one() -> None:
    with bridge.ThreadExecutor(1) as executor:
        coro = executor.run(int)
        with pytest.raises(bridge.WrongThread, match=r"bridge\.run\(main\)"):
            coro.send(None)


def test_what_is_answered_while_the_queue_is_withdrawn_stays_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    with bridge.ThreadExecutor(1) as executor:
        job = FutureJob(int, ("5",), {}, None, executor.withdraw)
        future = job.future
        executor.submit_job(job)
        assert future.result(PATIENCE) == 5
        while hasattr(job, "future"):
            threading.Event().wait(0.001)
        monkeypatch.setattr(WorkerPool, "jobs", [job])  # as it was a moment ago
        executor.cancel_all()
        monkeypatch.undo()
    assert future.result() == 5

"""ProcessExecutor as a place: where functions run, what may be sent there, and what comes back."""

# ruff: noqa: F811 - fixtures are imported by name
from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import anyio
import process_targets as targets
import pytest
from process_targets import Deliberate, Gate

import bridge
from tests.conftest import PATIENCE
from tests.processes import (  # noqa: F401
    anyio_backend,
    attempt_all,
    begun,
    children,
    executor,
    gate,
    new_gate,
    no_thread_left,
    until,
)

pytestmark = [pytest.mark.anyio, pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX")]


# -- one call ------------------------------------------------------------------------------------------------------------


async def test_run_returns_and_raises_what_the_function_does(executor: bridge.ProcessExecutor) -> None:
    assert await executor.run(divmod, 7, 2) == (3, 1)
    with pytest.raises(ZeroDivisionError):
        await executor.run(divmod, 1, 0)


async def test_functions_run_in_a_child_process(executor: bridge.ProcessExecutor) -> None:
    pid = await executor.run(os.getpid)
    assert pid != os.getpid()
    assert pid in children()


async def test_keyword_arguments_belong_to_the_function_whatever_they_are_called(
    executor: bridge.ProcessExecutor,
) -> None:
    names: dict[str, Any] = {"fn": 1, "self": 2, "timeout": 3, "cancel": 4, "to": 5}
    assert await executor.run(targets.echo, **names) == names


async def test_submit_gives_a_future_of_concurrent_futures(executor: bridge.ProcessExecutor) -> None:
    good, bad = executor.submit(pow, 2, 10), executor.submit(targets.fail, "far away")
    await until(lambda: good.done() and bad.done())
    assert good.result() == 1024
    assert isinstance(bad.exception(), Deliberate)


async def test_many_calls_at_once_each_get_their_own_answer(executor: bridge.ProcessExecutor) -> None:
    attempts = await attempt_all(*(executor.run(pow, 2, n) for n in range(500)))
    assert [attempt.value for attempt in attempts] == [2**n for n in range(500)]


async def test_as_many_functions_at_once_as_workers(
    executor: bridge.ProcessExecutor, new_gate: Callable[[str], Gate], gate: Gate
) -> None:
    begun = [new_gate(f"begun-{n}") for n in range(3)]
    futures = [executor.submit(targets.announce_and_wait, each, gate) for each in begun]
    first, second = [await each.reached() for each in begun[:2]]
    assert first != second
    assert not begun[2].is_open()
    gate.open()
    await until(lambda: all(future.done() for future in futures))


async def test_a_job_that_waits_does_not_keep_short_ones_from_running(
    executor: bridge.ProcessExecutor, begun: Gate, gate: Gate
) -> None:
    for _ in range(50):
        await executor.run(targets.pid_of)  # by now these are known to be short
    futures = [executor.submit(targets.pid_of) for _ in range(5)]
    waiting = executor.submit(targets.announce_and_wait, begun, gate)
    futures += [executor.submit(targets.pid_of) for _ in range(20)]
    await until(lambda: all(future.done() for future in futures))
    assert not waiting.done()
    gate.open()
    await until(waiting.done)


# -- what may be sent ----------------------------------------------------------------------------------------------------


async def test_lambdas_closures_and_other_callables(executor: bridge.ProcessExecutor) -> None:
    offset = 40

    def local(number: int) -> int:
        return number + offset

    class Local:
        def __init__(self, number: int):
            self.number = number

    assert await executor.run(lambda: 6 * 7) == 42
    assert await executor.run(local, 2) == 42
    assert await executor.run(functools.partial(local, 2)) == 42
    assert await executor.run(targets.Account(40), 2) == 42
    assert await executor.run(targets.Account(40).add, 2) == 42
    sent_back = await executor.run(lambda: Local(42))
    assert isinstance(sent_back, Local)
    assert sent_back.number == 42


async def test_a_function_that_went_there_and_back_is_the_same_object(executor: bridge.ProcessExecutor) -> None:
    seen: list[int] = []

    def note(number: int) -> None:
        seen.append(number)

    assert await executor.run(targets.echo, note) is note
    assert await executor.run(targets.echo, targets.fail) is targets.fail


async def test_an_argument_is_a_copy(executor: bridge.ProcessExecutor) -> None:
    account = targets.Account(1)
    assert await executor.run(account.add, 1) == 2
    assert account.balance == 1


async def test_coroutine_functions_run_on_a_loop_in_the_worker(executor: bridge.ProcessExecutor) -> None:
    pid, loop = await executor.run(targets.pid_and_task)
    assert pid != os.getpid()
    assert loop.startswith(("asyncio", "bridge", "uvloop"))
    assert [await executor.run(targets.sleep_and_return, n, 0.001) for n in range(3)] == [0, 1, 2]
    with pytest.raises(Deliberate, match="in a coroutine"):
        await executor.run(targets.fail_later)


def be_impatient() -> None:
    from bridge.executors.process.worker import coroutine

    coroutine.SHUTDOWN_TIMEOUT = 0.05


async def leave_a_task_that_does_not_end() -> int:
    async def swallow_every_cancellation() -> None:
        while True:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.get_running_loop().create_future()

    targets.kept = asyncio.create_task(swallow_every_cancellation())  # type: ignore[attr-defined]
    await asyncio.sleep(0)
    return 42


async def test_a_task_that_a_coroutine_leaves_does_not_keep_its_result() -> None:
    async with bridge.ProcessExecutor(1, initializer=be_impatient) as executor:
        with anyio.fail_after(PATIENCE):
            assert await executor.run(leave_a_task_that_does_not_end) == 42
            assert await executor.run(targets.sleep_and_return, 1, 0.001) == 1


async def test_a_coroutine_closure_runs_too(executor: bridge.ProcessExecutor) -> None:
    number = 41

    async def local() -> int:
        return await targets.sleep_and_return(number) + 1

    assert await executor.run(local) == 42


async def test_stop_iteration_survives_on_its_way_to_an_await(executor: bridge.ProcessExecutor) -> None:
    with pytest.raises(RuntimeError, match="StopIteration"):
        await executor.run(next, iter(()))


# -- errors and context --------------------------------------------------------------------------------------------------


async def test_an_error_brings_the_workers_traceback_and_where_it_was_submitted(
    executor: bridge.ProcessExecutor,
) -> None:
    with pytest.raises(Deliberate) as caught:
        await executor.run(targets.fail, "with its traceback")
    assert "process_targets.py" in str(caught.value.__cause__)
    assert "in fail" in str(caught.value.__cause__)
    assert "bridge/executors" not in str(caught.value.__cause__)
    here = [note for note in caught.value.__notes__ if "test_process_executor.py" in note]
    assert here
    assert "test_an_error_brings" in here[0]


async def test_an_error_of_submit_knows_where_it_was_submitted(executor: bridge.ProcessExecutor) -> None:
    future = executor.submit(targets.fail)
    await until(future.done)
    error = future.exception()
    assert error is not None
    assert any("test_process_executor.py" in note for note in error.__notes__)


# -- from elsewhere ------------------------------------------------------------------------------------------------------


async def test_jobs_of_another_threads_loop_and_of_no_loop_are_welcome(executor: bridge.ProcessExecutor) -> None:
    found: list[Any] = []

    def elsewhere() -> None:
        found.append(executor.submit(pow, 2, 5).result(targets.PATIENCE))
        found.append(list(executor.map(pow, [2, 3], [3, 2])))
        found.append(bridge.run(executor.run, pow, 2, 6))

    thread = threading.Thread(target=elsewhere)
    thread.start()
    assert await executor.run(pow, 2, 4) == 16
    with anyio.fail_after(targets.PATIENCE):
        while thread.is_alive():
            await anyio.sleep(0.001)
    assert found == [32, [8, 9], 64]


@pytest.mark.skipif(sys.version_info < (3, 14), reason="Executor.map has buffersize= from Python 3.14 on")
@pytest.mark.parametrize("chunksize", [1, 3])
def test_map_reads_no_further_ahead_than_buffersize(chunksize: int) -> None:
    read: list[int] = []

    def numbers() -> Iterator[int]:
        for number in range(30):
            read.append(number)
            yield number

    with bridge.ProcessExecutor(1) as executor:
        results = executor.map(abs, numbers(), chunksize=chunksize, buffersize=2)
        assert len(read) == 2 * chunksize
        assert next(results) == 0
        assert len(read) <= 3 * chunksize + 1
        assert list(results) == list(range(1, 30))

"""One crash, one casualty (law 5): exactly the running job fails, and says so; everything else runs, exactly once."""

# ruff: noqa: F811 - fixtures are imported by name
from __future__ import annotations

import concurrent.futures
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import aclosing
from typing import Any

import anyio
import process_targets as targets
import pytest
from process_targets import Deliberate, Fatal, Gate, Tally

import bridge
from tests.processes import (  # noqa: F401
    Attempt,
    alive,
    anyio_backend,
    attempt_all,
    begun,
    children,
    collect,
    executor,
    gate,
    kill,
    new_gate,
    no_thread_left,
    reaped,
    tally,
    until,
    wait_until,
)

pytestmark = [pytest.mark.anyio, pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX")]


@pytest.fixture(scope="module", autouse=True)
def no_core_files() -> Any:
    """Crashes are wanted here, their core files are not. Workers inherit it."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (0, hard))
    yield
    resource.setrlimit(resource.RLIMIT_CORE, (soft, hard))


# -- the running job -----------------------------------------------------------------------------------------------------

DEATHS = {
    "segfault": (targets.crash, (), signal.SIGSEGV, None),
    "abort": (os.abort, (), signal.SIGABRT, None),
    "os._exit": (os._exit, (7,), None, 7),
    "os._exit(0)": (os._exit, (0,), None, 0),
    "SIGKILL": (targets.end_by_signal, (signal.SIGKILL,), signal.SIGKILL, None),
    "SIGTERM": (targets.end_by_signal, (signal.SIGTERM,), signal.SIGTERM, None),
}


@pytest.mark.parametrize("death", DEATHS)
async def test_a_death_fails_the_job_and_says_everything(executor: bridge.ProcessExecutor, death: str) -> None:
    fn, args, number, code = DEATHS[death]
    with pytest.raises(bridge.WorkerDied) as caught:
        await executor.run(fn, *args)
    error = caught.value
    assert isinstance(error, concurrent.futures.BrokenExecutor)
    assert isinstance(error, bridge.BridgeError)
    assert fn.__name__ in error.function
    assert (error.signal, error.exitcode) == ((number, -number) if number else (None, code))
    for part in (fn.__name__, str(error.pid), "crew", number.name if number else str(code)):
        assert part in str(error)
    assert any("test_process_crashes.py" in note for note in error.__notes__)
    await until(lambda: reaped(error.pid))
    assert await executor.run(pow, 2, 5) == 32


async def test_a_coroutine_function_that_crashes_is_a_casualty_too(executor: bridge.ProcessExecutor) -> None:
    async def crash_later() -> None:
        await targets.sleep_and_return(None)
        os._exit(3)

    with pytest.raises(bridge.WorkerDied, match="crash_later"):
        await executor.run(crash_later)
    assert await executor.run(targets.sleep_and_return, "fine") == "fine"


async def test_sys_exit_ends_the_function_not_the_executor(executor: bridge.ProcessExecutor) -> None:
    future = executor.submit(sys.exit, 3)
    await until(future.done)
    assert isinstance(future.exception(), (SystemExit, bridge.WorkerDied))
    assert await executor.run(pow, 2, 5) == 32


async def test_jobs_in_other_workers_do_not_notice(
    executor: bridge.ProcessExecutor, begun: Gate, gate: Gate, tally: Tally
) -> None:
    beside = executor.submit(targets.announce_and_wait, begun, gate)
    pid = int(await begun.reached())
    with pytest.raises(bridge.WorkerDied):
        await executor.run(targets.add_then, tally, "casualty", targets.crash)
    gate.open()
    await until(beside.done)
    assert beside.result() == pid
    assert tally.count() == {"casualty": 1}


@pytest.mark.parametrize("trained", [False, True], ids=["unknown lengths", "known to be short"])
async def test_of_many_jobs_only_those_that_crash_fail_and_all_run_once(
    executor: bridge.ProcessExecutor, tally: Tally, trained: bool
) -> None:
    """Also those which lay in the dead worker's pipe, and those whose results it had not sent yet."""
    if trained:
        for _ in range(50):
            await executor.run(targets.pid_of)
    crashing = {3, 17, 18, 40}

    def job(number: int) -> Any:
        if number in crashing:
            return executor.run(targets.add_then, tally, number, os._exit, 1)
        return executor.run(targets.add_and_return, tally, number)

    attempts = await attempt_all(*map(job, range(60)))
    failed = {number for number, attempt in enumerate(attempts) if isinstance(attempt.error, bridge.WorkerDied)}
    assert failed == crashing
    assert [a.value for n, a in enumerate(attempts) if n not in crashing] == [n for n in range(60) if n not in crashing]
    assert tally.count() == {str(number): 1 for number in range(60)}


async def test_a_stream_gives_what_came_before_the_crash(executor: bridge.ProcessExecutor) -> None:
    found: list[int] = []
    with pytest.raises(bridge.WorkerDied, match="numbers_then"):
        await collect(executor.stream(targets.numbers_then, 5, os._exit, 1), found)
    assert found == [0, 1, 2, 3, 4]
    assert await executor.run(pow, 2, 5) == 32


async def test_amap_raises_where_the_crash_was(executor: bridge.ProcessExecutor) -> None:
    found: list[int] = []

    def maybe(number: int) -> int:
        if number == 5:
            os._exit(1)
        return number

    async with aclosing(executor.amap(maybe, range(100), in_flight=3)) as results:
        with pytest.raises(bridge.WorkerDied, match="maybe"):
            await collect(results, found)
    assert found == [0, 1, 2, 3, 4]


# -- other moments -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("when", "code"), [("unpickled", 12), ("pickled", 11)])
async def test_death_by_an_argument_or_a_result(executor: bridge.ProcessExecutor, when: str, code: int) -> None:
    with pytest.raises(bridge.WorkerDied) as caught:
        await executor.run(targets.echo, [Fatal(when, os.getpid())])
    assert caught.value.exitcode == code
    assert "echo" in caught.value.function
    assert await executor.run(pow, 2, 5) == 32


async def test_death_while_idle_fails_nobody() -> None:
    async with bridge.ProcessExecutor(1) as executor:
        for number in range(8):
            kill(await executor.run(targets.pid_of))
            assert await executor.run(targets.echo, number) == number  # sent before the death can be known


async def test_workers_killed_while_idle_are_noticed_and_replaced(executor: bridge.ProcessExecutor) -> None:
    pid = await executor.run(targets.pid_of)
    kill(pid)
    await until(lambda: pid not in [worker.pid for worker in executor.statistics().workers])
    await until(lambda: reaped(pid))
    assert await executor.run(targets.pid_of) != pid


async def test_a_worker_that_dies_starting_up_is_tried_again(new_gate: Callable[[str], Gate]) -> None:
    been_here = new_gate("been here")
    async with bridge.ProcessExecutor(1, initializer=targets.die_the_first_time, initargs=(been_here,)) as executor:
        assert await executor.run(targets.echo, "second try") == "second try"
    assert been_here.is_open()


@pytest.mark.parametrize("how", ["initializer dies", "initializer raises", "interpreter does not start"])
async def test_a_crash_loop_at_start_up_is_recognised(how: str, tally: Tally) -> None:
    options: dict[str, Any] = {
        "initializer dies": {"initializer": targets.add_then, "initargs": (tally, "start", os._exit, 9)},
        "initializer raises": {"initializer": targets.add_then, "initargs": (tally, "start", targets.fail, "no db")},
        "interpreter does not start": {"env": {"PYTHONHOME": "/nonexistent", "PYTHONPATH": "/nonexistent"}},
    }[how]
    expected: Any = (bridge.WorkerDied, Deliberate) if how == "initializer raises" else bridge.WorkerDied
    async with bridge.ProcessExecutor(2, name="never up", **options) as executor:
        attempts = await attempt_all(*(executor.run(targets.echo, n) for n in range(4)))
        assert [isinstance(attempt.error, expected) for attempt in attempts] == [True] * 4
        with pytest.raises(expected) as caught:
            await executor.run(targets.echo, "later")
    if how == "initializer dies":
        assert "initializer" in str(caught.value)
    if how == "initializer raises":
        assert "no db" in f"{caught.value} {caught.value.__cause__}"
    assert tally.count().total() <= 20


async def test_memory_limit_ends_the_one_function_that_takes_too_much(begun: Gate, gate: Gate, tmp_path: Any) -> None:
    beside = Gate(tmp_path / "beside")
    async with bridge.ProcessExecutor(2, memory_limit=200 << 20) as executor:
        other = executor.submit(targets.announce_and_wait, beside, gate)
        pid = int(await beside.reached())
        with pytest.raises(bridge.WorkerMemoryExceeded, match="take_memory") as caught:
            await executor.run(targets.take_memory, 400 << 20, begun)
        gate.open()
        await until(other.done)
        assert other.result() == pid
        assert await executor.run(pow, 2, 5) == 32
    assert isinstance(caught.value, bridge.WorkerDied)
    assert "200" in str(caught.value)
    assert not alive(caught.value.pid)


def test_workers_do_not_outlive_a_parent_that_is_killed(begun: Gate) -> None:
    program = (
        "import bridge, process_targets as t\n"
        "with bridge.ProcessExecutor(2) as executor:\n"
        "    executor.submit(t.pid_of).result()\n"
        f"    executor.submit(t.sleep_for_ever, t.Gate({begun.path!r})).result()\n"
    )
    path = os.pathsep.join(filter(None, sys.path))
    parent = subprocess.Popen([sys.executable, "-c", program], env={**os.environ, "PYTHONPATH": path})
    pid = int(begun.wait())
    workers = children(parent.pid)
    assert pid in workers
    parent.kill()
    parent.wait()
    wait_until(lambda: not [worker for worker in workers if alive(worker)])


# -- a thousand cuts -----------------------------------------------------------------------------------------------------


async def test_a_crowd_of_casualties_does_not_break_the_executor(executor: bridge.ProcessExecutor) -> None:
    with anyio.fail_after(60):
        attempts = await attempt_all(*(executor.run(os._exit, 1) for _ in range(12)))
    assert [type(attempt.error) for attempt in attempts] == [bridge.WorkerDied] * 12
    assert len({attempt.error.pid for attempt in attempts}) == 12
    assert await executor.run(pow, 2, 5) == 32


async def test_cancelled_and_dead_at_the_same_time_ends_once(executor: bridge.ProcessExecutor, begun: Gate) -> None:
    attempt = Attempt()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(attempt.make, executor.run, targets.sleep_for_ever, begun)
        kill(int(await begun.reached()))
        attempt.scope.cancel()
    assert attempt.cancelled or isinstance(attempt.error, bridge.WorkerDied)
    assert await executor.run(pow, 2, 5) == 32

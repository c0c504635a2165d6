"""Hard cancellation (law 4) in processes: what runs is ended with all its descendants, and nothing else is touched."""

# ruff: noqa: F811 - fixtures are imported by name
from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import process_targets as targets
import psutil
import pytest
from process_targets import Gate, Tally

import bridge
from tests.processes import (  # noqa: F401
    Attempt,
    alive,
    anyio_backend,
    attempt_all,
    begun,
    executor,
    gate,
    new_gate,
    no_thread_left,
    reaped,
    tally,
    until,
)

pytestmark = [pytest.mark.anyio, pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX")]


async def cancel_once_begun(call: Any, begun: Gate, *args: Any) -> tuple[Attempt, int]:
    """Await a call, cancel it when it has begun in its worker; what became of it, and that worker's pid."""
    attempt = Attempt()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(attempt.make, call, *args)
        pid = int((await begun.reached()).split()[0])
        attempt.scope.cancel()
    return attempt, pid


# -- kill ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fn", [targets.sleep_for_ever, targets.compute_for_ever, targets.hold_the_interpreter])
async def test_a_cancelled_function_is_ended_whatever_it_does(
    executor: bridge.ProcessExecutor, begun: Gate, fn: Callable[[Gate], None]
) -> None:
    attempt, pid = await cancel_once_begun(executor.run, begun, fn, begun)
    assert attempt.cancelled
    assert not alive(pid)
    assert await executor.run(targets.pid_of) != pid


async def test_sigkill_ends_what_ignores_everything_else(executor: bridge.ProcessExecutor, begun: Gate) -> None:
    attempt, pid = await cancel_once_begun(executor.run, begun, targets.ignore_everything, begun)
    assert attempt.cancelled
    assert not alive(pid)


async def test_first_the_flag_then_after_grace_sigterm(begun: Gate, new_gate: Callable[[str], Gate]) -> None:
    told, terminated = new_gate("told"), new_gate("terminated")
    async with bridge.ProcessExecutor(1, grace=0.3) as executor:
        attempt, _ = await cancel_once_begun(executor.run, begun, targets.note_each_warning, begun, told, terminated)
    assert attempt.cancelled
    assert float(terminated.wait()) - float(told.wait()) > 0.2


async def test_a_function_that_ends_when_told_keeps_its_worker(begun: Gate, new_gate: Callable[[str], Gate]) -> None:
    ended = new_gate("ended")
    async with bridge.ProcessExecutor(1, grace=targets.PATIENCE) as executor:
        attempt, pid = await cancel_once_begun(executor.run, begun, targets.until_cancelled, begun, ended)
        assert attempt.cancelled
        assert ended.is_open()
        assert await executor.run(targets.pid_of) == pid


async def test_a_coroutine_in_a_worker_is_cancelled_with_its_clean_up(
    begun: Gate, new_gate: Callable[[str], Gate]
) -> None:
    ended = new_gate("ended")
    async with bridge.ProcessExecutor(1, grace=targets.PATIENCE) as executor:
        attempt, pid = await cancel_once_begun(executor.run, begun, targets.wait_for_ever, begun, ended)
        assert attempt.cancelled
        assert ended.is_open()
        assert await executor.run(targets.pid_of) == pid


async def test_descendants_end_with_the_function_also_those_in_sessions_of_their_own(
    executor: bridge.ProcessExecutor, begun: Gate
) -> None:
    await cancel_once_begun(executor.run, begun, targets.with_children, begun)
    pids = [int(pid) for pid in begun.wait().split()]
    assert len(pids) == 5
    try:
        await until(lambda: not [pid for pid in pids if alive(pid)])
    finally:
        for pid in filter(alive, pids):
            psutil.Process(pid).kill()


async def test_only_the_one_function_is_ended(
    executor: bridge.ProcessExecutor, begun: Gate, gate: Gate, new_gate: Callable[[str], Gate]
) -> None:
    beside = new_gate("beside")
    other = executor.submit(targets.announce_and_wait, beside, gate)
    pid_beside = int(await beside.reached())
    _, pid = await cancel_once_begun(executor.run, begun, targets.sleep_for_ever, begun)
    assert not alive(pid)
    assert alive(pid_beside)
    gate.open()
    await until(other.done)
    assert other.result() == pid_beside


async def test_an_ended_worker_leaves_no_zombie(executor: bridge.ProcessExecutor, begun: Gate) -> None:
    _, pid = await cancel_once_begun(executor.run, begun, targets.sleep_for_ever, begun)
    await until(lambda: reaped(pid))


async def test_a_deadline_ends_the_function_and_says_which(executor: bridge.ProcessExecutor, begun: Gate) -> None:
    await executor.run(targets.pid_of)
    hurried = bridge.offload(to=executor, timeout=0.3)(targets.sleep_for_ever)
    with pytest.raises(bridge.OffloadTimeout, match=r"sleep_for_ever.*0\.3 s"):
        await hurried(begun)
    assert not alive(int(begun.wait()))


async def test_a_deadline_in_the_queue_withdraws(begun: Gate, gate: Gate, new_gate: Callable[[str], Gate]) -> None:
    never = new_gate("never")
    async with bridge.ProcessExecutor(1) as executor:
        running = executor.submit(targets.announce_and_wait, begun, gate)
        pid = int(await begun.reached())
        hurried = bridge.offload(to=executor, timeout=0.05, cancel="kill")(targets.sleep_for_ever)
        with pytest.raises(bridge.OffloadTimeout, match="had not begun"):
            await hurried(never)
        gate.open()
        await until(running.done)
        assert running.result() == pid
        assert await executor.run(targets.pid_of) == pid
    assert not never.is_open()


async def test_kill_is_the_default_and_all_three_modes_are_known(executor: bridge.ProcessExecutor) -> None:
    assert executor.cancel_modes == ("kill", "wait", "abandon")
    with pytest.raises(ValueError, match="shoot"):
        bridge.offload(to=executor, cancel="shoot")(targets.pid_of)  # type: ignore[call-overload]


async def test_the_next_job_runs_after_many_kills(tmp_path: Any) -> None:
    async with bridge.ProcessExecutor(1, grace=0.0) as executor:
        await executor.prestart()
        pids = set()
        for number in range(4):
            begun = Gate(tmp_path / str(number))
            _, pid = await cancel_once_begun(executor.run, begun, targets.sleep_for_ever, begun)
            pids.add(pid)
            assert await executor.run(targets.echo, number) == number
    assert len(pids) == 4


# -- jobs that had not begun ---------------------------------------------------------------------------------------------


@asynccontextmanager
async def busy_worker(begun: Gate, gate: Gate) -> AsyncIterator[tuple[bridge.ProcessExecutor, int]]:
    """One worker that has been told by many short jobs that more may wait in its pipe, and runs a long one now."""
    async with bridge.ProcessExecutor(1) as executor:
        for _ in range(50):
            await executor.run(targets.pid_of)
        running = executor.submit(targets.announce_and_wait, begun, gate)
        try:
            yield executor, int(await begun.reached())
        finally:
            gate.open()
            await until(running.done)


async def test_cancelling_a_waiting_job_withdraws_it_and_kills_nobody(begun: Gate, gate: Gate, tally: Tally) -> None:
    async with busy_worker(begun, gate) as (executor, pid):
        async with anyio.create_task_group() as tasks:
            attempts = [Attempt() for _ in range(6)]
            for number, attempt in enumerate(attempts):
                tasks.start_soon(attempt.make, executor.run, targets.add_and_return, tally, number)
            await until(lambda: executor.statistics().queued == 6)
            for number in (4, 0, 5):
                attempts[number].scope.cancel()
            await until(lambda: sum(attempt.over for attempt in attempts) == 3)
            assert executor.statistics().queued == 3
            gate.open()
        assert await executor.run(targets.pid_of) == pid
    assert tally.count() == {"1": 1, "2": 1, "3": 1}
    assert [attempt.cancelled for attempt in attempts] == [True, False, False, False, True, True]


async def test_jobs_behind_a_killed_one_run_once_elsewhere(begun: Gate, tally: Tally) -> None:
    async with bridge.ProcessExecutor(1, grace=0.0) as executor:
        for _ in range(50):
            await executor.run(targets.pid_of)
        attempt = Attempt()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(attempt.make, executor.run, targets.sleep_for_ever, begun)
            await begun.reached()
            behind = [executor.submit(targets.add_and_return, tally, n) for n in range(20)]
            attempt.scope.cancel()
        await until(lambda: all(future.done() for future in behind))
    assert [future.result() for future in behind] == list(range(20))
    assert tally.count() == {str(n): 1 for n in range(20)}


async def test_short_jobs_sent_together_with_one_that_is_killed_run_once(begun: Gate, tally: Tally) -> None:
    async with bridge.ProcessExecutor(1, grace=0.0) as executor:
        for _ in range(50):
            await executor.run(targets.pid_of)
        attempt, behind = Attempt(), []
        async with anyio.create_task_group() as tasks:
            behind += [executor.submit(targets.add_and_return, tally, n) for n in range(5)]
            tasks.start_soon(attempt.make, executor.run, targets.sleep_for_ever, begun)
            await anyio.sleep(0)
            behind += [executor.submit(targets.add_and_return, tally, n) for n in range(5, 10)]
            await begun.reached()
            attempt.scope.cancel()
        await until(lambda: all(future.done() for future in behind))
    assert [future.result() for future in behind] == list(range(10))
    assert tally.count() == {str(n): 1 for n in range(10)}


# -- wait and abandon ----------------------------------------------------------------------------------------------------


async def test_wait_ends_when_the_function_has_ended(executor: bridge.ProcessExecutor, begun: Gate, gate: Gate) -> None:
    patient = bridge.offload(to=executor, cancel="wait")(targets.announce_and_wait)
    attempt = Attempt()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(attempt.make, patient, begun, gate)
        pid = int(await begun.reached())
        attempt.scope.cancel()
        assert await executor.run(targets.pid_of) != pid
        assert not attempt.over
        gate.open()
    assert attempt.cancelled
    assert alive(pid)


async def test_wait_tells_the_function(begun: Gate) -> None:
    async with bridge.ProcessExecutor(1) as executor:
        patient = bridge.offload(to=executor, cancel="wait")(targets.until_cancelled)
        attempt, pid = await cancel_once_begun(patient, begun, begun)
        assert attempt.cancelled
        assert await executor.run(targets.pid_of) == pid


async def test_abandon_ends_the_await_now_and_the_slot_is_free_when_the_function_ends(
    begun: Gate, gate: Gate, new_gate: Callable[[str], Gate]
) -> None:
    def work() -> None:
        targets.announce_and_wait(begun, gate)
        ended.open()

    ended = new_gate("ended")
    async with bridge.ProcessExecutor(1) as executor:
        careless = bridge.offload(to=executor, cancel="abandon")(work)
        attempt, pid = await cancel_once_begun(careless, begun)
        assert attempt.cancelled
        assert not ended.is_open()
        assert executor.statistics().running == 1
        gate.open()
        assert await executor.run(targets.pid_of) == pid
        assert ended.is_open()


@pytest.mark.parametrize("mode", ["wait", "abandon"])
async def test_a_deadline_keeps_to_the_mode(begun: Gate, gate: Gate, new_gate: Callable[[str], Gate], mode: Any) -> None:
    def work() -> None:
        try:
            targets.until_cancelled(begun)
        finally:
            told.open()
            gate.wait()

    told = new_gate("told")
    async with bridge.ProcessExecutor(1) as executor:
        await executor.run(targets.pid_of)
        hurried = bridge.offload(to=executor, timeout=0.1, cancel=mode)(work)
        attempt = Attempt()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(attempt.make, hurried)
            pid = int(await begun.reached())
            await told.reached()
            if mode == "abandon":
                await until(lambda: attempt.over)
            assert attempt.over == (mode == "abandon")
            gate.open()
        assert isinstance(attempt.error, bridge.OffloadTimeout)
        assert await executor.run(targets.pid_of) == pid


# -- races ---------------------------------------------------------------------------------------------------------------


async def test_cancelling_at_any_moment_loses_nothing(executor: bridge.ProcessExecutor, tally: Tally) -> None:
    """Some are withdrawn, some are killed, some end just then: each ends once, none begins twice, the rest goes on."""
    dice = random.Random(1)
    attempts = [Attempt() for _ in range(60)]
    async with anyio.create_task_group() as tasks:
        for number, attempt in enumerate(attempts):
            tasks.start_soon(attempt.make, executor.run, targets.add_and_return, tally, number, dice.random() / 100)
        for attempt in dice.sample(attempts, 12):
            await anyio.sleep(dice.random() / 50)
            attempt.scope.cancel()
    done = tally.count()
    assert max(done.values()) == 1
    for number, attempt in enumerate(attempts):
        assert attempt.error is None
        assert attempt.cancelled or (attempt.value == number and done[str(number)] == 1)


async def test_a_whole_crowd_is_cancelled_at_once(executor: bridge.ProcessExecutor, begun: Gate) -> None:
    async with anyio.create_task_group() as tasks:
        for _ in range(30):
            tasks.start_soon(executor.run, targets.sleep_for_ever, begun)
        await begun.reached()
        tasks.cancel_scope.cancel()
    assert {attempt.value for attempt in await attempt_all(*(executor.run(pow, 2, 3) for _ in range(8)))} == {8}


async def test_a_call_that_is_killed_before_its_worker_has_begun_with_it_begins_nowhere(
    executor: bridge.ProcessExecutor, begun: Gate
) -> None:
    pid = await executor.run(os.getpid)
    os.kill(pid, signal.SIGSTOP)
    attempt = Attempt()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(attempt.make, executor.run, targets.sleep_for_ever, begun)
        await until(lambda: executor.statistics().running == 1)
        attempt.scope.cancel()
    assert attempt.cancelled
    assert await executor.run(pow, 2, 3) == 8
    assert not begun.is_open()


def test_the_native_ways_of_asyncio(loop_factory: Callable[[], Any] | None, tmp_path: Any) -> None:
    async def main() -> None:
        async with bridge.ProcessExecutor(1, grace=0.0) as executor:
            first, second = Gate(tmp_path / "first"), Gate(tmp_path / "second")
            task = asyncio.create_task(executor.run(targets.sleep_for_ever, first))
            await first.reached()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.5):
                    await executor.run(targets.sleep_for_ever, second)
            assert await executor.run(pow, 2, 3) == 8

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(main())

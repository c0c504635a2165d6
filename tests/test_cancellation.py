"""The cancellation contract (law 4), the same on every loop: what is queued is withdrawn, what runs ends as told."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest

import bridge
from tests.conftest import PATIENCE, Gate, within


def until_cancelled(started: Gate, ended: Gate | None = None) -> None:
    """A well-behaved blocking function: it asks from time to time whether anybody still wants it."""
    started.open()
    give_up = time.monotonic() + PATIENCE
    try:
        while time.monotonic() < give_up:
            bridge.check_cancelled()
            time.sleep(0.001)
    finally:
        if ended is not None:
            ended.open()
    raise AssertionError("nobody cancelled this function")


def wait_for(started: Gate, gate: Gate, result: Any = None) -> Any:
    """A blocking function that cannot be told anything."""
    started.open()
    gate.wait()
    if isinstance(result, BaseException):
        raise result
    return result


async def turns(number: int = 20) -> None:
    """Let the loop go round a few times, so that all that is ready has happened."""
    for _ in range(number):
        await anyio.sleep(0)


async def until(condition: Callable[[], object]) -> None:
    with anyio.fail_after(PATIENCE):
        while not condition():
            await anyio.sleep(0.001)


class Attempt:
    """One await in a cancel scope of its own, and how it ended."""

    def __init__(self) -> None:
        self.scope = anyio.CancelScope()
        self.over = False
        self.value: Any = None
        self.error: BaseException | None = None

    async def make(self, fn: Callable[..., Awaitable[Any]], *args: Any) -> None:
        try:
            with self.scope:
                try:
                    self.value = await fn(*args)
                except Exception as error:
                    self.error = error
        finally:
            self.over = True

    @property
    def cancelled(self) -> bool:
        return self.scope.cancelled_caught


@asynccontextmanager
async def busy_executor() -> AsyncIterator[tuple[bridge.ThreadExecutor, Gate]]:
    """One worker, occupied until the gate is opened."""
    async with bridge.ThreadExecutor(1, name="narrow") as executor:
        started, gate = Gate(), Gate()
        executor.submit(wait_for, started, gate)
        try:
            await started.reached()
            yield executor, gate
        finally:
            gate.open()


# -- queued --------------------------------------------------------------------------------------------------------------


class Big:
    """Something that a weak reference can watch."""


@pytest.mark.anyio
async def test_a_queued_call_is_withdrawn_and_lets_go_of_its_arguments() -> None:
    ran: list[Any] = []
    async with busy_executor() as (executor, gate), anyio.create_task_group() as tasks:
        executor.submit(int)  # in front of it, so that what is withdrawn stays in the queue as a shell
        big = Big()
        seen = weakref.ref(big)
        attempt = Attempt()
        tasks.start_soon(attempt.make, executor.run, ran.append, big)
        del big
        await until(lambda: executor.statistics().queued == 2)
        attempt.scope.cancel()
        await until(lambda: attempt.over)
        assert attempt.cancelled
        assert not gate.is_open()
        await turns()
        gc.collect()
        assert seen() is None
        assert executor.statistics().queued == 1
        assert executor.statistics().cancelled == 1
    assert not ran


@pytest.mark.anyio
async def test_withdrawing_from_the_middle_of_the_queue_disturbs_nobody() -> None:
    ran: list[int] = []
    async with busy_executor() as (executor, gate), anyio.create_task_group() as tasks:
        attempts = [Attempt() for _ in range(6)]
        for number, attempt in enumerate(attempts):
            tasks.start_soon(attempt.make, executor.run, ran.append, number)
            await until(lambda number=number: executor.statistics().queued == number + 1)
        for number in (3, 1, 4):
            attempts[number].scope.cancel()
        await until(lambda: sum(attempt.over for attempt in attempts) == 3)
        gate.open()
    assert ran == [0, 2, 5]


@pytest.mark.anyio
async def test_a_queued_call_is_withdrawn_with_every_mode() -> None:
    async with busy_executor() as (executor, _gate), anyio.create_task_group() as tasks:
        for mode in executor.cancel_modes:
            attempt = Attempt()
            offloaded = bridge.offload(to=executor, cancel=mode)(print)
            tasks.start_soon(attempt.make, offloaded, "never")
            await until(lambda: executor.statistics().queued == 1)
            attempt.scope.cancel()
            await until(lambda attempt=attempt: attempt.over)
            assert attempt.cancelled


@pytest.mark.anyio
async def test_a_scope_that_is_cancelled_already_ends_the_await() -> None:
    with anyio.CancelScope() as scope:
        scope.cancel()
        await bridge.to_thread(int)
    assert scope.cancelled_caught


# -- wait ----------------------------------------------------------------------------------------------------------------


@pytest.mark.anyio
async def test_by_default_the_await_ends_when_the_function_does(new_gate: type[Gate]) -> None:
    started, gate = new_gate(), new_gate()
    attempt = Attempt()
    async with anyio.create_task_group() as tasks:
        try:
            tasks.start_soon(attempt.make, bridge.to_thread, wait_for, started, gate, "dropped")
            await started.reached()
            attempt.scope.cancel()
            await turns()
            assert not attempt.over
        finally:
            gate.open()
    assert attempt.cancelled
    assert attempt.value is None


@pytest.mark.anyio
async def test_check_cancelled_ends_it_early_with_the_backends_own_error(new_gate: type[Gate]) -> None:
    started, ended = new_gate(), new_gate()
    seen: list[BaseException] = []

    def fn() -> None:
        try:
            until_cancelled(started, ended)
        except BaseException as error:
            seen.append(error)
            raise

    attempt = Attempt()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(attempt.make, bridge.to_thread, fn)
        await started.reached()
        attempt.scope.cancel()
    assert attempt.cancelled
    assert ended.is_open()
    assert isinstance(seen[0], anyio.get_cancelled_exc_class())


@pytest.mark.anyio
async def test_a_function_that_waits_for_the_loop_is_told_there(new_gate: type[Gate]) -> None:
    started, cleaned = new_gate(), new_gate()
    seen: list[BaseException] = []

    async def on_the_loop() -> None:
        started.open()
        try:
            await anyio.sleep_forever()
        finally:
            cleaned.open()

    def fn() -> None:
        try:
            bridge.portal().call(on_the_loop)
        except BaseException as error:
            seen.append(error)
            raise

    attempt = Attempt()
    with anyio.fail_after(PATIENCE):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(attempt.make, bridge.to_thread, fn)
            await started.reached()
            attempt.scope.cancel()
    assert attempt.cancelled
    assert cleaned.is_open()
    assert isinstance(seen[0], anyio.get_cancelled_exc_class())


@pytest.mark.anyio
async def test_the_functions_own_exception_wins_over_the_cancellation(new_gate: type[Gate]) -> None:
    started, gate = new_gate(), new_gate()
    attempt = Attempt()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(attempt.make, bridge.to_thread, wait_for, started, gate, KeyError("its own"))
        await started.reached()
        attempt.scope.cancel()
        await turns()
        gate.open()
    assert isinstance(attempt.error, KeyError)
    assert not attempt.cancelled


@pytest.mark.anyio
async def test_a_function_that_swallows_the_cancellation_does_not_undo_it(new_gate: type[Gate]) -> None:
    started = new_gate()

    def stubborn() -> str:
        try:
            until_cancelled(started)
        except BaseException:
            pass
        return "as if nothing had happened"

    attempt = Attempt()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(attempt.make, bridge.to_thread, stubborn)
        await started.reached()
        attempt.scope.cancel()
    assert attempt.cancelled
    assert attempt.value is None


@pytest.mark.anyio
async def test_a_shielded_call_hears_nothing(new_gate: type[Gate]) -> None:
    started, gate = new_gate(), new_gate()
    told: list[bool] = []

    def fn() -> str:
        wait_for(started, gate)
        bridge.check_cancelled()
        told.append(False)
        return "whole"

    async def shielded() -> str:
        with anyio.CancelScope(shield=True):
            return await bridge.to_thread(fn)

    attempt = Attempt()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(attempt.make, shielded)
        await started.reached()
        attempt.scope.cancel()
        await turns()
        gate.open()
    assert told == [False]


@pytest.mark.anyio
async def test_a_failing_sibling_cancels_and_the_group_ends_with_its_error(new_gate: type[Gate]) -> None:
    started, ended = new_gate(), new_gate()

    async def fail() -> None:
        await started.reached()
        raise LookupError("the sibling")

    with pytest.raises(BaseExceptionGroup) as caught:  # noqa: PT012 - the group raises as it is left
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(bridge.to_thread, until_cancelled, started, ended)
            tasks.start_soon(fail)
    assert ended.is_open()
    assert [type(error) for error in caught.value.exceptions] == [LookupError]


@pytest.mark.anyio
async def test_nested_scopes_are_cancelled_from_outside_in(new_gate: type[Gate]) -> None:
    started, gate = new_gate(), new_gate()
    inner = anyio.CancelScope()
    attempt = Attempt()

    async def in_a_scope() -> None:
        with inner:
            await bridge.to_thread(wait_for, started, gate)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(attempt.make, in_a_scope)
        await started.reached()
        inner.cancel()
        await turns()
        attempt.scope.cancel()
        await turns()
        gate.open()
    assert attempt.over
    assert inner.cancelled_caught or attempt.cancelled


def test_check_cancelled_does_nothing_outside_a_worker_and_in_one_that_is_wanted() -> None:
    bridge.check_cancelled()
    with bridge.ThreadExecutor(1) as executor:
        assert executor.submit(bridge.check_cancelled).result(PATIENCE) is None


@pytest.mark.anyio
async def test_the_next_function_on_the_same_thread_is_not_told(new_gate: type[Gate]) -> None:
    async with bridge.ThreadExecutor(1) as executor:
        for _ in range(5):
            started, attempt = new_gate(), Attempt()
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(attempt.make, executor.run, until_cancelled, started)
                await started.reached()
                attempt.scope.cancel()
            assert await executor.run(bridge.check_cancelled) is None


# -- abandon -------------------------------------------------------------------------------------------------------------


@pytest.mark.anyio
async def test_abandon_ends_the_await_now_and_frees_the_slot_when_the_function_ends(new_gate: type[Gate]) -> None:
    started, gate, next_ran = new_gate(), new_gate(), new_gate()
    async with bridge.ThreadExecutor(1) as executor:
        try:
            offloaded = bridge.offload(to=executor, cancel="abandon")(wait_for)
            attempt = Attempt()
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(attempt.make, offloaded, started, gate)
                await started.reached()
                attempt.scope.cancel()
                await until(lambda: attempt.over)
            assert attempt.cancelled
            executor.submit(next_ran.open)
            await turns()
            assert executor.statistics().running == 1
            assert executor.statistics().queued == 1
            assert not next_ran.is_open()
        finally:
            gate.open()
        await next_ran.reached()


@pytest.mark.anyio
async def test_what_an_abandoned_function_ends_with_disturbs_nobody(new_gate: type[Gate]) -> None:
    started, gate = new_gate(), new_gate()
    async with bridge.ThreadExecutor(1) as executor:
        offloaded = bridge.offload(to=executor, cancel="abandon")(wait_for)
        attempt = Attempt()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(attempt.make, offloaded, started, gate, KeyError("nobody listens"))
            await started.reached()
            attempt.scope.cancel()
        gate.open()
        assert await executor.run(int) == 0
        await turns()
    assert attempt.cancelled
    assert attempt.error is None


# -- kill ----------------------------------------------------------------------------------------------------------------


def test_kill_is_refused_for_threads_with_the_advice() -> None:
    with bridge.ThreadExecutor(1, name="files") as executor:
        with pytest.raises(ValueError, match=r"cancel='kill' is not possible on 'files'.*check_cancelled\(\)"):
            bridge.offload(to=executor, cancel="kill")
    with pytest.raises(ValueError, match=r"A thread cannot be killed.*check_cancelled\(\)"):
        bridge.offload(cancel="kill")


@pytest.mark.anyio
async def test_kill_is_refused_at_the_call_when_the_lane_turns_out_to_be_threads() -> None:
    ran: list[int] = []
    offloaded = bridge.offload(to="db", cancel="kill")(ran.append)
    async with bridge.lanes(db=bridge.ThreadExecutor(1, name="database")):
        with pytest.raises(ValueError, match=r"not possible on 'database'.*'wait'.*'abandon'"):
            await offloaded(1)
    assert not ran


# -- timeout= ------------------------------------------------------------------------------------------------------------


@pytest.mark.anyio
async def test_a_timeout_while_running_says_how_long_it_waited_and_ran(new_gate: type[Gate]) -> None:
    started = new_gate()
    async with bridge.ThreadExecutor(1, name="files") as executor:
        with pytest.raises(bridge.OffloadTimeout) as caught:
            await bridge.offload(to=executor, timeout=0.05)(until_cancelled)(started)
    message = str(caught.value)
    assert "until_cancelled did not end within 0.05 s on 'files'" in message
    assert "s in the queue" in message
    assert "s running so far" in message
    assert "check_cancelled" in message
    assert isinstance(caught.value, TimeoutError)


@pytest.mark.anyio
async def test_a_timeout_while_queued_says_so_and_withdraws() -> None:
    ran: list[int] = []
    async with busy_executor() as (executor, _gate):
        with pytest.raises(
            bridge.OffloadTimeout,
            match=r"had not begun after 0.02 s.*waited for a worker of 'narrow'; it was withdrawn\.",
        ):
            await bridge.offload(to=executor, timeout=0.02)(ran.append)(1)
        assert executor.statistics().queued == 0
    assert not ran


@pytest.mark.anyio
async def test_with_abandon_a_timeout_does_not_wait_for_the_function(new_gate: type[Gate]) -> None:
    started, gate = new_gate(), new_gate()
    async with bridge.ThreadExecutor(1) as executor:
        with pytest.raises(bridge.OffloadTimeout, match="did not end within"):
            await bridge.offload(to=executor, timeout=0.05, cancel="abandon")(wait_for)(started, gate)
        gate.open()


@pytest.mark.anyio
async def test_by_default_a_timeout_waits_for_the_function_to_end(new_gate: type[Gate]) -> None:
    started, gate = new_gate(), new_gate()
    attempt = Attempt()
    async with anyio.create_task_group() as tasks:
        try:
            tasks.start_soon(attempt.make, bridge.offload(timeout=0.01)(wait_for), started, gate)
            await started.reached()
            await anyio.sleep(0.03)
            await turns()
            assert not attempt.over
        finally:
            gate.open()
    assert isinstance(attempt.error, bridge.OffloadTimeout)


@pytest.mark.anyio
async def test_the_functions_own_exception_wins_over_the_timeout(new_gate: type[Gate]) -> None:
    started = new_gate()

    def fail() -> None:
        try:
            until_cancelled(started)
        except BaseException:
            raise KeyError("its own") from None

    with pytest.raises(KeyError, match="its own"):
        await bridge.offload(timeout=0.02)(fail)()


@pytest.mark.anyio
async def test_a_timeout_error_of_the_function_itself_is_not_mistaken_for_ours() -> None:
    def fail() -> None:
        raise TimeoutError("the database is slow")

    with pytest.raises(TimeoutError, match="the database is slow") as caught:
        await bridge.offload(timeout=60)(fail)()
    assert type(caught.value) is TimeoutError


@pytest.mark.anyio
async def test_a_timeout_that_is_not_reached_leaves_no_trace() -> None:
    assert await bridge.offload(timeout=60)(int)("3") == 3
    assert await bridge.offload(timeout=float("inf"))(int)("3") == 3


@pytest.mark.anyio
async def test_a_cancellation_from_outside_is_not_reported_as_a_timeout(new_gate: type[Gate]) -> None:
    started = new_gate()
    attempt = Attempt()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(attempt.make, bridge.offload(timeout=60)(until_cancelled), started)
        await started.reached()
        attempt.scope.cancel()
    assert attempt.cancelled
    assert attempt.error is None


# -- native asyncio ------------------------------------------------------------------------------------------------------


def run_asyncio(loop_factory: Callable[[], Any] | None, main: Callable[[], Awaitable[None]]) -> None:
    """On a loop of its own, closed without cancelling what is left, so that a task that hangs fails its test only."""
    outcome: list[BaseException] = []

    def run() -> None:
        loop = asyncio.new_event_loop() if loop_factory is None else loop_factory()
        loop.set_exception_handler(lambda loop, context: None)
        try:
            loop.run_until_complete(main())
        except BaseException as error:
            outcome.append(error)
        finally:
            loop.close()

    thread = threading.Thread(target=run, name="asyncio")
    thread.start()
    within(thread)
    if outcome:
        raise outcome[0]


async def ended(task: asyncio.Task[Any]) -> None:
    """Wait for a task, at most PATIENCE, without caring how it ended."""
    await asyncio.wait([task], timeout=PATIENCE / 2)
    assert task.done(), f"{task!r} hangs"


def test_task_cancel_waits_for_the_function_and_keeps_its_message(loop_factory: Any, new_gate: type[Gate]) -> None:
    async def main() -> None:
        started, gate = new_gate(), new_gate()
        task = asyncio.create_task(bridge.to_thread(wait_for, started, gate))
        await started.reached()
        task.cancel("no longer wanted")
        await turns()
        assert not task.done()
        gate.open()
        await ended(task)
        with pytest.raises(asyncio.CancelledError, match="no longer wanted"):
            await task
        assert task.cancelled()

    run_asyncio(loop_factory, main)


def test_task_cancel_reaches_check_cancelled(loop_factory: Any, new_gate: type[Gate]) -> None:
    async def main() -> None:
        started = new_gate()
        task = asyncio.create_task(bridge.to_thread(until_cancelled, started))
        await started.reached()
        task.cancel()
        await ended(task)
        assert task.cancelled()

    run_asyncio(loop_factory, main)


def test_a_second_task_cancel_does_not_end_the_wait_early(loop_factory: Any, new_gate: type[Gate]) -> None:
    async def main() -> None:
        started, gate = new_gate(), new_gate()
        task = asyncio.create_task(bridge.to_thread(wait_for, started, gate))
        await started.reached()
        for _ in range(3):
            task.cancel()
            await turns()
            assert not task.done()
        gate.open()
        await ended(task)
        assert task.cancelled()

    run_asyncio(loop_factory, main)


def test_two_task_cancels_before_the_loop_gets_round_to_them_hang_nobody(loop_factory: Any, new_gate: type[Gate]) -> None:
    async def main() -> None:
        started, gate = new_gate(), new_gate()
        task = asyncio.create_task(bridge.to_thread(wait_for, started, gate))
        await started.reached()
        task.cancel()
        task.cancel()
        await turns()
        gate.open()
        await ended(task)
        assert task.cancelled()

    run_asyncio(loop_factory, main)


def test_cancels_in_every_rhythm_hang_nobody(loop_factory: Any, new_gate: type[Gate]) -> None:
    """How often, and after how many rounds of the loop each time; the function ends before, between or after them."""

    async def main() -> None:
        for rhythm in ((0,), (1,), (0, 1), (1, 1), (0, 0, 1), (2, 0, 3), (1, 0, 0)):
            for opened_before in (0, len(rhythm) - 1, len(rhythm)):
                started, gate = new_gate(), new_gate()
                task = asyncio.create_task(bridge.to_thread(wait_for, started, gate))
                await started.reached()
                for number, pause in enumerate(rhythm):
                    if number == opened_before:
                        gate.open()
                    task.cancel()
                    await turns(pause)
                gate.open()
                await ended(task)

    run_asyncio(loop_factory, main)


def test_a_task_cancelled_before_its_first_step_never_runs_the_function(loop_factory: Any) -> None:
    async def main() -> None:
        ran: list[int] = []
        task = asyncio.create_task(bridge.to_thread(ran.append, 1))
        task.cancel()
        await ended(task)
        assert task.cancelled()
        assert not ran

    run_asyncio(loop_factory, main)


def test_asyncio_timeout_turns_into_its_timeout_error_and_uncancels(loop_factory: Any, new_gate: type[Gate]) -> None:
    async def main() -> None:
        started = new_gate()
        with pytest.raises(TimeoutError) as caught:
            async with asyncio.timeout(0.02):
                await bridge.to_thread(until_cancelled, started)
        assert type(caught.value) is TimeoutError
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0
        assert await bridge.to_thread(int, "4") == 4

    run_asyncio(loop_factory, main)


def test_offload_timeout_leaves_the_tasks_count_of_cancellations_alone(loop_factory: Any, new_gate: type[Gate]) -> None:
    async def main() -> None:
        for _ in range(2):
            with pytest.raises(bridge.OffloadTimeout):
                await bridge.offload(timeout=0.02)(until_cancelled)(new_gate())
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0
        async with asyncio.timeout(PATIENCE):
            assert await bridge.to_thread(int, "4") == 4

    run_asyncio(loop_factory, main)


def test_a_cancelled_task_that_goes_on_can_offload_again(loop_factory: Any, new_gate: type[Gate]) -> None:
    async def main() -> None:
        started = new_gate()

        async def stubborn() -> int:
            task = asyncio.current_task()
            assert task is not None
            try:
                await bridge.to_thread(until_cancelled, started)
            except asyncio.CancelledError:
                assert task.cancelling() == 1
                assert task.uncancel() == 0
            return await bridge.to_thread(int, "6")

        task = asyncio.create_task(stubborn())
        await started.reached()
        task.cancel()
        await ended(task)
        assert task.result() == 6

    run_asyncio(loop_factory, main)


def test_a_task_group_ends_with_the_siblings_error_after_the_function_has_ended(
    loop_factory: Any, new_gate: type[Gate]
) -> None:
    async def main() -> None:
        started, stopped = new_gate(), new_gate()

        async def fail() -> None:
            await started.reached()
            raise LookupError

        with pytest.raises(ExceptionGroup) as caught:  # noqa: PT012 - the group raises as it is left
            async with asyncio.TaskGroup() as group:
                group.create_task(bridge.to_thread(until_cancelled, started, stopped))
                group.create_task(fail())
        assert [type(error) for error in caught.value.exceptions] == [LookupError]
        assert stopped.is_open()

    run_asyncio(loop_factory, main)


def test_wait_for_ends_with_its_timeout_error(loop_factory: Any, new_gate: type[Gate]) -> None:
    async def main() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(bridge.to_thread(until_cancelled, new_gate()), 0.02)

    run_asyncio(loop_factory, main)


def test_a_native_cancel_with_a_timeout_pending_is_a_cancellation(loop_factory: Any, new_gate: type[Gate]) -> None:
    async def main() -> None:
        started = new_gate()
        task = asyncio.create_task(bridge.offload(timeout=60)(until_cancelled)(started))
        await started.reached()
        task.cancel()
        await ended(task)
        assert task.cancelled()

    run_asyncio(loop_factory, main)


def test_a_native_cancel_of_an_abandoning_call_ends_at_once(loop_factory: Any, new_gate: type[Gate]) -> None:
    async def main() -> None:
        started, gate = new_gate(), new_gate()
        try:
            task = asyncio.create_task(bridge.offload(cancel="abandon")(wait_for)(started, gate))
            await started.reached()
            task.cancel()
            await ended(task)
            assert task.cancelled()
        finally:
            gate.open()

    run_asyncio(loop_factory, main)


# -- native trio ---------------------------------------------------------------------------------------------------------


def test_trio_scopes_and_timeouts_behave_as_with_trios_own_threads(new_gate: type[Gate]) -> None:
    trio = pytest.importorskip("trio")

    async def main() -> None:
        started, gate = new_gate(), new_gate()
        with trio.move_on_after(0.02) as scope:
            await bridge.to_thread(until_cancelled, started)
        assert scope.cancelled_caught
        with pytest.raises(trio.TooSlowError):
            with trio.fail_after(0.02):
                await bridge.to_thread(until_cancelled, started)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(bridge.to_thread, wait_for, new_gate(), gate)
            nursery.start_soon(bridge.to_thread, until_cancelled, started)
            await trio.sleep(0.01)
            nursery.cancel_scope.cancel()
            gate.open()

    trio.run(main)

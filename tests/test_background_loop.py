"""A loop in a thread of its own: what leaving its block waits for, cancels, reports, and leaves behind."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Generator
from concurrent.futures import CancelledError, Future
from contextlib import contextmanager
from typing import Any

import anyio
import pytest

import bridge
from tests.conftest import PATIENCE, Gate, within


class Planned(Exception):
    """Ends a block on purpose."""


def give_up() -> None:
    raise Planned


@contextmanager
def planned() -> Generator[None]:
    """The block ends by a Planned."""
    with pytest.raises(Planned):
        yield


async def double(number: int) -> int:
    await asyncio.sleep(0)
    return 2 * number


def loop_thread(portal: bridge.Portal) -> threading.Thread:
    return portal.call(threading.current_thread)


# -- a loop in a thread ------------------------------------------------------------------------------------------------


def test_gives_a_portal_into_a_loop_in_another_thread(loop_factory: Callable[[], Any] | None) -> None:
    with bridge.background_loop(loop_factory=loop_factory) as portal:
        assert loop_thread(portal) is not threading.current_thread()
        assert portal.call(double, 21) == 42


def test_the_loop_is_bridges_own_unless_another_is_asked_for() -> None:
    with bridge.background_loop() as portal:
        loop = portal.call(asyncio.get_running_loop)
    assert type(loop).__module__ == "bridge.loop.event_loop"
    with bridge.background_loop(loop_factory=None) as portal:
        loop = portal.call(asyncio.get_running_loop)
    assert type(loop).__module__.startswith("asyncio")


def test_the_thread_carries_the_name_and_the_loop_the_debug_mode() -> None:
    with bridge.background_loop(name="my-loop", debug=True) as portal:
        assert loop_thread(portal).name == "my-loop"
        assert portal.call(asyncio.get_running_loop).get_debug()


def test_any_number_of_threads_may_use_the_portal() -> None:
    results: list[int] = []
    with bridge.background_loop() as portal:

        def use(number: int) -> None:
            results.extend([portal.call(double, 10 * number + step) for step in range(10)])

        threads = [threading.Thread(target=use, args=(number,)) for number in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            within(thread)
    assert sorted(results) == [2 * number for number in range(200)]


def test_the_loop_can_send_work_to_threads_that_call_back() -> None:
    async def main() -> int:
        return await bridge.to_thread(lambda: bridge.portal().call(double, 4))

    with bridge.background_loop() as portal:
        assert portal.call(main) == 8


def test_a_syncified_function_finds_the_loop_that_sent_its_worker() -> None:
    synchronous = bridge.syncify(double)
    with bridge.background_loop() as portal:
        assert portal.call(bridge.to_thread, synchronous, 5) == 10


# -- leaving -----------------------------------------------------------------------------------------------------------


def test_after_the_block_the_loop_is_closed_and_its_thread_gone() -> None:
    with bridge.background_loop() as portal:
        thread, loop = loop_thread(portal), portal.call(asyncio.get_running_loop)
    assert not thread.is_alive()
    assert loop.is_closed()
    with pytest.raises(bridge.LoopClosed):
        portal.call(double, 1)


def test_leaving_waits_for_the_coroutines_that_were_started(gate: Gate, new_gate: type[Gate]) -> None:
    leaving = new_gate()
    ended: list[int] = []

    async def work(number: int) -> None:
        await gate.reached()
        ended.append(number)

    def leave() -> None:
        with bridge.background_loop() as portal:
            for number in range(3):
                portal.run_coroutine_threadsafe(work(number))
            leaving.open()

    thread = threading.Thread(target=leave)
    thread.start()
    leaving.wait()
    assert thread.is_alive()
    assert not ended
    gate.open()
    within(thread)
    assert sorted(ended) == [0, 1, 2]


def test_leaving_waits_for_the_calls_of_other_threads(gate: Gate, new_gate: type[Gate]) -> None:
    started = new_gate()
    answers: list[str] = []

    async def slow() -> str:
        started.open()
        await gate.reached()
        return "answered"

    with bridge.background_loop() as portal:
        thread = threading.Thread(target=lambda: answers.append(portal.call(slow)))
        thread.start()
        started.wait()
        portal.call_soon_threadsafe(gate.open)
    within(thread)
    assert answers == ["answered"]


def test_callbacks_sent_before_leaving_are_run() -> None:
    ran: list[int] = []
    with bridge.background_loop() as portal:
        for number in range(1000):
            portal.call_soon_threadsafe(ran.append, number)
    assert ran == list(range(1000))


def test_leaving_by_an_exception_cancels_and_waits_for_the_clean_up(new_gate: type[Gate]) -> None:
    started = new_gate()
    futures: list[Future[None]] = []
    log: list[str] = []

    async def forever() -> None:
        started.open()
        try:
            await asyncio.sleep(PATIENCE)
        finally:
            await asyncio.sleep(0)
            log.append("cleaned up")

    with planned():
        with bridge.background_loop() as portal:
            futures.append(portal.run_coroutine_threadsafe(forever()))
            started.wait()
            give_up()
    assert log == ["cleaned up"]
    assert futures[0].cancelled()


def test_leaving_by_an_exception_answers_the_calls_of_other_threads(new_gate: type[Gate]) -> None:
    started = new_gate()
    told: list[BaseException] = []

    async def forever() -> None:
        started.open()
        await asyncio.sleep(PATIENCE)

    def call(portal: bridge.Portal) -> None:
        try:
            portal.call(forever)
        except BaseException as error:
            told.append(error)

    with planned():
        with bridge.background_loop() as portal:
            thread = threading.Thread(target=call, args=(portal,))
            thread.start()
            started.wait()
            give_up()
    within(thread)
    (error,) = told
    assert isinstance(error, (CancelledError, bridge.LoopClosed))


def test_leaving_waits_for_functions_in_the_loops_threads(gate: Gate, new_gate: type[Gate]) -> None:
    started = new_gate()
    log: list[str] = []

    def blocking() -> None:
        started.open()
        gate.wait()
        log.append("function ended")

    with planned():
        with bridge.background_loop() as portal:
            portal.run_coroutine_threadsafe(bridge.to_thread(blocking))
            started.wait()
            portal.call_soon_threadsafe(gate.open)
            give_up()
    assert log == ["function ended"]


# -- what does not end -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["normally", "by an exception"])
def test_a_blocked_loop_is_reported_with_its_stack_and_left_behind(
    how: str, gate: Gate, new_gate: type[Gate], caplog: pytest.LogCaptureFixture
) -> None:
    blocked, left = new_gate(), new_gate()
    threads: list[threading.Thread] = []

    def block_the_loop() -> None:
        blocked.open()
        gate.wait()

    def leave() -> None:
        try:
            with bridge.background_loop(shutdown_timeout=0.05, name="blocked-loop") as portal:
                threads.append(loop_thread(portal))
                portal.call_soon_threadsafe(block_the_loop)
                blocked.wait()
                if how == "by an exception":
                    give_up()
        except Planned:
            pass
        left.open()

    leaving = threading.Thread(target=leave)
    with caplog.at_level(logging.ERROR, logger="bridge.loop"):
        leaving.start()
        leaving.join(PATIENCE / 2)
    in_time = left.is_open()
    gate.open()
    within(leaving)
    within(threads[0])
    assert in_time, "leaving the block hangs as long as the loop is blocked"
    (message,) = [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]
    assert message.startswith("BRG404")
    assert "block_the_loop" in message  # the stack
    assert "'blocked-loop' is left behind" in message
    assert "bridge.to_thread" in message  # what to do instead


def test_those_who_wait_for_a_loop_that_was_left_behind_are_answered(gate: Gate, new_gate: type[Gate]) -> None:
    blocked = new_gate()
    threads: list[threading.Thread] = []
    told: list[BaseException] = []

    def block_the_loop() -> None:
        blocked.open()
        gate.wait()

    def call(portal: bridge.Portal) -> None:
        try:
            portal.call(double, 1)
        except BaseException as error:
            told.append(error)

    with planned():
        with bridge.background_loop(shutdown_timeout=0.05) as portal:
            threads.append(loop_thread(portal))
            portal.call_soon_threadsafe(block_the_loop)
            blocked.wait()
            threads.append(threading.Thread(target=call, args=(portal,)))
            threads[1].start()
            give_up()
    threads[1].join(PATIENCE / 2)
    in_time = not threads[1].is_alive()
    gate.open()
    for thread in threads:
        within(thread)
    assert in_time, "a caller hangs for as long as the loop is blocked"
    assert isinstance(told[0], bridge.LoopClosed)


def test_a_function_that_does_not_end_is_reported_and_left_behind(
    gate: Gate, new_gate: type[Gate], caplog: pytest.LogCaptureFixture
) -> None:
    started = new_gate()

    def endless() -> None:
        started.open()
        gate.wait()

    try:
        with caplog.at_level(logging.ERROR, logger="bridge"):
            with planned():
                with bridge.background_loop(shutdown_timeout=0.05) as portal:
                    portal.run_coroutine_threadsafe(bridge.to_thread(endless))
                    started.wait()
                    give_up()
        messages = [record.getMessage() for record in caplog.records]
    finally:
        gate.open()
    assert [message for message in messages if message.startswith("BRG404") and "endless" in message]


# -- what cannot start -------------------------------------------------------------------------------------------------


def test_an_error_of_the_loop_factory_is_raised_where_the_block_is_entered() -> None:
    def no_loop() -> asyncio.AbstractEventLoop:
        raise Planned("no loop today")

    with pytest.raises(Planned, match="no loop today"):
        with bridge.background_loop(loop_factory=no_loop):
            pytest.fail("was entered")


def test_after_a_failed_start_it_may_be_entered_again() -> None:
    attempts: list[int] = []

    def second_time() -> asyncio.AbstractEventLoop:
        attempts.append(1)
        if len(attempts) == 1:
            raise Planned
        return bridge.new_event_loop()

    background = bridge.background_loop(loop_factory=second_time)
    with pytest.raises(Planned):
        background.__enter__()
    with background as portal:
        assert portal.call(double, 1) == 2


def test_entered_twice_at_a_time_it_says_how_to_get_another() -> None:
    background = bridge.background_loop()
    with background as portal:
        with pytest.raises(RuntimeError, match=r"already entered: call bridge\.background_loop\(\) for another one"):
            background.__enter__()
        assert portal.call(double, 1) == 2


def test_entered_again_after_it_was_left_it_runs_another_loop() -> None:
    background = bridge.background_loop()
    with background as portal:
        first = loop_thread(portal)
    with background as portal:
        assert portal.call(double, 1) == 2
        assert loop_thread(portal) is not first


def test_a_loop_that_exits_by_system_exit_answers_its_caller_and_is_reported(caplog: pytest.LogCaptureFixture) -> None:
    def leave() -> None:
        raise SystemExit(3)

    with caplog.at_level(logging.ERROR, logger="bridge.loop"):
        with bridge.background_loop() as portal:
            thread = loop_thread(portal)
            with pytest.raises(SystemExit):
                portal.call(leave)
            within(thread)
            with pytest.raises(bridge.LoopClosed):
                portal.call(double, 1)
    (record,) = caplog.records
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], SystemExit)


# -- async with --------------------------------------------------------------------------------------------------------


@pytest.mark.anyio
async def test_async_with_does_not_block_the_loop_that_waits(new_gate: type[Gate]) -> None:
    beats = 0
    going_on = True

    async def heart() -> None:
        nonlocal beats
        while going_on:
            beats += 1
            await anyio.sleep(0)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(heart)
        async with bridge.background_loop() as portal:
            before = beats
            future = portal.run_coroutine_threadsafe(beaten(lambda: beats > before + 10))
        assert future.result() > 0
        going_on = False


async def beaten(enough: Callable[[], bool]) -> int:
    """On the background loop: ends only when the other loop has gone on meanwhile."""
    rounds = 1
    async with asyncio.timeout(PATIENCE):
        while not enough():
            rounds += 1
            await asyncio.sleep(0.001)
    return rounds


@pytest.mark.anyio
async def test_async_with_left_by_cancellation_cancels_and_waits(new_gate: type[Gate]) -> None:
    started = new_gate()
    log: list[str] = []

    async def forever() -> None:
        started.open()
        try:
            await asyncio.sleep(PATIENCE)
        finally:
            await asyncio.sleep(0)
            log.append("cleaned up")

    with anyio.CancelScope() as scope:
        async with bridge.background_loop() as portal:
            portal.run_coroutine_threadsafe(forever())
            await started.reached()
            scope.cancel()
            await anyio.sleep(PATIENCE)
    log.append("left")
    assert log == ["cleaned up", "left"]


@pytest.mark.anyio
async def test_a_loops_code_is_refused_to_wait_for_a_background_loop() -> None:
    async with bridge.background_loop() as portal:
        with pytest.raises(bridge.WrongThread, match=r"await bridge\.to_thread"):
            portal.call(double, 1)
        assert await bridge.to_thread(portal.call, double, 2) == 4


# -- left on its own loop ------------------------------------------------------------------------------------------------


def test_leaving_on_its_own_loop_is_refused_and_the_loop_ends_by_itself(
    loop_factory: Callable[[], Any] | None,
) -> None:
    scope = bridge.background_loop(loop_factory=loop_factory)
    portal = scope.__enter__()
    thread = portal.call(threading.current_thread)

    async def leave() -> None:
        scope.__exit__(None, None, None)

    async def leave_with_async() -> None:
        await scope.__aexit__(None, None, None)

    async def leave_in_a_thread() -> None:
        await bridge.to_thread(scope.__exit__, None, None, None)

    for way in (leave, leave_with_async, leave_in_a_thread):
        if way is not leave:
            portal = scope.__enter__()
            thread = portal.call(threading.current_thread)
        with pytest.raises(bridge.WouldDeadlock, match="on its own loop"):
            portal.call(way)
        within(thread)


def test_a_generator_that_owns_it_may_be_closed_on_its_loop() -> None:
    def owner() -> Generator[Any, None, None]:
        with bridge.background_loop() as portal:
            yield portal

    generator = owner()
    portal = next(generator)
    thread = portal.call(threading.current_thread)
    portal.call(generator.close)
    within(thread)

"""Exceptions that nobody asks for (BRG202): told with the line that sent off what raised them, and what led there."""

from __future__ import annotations

import asyncio
import gc
import linecache
import logging
import threading
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Future, wait
from contextvars import copy_context
from time import monotonic
from typing import Any

import pytest

import bridge
from bridge.diagnostics.events import Event
from bridge.diagnostics.places import Place, submit_site
from bridge.threads import trail
from bridge.threads.job import Job
from bridge.threads.lost import AttendedFuture
from tests.conftest import events_of, logged


@pytest.fixture
def events() -> Iterator[list[Event]]:
    """What was reported of lost exceptions."""
    gc.collect()
    with events_of("BRG202") as events:
        yield events


def run(main: Callable[[], Coroutine[Any, Any, None]], diagnostics: bool = True, **options: Any) -> None:
    with asyncio.Runner(loop_factory=lambda: bridge.new_event_loop(diagnostics=diagnostics), **options) as runner:
        runner.run(main())
    gc.collect()


async def fail(text: str) -> None:
    raise ValueError(text)


def fail_in_thread(text: str) -> None:
    raise ValueError(text)


async def lose(coro: Coroutine[Any, Any, None] | None = None) -> None:
    task = asyncio.create_task(coro or fail("lost"))  # the task
    await asyncio.wait([task])


def source_of(place: Place | None) -> str:
    assert place is not None
    assert place.file == __file__
    return linecache.getline(place.file, place.line).strip()


# -- tasks and futures of a loop ---------------------------------------------------------------------------------------


def test_the_line_that_created_the_task_is_told(events: list[Event]) -> None:
    run(lose)
    [event] = events
    assert event.code == "BRG202"
    assert source_of(event.place).endswith("# the task")
    assert event.headline.startswith("an exception went unnoticed: ValueError: lost, in task 'Task-")
    assert f"running fail(), created at {event.place}: task = " in event.headline
    assert event.advice == "async with asyncio.TaskGroup() as tasks: tasks.create_task(fail('lost'))"
    [raised] = event.details
    assert raised.endswith("in fail: raise ValueError(text)")
    assert isinstance(event.exception, ValueError)
    assert event.attributes["exception.type"] == "ValueError"
    assert event.attributes["exception.message"] == "lost"
    assert str(event.attributes["bridge.task.name"]).startswith("Task-")


def test_the_traceback_is_logged_once_by_asyncio(events: list[Event], caplog: pytest.LogCaptureFixture) -> None:
    run(lose)
    [asyncios] = logged(caplog, "asyncio")
    [bridges] = logged(caplog, "bridge.tasks.BRG202")
    assert asyncios.getMessage().startswith("Task exception was never retrieved")
    assert asyncios.exc_info
    assert not bridges.exc_info


def test_where_asyncios_logger_is_silent_bridges_has_the_traceback(
    events: list[Event], caplog: pytest.LogCaptureFixture
) -> None:
    logger = logging.getLogger("asyncio")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        run(lose)
    finally:
        logger.setLevel(before)
    [record] = logged(caplog, "bridge.tasks.BRG202")
    assert record.exc_info


def test_a_handler_of_the_programs_is_called_as_ever_and_only_listeners_are_told(
    events: list[Event], caplog: pytest.LogCaptureFixture
) -> None:
    contexts: list[set[str]] = []

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: contexts.append(set(context)))
        await lose()

    run(main)
    assert contexts == [{"message", "exception", "future"}]
    assert len(events) == 1
    assert not caplog.records


def test_a_handler_that_defers_to_the_default_has_it_told_once(
    events: list[Event], caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda loop, context: loop.default_exception_handler(context))
        await lose()

    run(main)
    assert len(events) == 1
    assert len(logged(caplog, "bridge.tasks.BRG202")) == 1


def test_other_troubles_of_a_loop_are_not_told(events: list[Event], caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.call_soon(fail_in_thread, "in a callback")
        await asyncio.sleep(0)
        message = "ValueError exception in shielded future"
        loop.call_exception_handler({"message": message, "exception": ValueError(), "future": loop.create_future()})

    run(main)
    assert not events
    assert len(logged(caplog, "asyncio", 2)) == 2


def test_what_is_asked_for_or_cancelled_is_not_told(events: list[Event]) -> None:
    async def main() -> None:
        late = asyncio.create_task(fail("late"))
        await asyncio.wait([late])
        with pytest.raises(ValueError, match="late"):
            late.result()
        await asyncio.gather(fail("gathered"), return_exceptions=True)
        cancelled = asyncio.create_task(asyncio.sleep(3600))
        cancelled.cancel()
        await asyncio.wait([cancelled])

    run(main)
    assert not events


def test_a_gathering_is_told_by_what_it_gathers(events: list[Event]) -> None:
    async def main() -> None:
        gathering = asyncio.gather(fail("a"), fail("b"))  # the line
        gathering.add_done_callback(done.set_result)
        await done

    done: Any = None

    async def start() -> None:
        nonlocal done
        done = asyncio.get_running_loop().create_future()
        await main()
        done = None

    run(start)
    [event] = events
    assert source_of(event.place).endswith("# the line")


def test_an_offload_as_a_task_is_told_by_its_line(events: list[Event]) -> None:
    async def main() -> None:
        await lose(bridge.to_thread(fail_in_thread, "far away"))  # the line

    run(main)
    [event] = events
    assert source_of(event.place).endswith("# the line")
    assert event.details[0].endswith("in fail_in_thread: raise ValueError(text)")


def test_in_debug_mode_it_is_the_line_of_create_task_and_every_time(
    events: list[Event], caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        for _ in range(2):
            await lose(fail("made elsewhere"))

    run(main, debug=True)
    assert [source_of(event.place).endswith("# the task") for event in events] == [True, True]
    assert len(logged(caplog, "bridge.tasks.BRG202", 2)) == 2


def test_in_debug_mode_a_future_is_told_by_the_line_that_made_it(events: list[Event]) -> None:
    async def main() -> None:
        asyncio.get_running_loop().create_future().set_exception(ValueError("set"))  # the line

    run(main, debug=True)
    [event] = events
    assert source_of(event.place).endswith("# the line")
    assert event.advice == "await future"


def test_a_future_is_told_by_the_line_that_raised_if_that_is_all_there_is(events: list[Event]) -> None:
    async def main() -> None:
        try:
            raise ValueError("raised")  # the line
        except ValueError as error:
            asyncio.get_running_loop().create_future().set_exception(error)
        asyncio.get_running_loop().create_future().set_exception(ValueError("never raised"))

    run(main)
    raised, never = sorted(events, key=lambda event: event.place is None)
    assert source_of(raised.place).endswith("# the line")
    assert f"in a Future, raised at {raised.place}: raise" in raised.headline
    assert not raised.details
    assert never.place is None
    assert never.headline == "an exception went unnoticed: ValueError: never raised, in a Future"


def test_nothing_is_told_where_diagnostics_are_off(events: list[Event], caplog: pytest.LogCaptureFixture) -> None:
    run(lose, diagnostics=False)
    assert not events
    assert len(logged(caplog, "asyncio")) == 1


def test_any_loop_can_be_served(
    events: list[Event], loop_factory: Callable[[], Any] | None, caplog: pytest.LogCaptureFixture
) -> None:
    if loop_factory is bridge.new_event_loop:
        pytest.skip("it serves itself")

    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with bridge.watch():
            await lose()
            gc.collect()
            loop.set_exception_handler(lambda loop, context: None)
            await lose()
            gc.collect()
        loop.set_exception_handler(None)
        assert "call_exception_handler" not in vars(loop)
        await lose()

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(main())
    gc.collect()
    assert [event.code for event in events] == ["BRG202", "BRG202"]
    assert len(logged(caplog, "bridge.tasks.BRG202")) == 1
    assert len(logged(caplog, "asyncio", 2)) == 2


# -- the chain ---------------------------------------------------------------------------------------------------------


def test_the_chain_of_lines_that_sent_it_off_is_told(events: list[Event]) -> None:
    def second() -> None:
        bridge.portal().call(lose)

    async def in_between() -> None:
        await bridge.to_thread(second)  # the inner one

    def first() -> None:
        bridge.portal().call(in_between)

    async def main() -> None:
        await bridge.to_thread(first)  # the outer one

    run(main)
    [event] = events
    assert source_of(event.place).endswith("# the task")
    _, inner, outer = event.details
    assert inner.startswith("on behalf of what was sent to a thread at ")
    assert inner.endswith("# the inner one")
    assert outer.endswith("# the outer one")


def test_a_job_that_calls_twice_is_one_step(events: list[Event]) -> None:
    def calls_twice() -> None:
        bridge.portal().call(asyncio.sleep, 0)
        bridge.portal().call(lose)

    async def main() -> None:
        await bridge.to_thread(calls_twice)

    run(main)
    [event] = events
    assert len(event.details) == 2


def test_what_a_loop_does_by_itself_has_no_chain(events: list[Event]) -> None:
    async def main() -> None:
        await bridge.to_thread(lambda: bridge.portal().call(asyncio.sleep, 0))
        await lose()

    run(main)
    [event] = events
    assert len(event.details) == 1


def test_a_chain_has_an_end() -> None:
    last, longest = None, 0
    for _ in range(100):
        job = SitedJob(len, (), {}, None)
        job.site = submit_site()
        last = trail.Step("thread", last)
        last.job = job
        last.settle()
        longest = max(longest, len(list(trail.described(last))))
    assert longest == trail._LONGEST


def test_a_job_for_a_process_has_the_step_in_its_context() -> None:
    job = SitedJob(len, (), {}, None)
    job.site = submit_site()
    trail.leave_in_context_of(job)
    assert job.context is not None
    trail.settle_in(job.context)
    trail.leave_in_context_of(job)
    [line] = trail.described(trail.last_in(job.context))
    assert line.startswith("on behalf of what was sent to a process at ")
    assert trail.last_in(copy_context()) is None


class SitedJob(Job):
    __slots__ = ("site",)


# -- concurrent futures ------------------------------------------------------------------------------------------------


def lose_by_portal(portal: Any) -> None:
    wait([portal.run_coroutine_threadsafe(fail("lost"))])  # the portal


def test_a_future_of_a_portal_is_told_if_nobody_asks_it(events: list[Event], caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        await bridge.to_thread(lambda: lose_by_portal(bridge.portal()))  # the thread

    run(main)
    [event] = events
    assert source_of(event.place).endswith("# the portal")
    assert "in fail(), sent at" in event.headline
    assert event.details[1].endswith("# the thread")
    [record] = logged(caplog, "bridge.tasks.BRG202")
    assert record.exc_info


def test_a_future_of_asyncios_run_coroutine_threadsafe_likewise(events: list[Event]) -> None:
    def work(loop: asyncio.AbstractEventLoop) -> None:
        future = asyncio.run_coroutine_threadsafe(fail("lost"), loop)  # the line
        assert isinstance(future, Future)
        wait([future])

    async def main() -> None:
        await bridge.to_thread(work, asyncio.get_running_loop())  # the thread

    run(main)
    [event] = events
    assert source_of(event.place).endswith("# the line")
    assert event.details[1].endswith("# the thread")


def test_a_future_of_an_executor_likewise(events: list[Event]) -> None:
    with bridge.ThreadExecutor(1) as executor:
        executor.submit(fail_in_thread, "lost")  # the line
    gc.collect()
    [event] = events
    assert source_of(event.place).endswith("# the line")
    assert f"in {__name__}.fail_in_thread(), sent at" in event.headline


def refuse(fn: Callable[[], object]) -> None:
    with pytest.raises(ValueError, match="seen"):
        fn()


@pytest.mark.parametrize(
    "ask",
    [
        lambda future: refuse(lambda: future.result(10)),
        lambda future: future.exception(10),
        lambda future: wait([future]) and refuse(future.result),
        lambda future: wait([future]) and future.exception(),
        lambda future: future.add_done_callback(lambda future: None),
        lambda future: wait([future]) and future.add_done_callback(lambda future: None),
    ],
)
def test_whoever_asks_has_been_told(events: list[Event], ask: Callable[[Future[None]], object]) -> None:
    with bridge.ThreadExecutor(1) as executor, bridge.background_loop() as portal:
        ask(executor.submit(fail_in_thread, "seen"))
        ask(portal.run_coroutine_threadsafe(fail("seen")))
        ask(asyncio.run_coroutine_threadsafe(fail("seen"), portal._host.loop))
        wait([executor.submit(int), portal.run_coroutine_threadsafe(asyncio.sleep(0))])
    gc.collect()
    assert not events


def test_a_future_that_is_awaited_leaves_it_to_that(events: list[Event]) -> None:
    async def main() -> None:
        with bridge.ThreadExecutor(1) as executor:
            with pytest.raises(ValueError, match="awaited"):
                await asyncio.wrap_future(executor.submit(fail_in_thread, "awaited"))
            await bridge.to_thread(lose_nothing, asyncio.get_running_loop())

    async def awaits(future: Future[None]) -> None:
        with pytest.raises(ValueError, match="wrapped"):
            await asyncio.wrap_future(future)

    def lose_nothing(loop: asyncio.AbstractEventLoop) -> None:
        future = asyncio.run_coroutine_threadsafe(fail("wrapped"), loop)
        bridge.portal().call(awaits, future)

    run(main)
    assert not events


def test_who_gave_up_waiting_has_not_been_told(events: list[Event]) -> None:
    release = threading.Event()

    def fail_later() -> None:
        release.wait(10)
        raise ValueError("later")

    with bridge.ThreadExecutor(1) as executor:
        future = executor.submit(fail_later)
        with pytest.raises(TimeoutError):
            future.result(0)
        release.set()
        del future
    gc.collect()
    assert len(events) == 1


def test_what_map_drops_after_the_first_error_is_not_told(events: list[Event]) -> None:
    with bridge.ThreadExecutor(2) as executor:
        with pytest.raises(ValueError, match="a"):
            list(executor.map(fail_in_thread, "abc"))
        with pytest.raises(ValueError, match="a"):
            list(executor.map(fail_in_thread, "abc"))
    gc.collect()
    assert not events


def test_what_is_cancelled_or_cannot_be_answered_any_more_is_not_told(events: list[Event]) -> None:
    future = AttendedFuture()
    future.tell_if_lost("f", "f()", submit_site(), None)
    future.set_exception(bridge.LoopClosed("it ended"))
    cancelled = AttendedFuture()
    cancelled.tell_if_lost("f", "f()", submit_site(), None)
    cancelled.cancel()
    del future, cancelled
    gc.collect()
    assert not events


def test_a_future_that_is_done_already_keeps_what_it_has(events: list[Event]) -> None:
    future = AttendedFuture()
    future.tell_if_lost("f", "f()", submit_site(), None)
    future.set_result(1)
    with pytest.raises(Exception, match="FINISHED"):
        future.set_exception(ValueError("too late"))
    del future
    gc.collect()
    assert not events


def test_futures_tell_nothing_where_diagnostics_are_off(events: list[Event], monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        await bridge.to_thread(lambda: lose_by_portal(bridge.portal()))

    run(main, diagnostics=False)
    monkeypatch.setenv("BRIDGE_DIAGNOSTICS", "0")
    with bridge.ThreadExecutor(1) as executor:
        executor.submit(fail_in_thread, "lost")
    gc.collect()
    assert not events


def test_success_has_nothing_tied_to_it() -> None:
    with bridge.ThreadExecutor(1) as executor:
        future = executor.submit(monotonic)
        future.result()
    assert "_loss" not in vars(future)

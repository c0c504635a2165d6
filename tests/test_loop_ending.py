"""The end of a loop that bridge runs: what its main function has left there ends in bounded time, or is left behind.

On every asyncio loop; trio gives no task up.
"""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
import textwrap
import threading
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

import bridge
from tests.conftest import PATIENCE, Gate, events_of, within

SOON = 0.05


async def forever() -> None:
    await asyncio.get_running_loop().create_future()


async def swallow_every_cancellation() -> None:
    while True:
        try:
            await forever()
        except asyncio.CancelledError:
            pass


async def clean_up(log: list[str]) -> None:
    try:
        await forever()
    finally:
        await asyncio.sleep(0.01)
        log.append("cleaned up")


async def interrupted() -> None:
    try:
        await forever()
    finally:
        raise KeyboardInterrupt


@asynccontextmanager
async def never_left() -> AsyncGenerator[str]:
    try:
        yield "entered"
    finally:
        await swallow_every_cancellation()


async def never_closed() -> AsyncGenerator[int]:
    try:
        yield 0
    finally:
        await swallow_every_cancellation()


def run(loop_factory: Callable[[], Any] | None, main: Callable[[], Any], **how: Any) -> Any:
    """`bridge.run` in a thread, which must come back; returns what it returns, or the error."""
    outcome: list[Any] = []

    def in_thread() -> None:
        try:
            outcome.append(bridge.run(main, loop_factory=loop_factory, **how))
        except BaseException as error:
            outcome.append(error)

    thread = threading.Thread(target=in_thread)
    thread.start()
    within(thread)
    gc.collect()
    return outcome[0]


@pytest.fixture
def complaints() -> list[dict[str, Any]]:
    """What a loop's exception handler has been given."""
    return []


# -- what does not end -------------------------------------------------------------------------------------------------


def test_a_task_that_swallows_its_cancellation_is_reported_and_left_behind(
    loop_factory: Callable[[], Any] | None, complaints: list[dict[str, Any]]
) -> None:
    kept: list[Any] = []

    async def main() -> str:
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: complaints.append(context))
        kept.append(asyncio.create_task(swallow_every_cancellation(), name="stubborn"))
        await asyncio.sleep(0)
        return "done"

    with events_of("BRG404") as events:
        assert run(loop_factory, main, shutdown_timeout=SOON) == "done"
    (event,) = events
    assert event.headline.startswith("task 'stubborn' running swallow_every_cancellation() has not ended ")
    assert event.attributes["bridge.task.name"] == "stubborn"
    assert event.place is not None
    assert event.place.function == "forever"  # the innermost line on which it waits
    assert any("in swallow_every_cancellation" in line for line in event.details)
    kept.clear()
    gc.collect()
    assert complaints == []  # not said once more by asyncio, as a task that was destroyed


def cancel_all_others() -> None:
    for task in asyncio.all_tasks() - {asyncio.current_task()}:
        task.cancel()


async def cancel_all_others_for_ever() -> None:
    while True:
        try:
            await asyncio.sleep(0)
        except asyncio.CancelledError:
            pass
        cancel_all_others()


def test_a_task_that_cancels_all_others_for_ever_is_left_behind_as_well(loop_factory: Callable[[], Any] | None) -> None:
    log: list[str] = []
    kept: list[Any] = []

    async def main() -> str:
        kept.append(asyncio.create_task(clean_up(log)))
        kept.append(asyncio.create_task(swallow_every_cancellation()))
        kept.append(asyncio.create_task(cancel_all_others_for_ever(), name="storm"))
        kept.append(never_closed())
        await anext(kept[-1])
        return "done"

    with events_of("BRG404") as events:
        assert run(loop_factory, main, shutdown_timeout=SOON) == "done"
    assert "task 'storm' running cancel_all_others_for_ever() has not ended" in "".join(each.headline for each in events)


def test_a_clean_up_that_cancels_all_others_does_not_cut_the_end_short(loop_factory: Callable[[], Any] | None) -> None:
    log: list[str] = []
    kept: list[Any] = []

    async def cancels() -> None:
        try:
            await forever()
        finally:
            cancel_all_others()
            await asyncio.sleep(0.01)
            log.append("cancelled all others")

    async def generate() -> AsyncGenerator[int]:
        try:
            yield 0
        finally:
            await asyncio.sleep(0.01)
            log.append("closed")

    async def main() -> str:
        kept.append(asyncio.create_task(cancels()))
        kept.append(generate())
        await anext(kept[-1])
        return "done"

    with events_of("BRG404") as events:
        assert run(loop_factory, main, shutdown_timeout=PATIENCE) == "done"
    assert log == ["cancelled all others", "closed"]
    assert events == []


@pytest.mark.parametrize("opened", ["enter", "iterate"])
def test_a_clean_up_of_a_portals_holder_that_never_ends_does_not_keep_a_run(
    opened: str, loop_factory: Callable[[], Any] | None, new_gate: type[Gate]
) -> None:
    ready, ended = new_gate(), new_gate()
    outcome: list[Any] = []

    def hold(portal: bridge.Portal) -> None:
        if opened == "enter":
            context = portal.enter(never_left())
            assert context.__enter__() == "entered"
        else:
            items = portal.iterate(never_closed())
            assert next(items) == 0
        ready.open()
        ended.wait()
        try:
            outcome.append(context.__exit__(None, None, None) if opened == "enter" else next(items))
        except BaseException as error:
            outcome.append(error)

    async def main() -> None:
        holder.start()
        await ready.reached()

    holder = threading.Thread(target=lambda: hold(portals[0]))
    portals: list[bridge.Portal] = []

    async def with_portal() -> None:
        portals.append(bridge.portal())
        await main()

    with events_of("BRG404") as events:
        assert run(loop_factory, with_portal, shutdown_timeout=SOON) is None
    ended.open()
    within(holder)
    assert isinstance(outcome[0], bridge.LoopClosed)
    assert [event.place.function for event in events if event.place is not None] == ["forever"]


@pytest.mark.parametrize("opened", ["enter", "iterate"])
def test_nor_does_it_keep_a_background_loop(opened: str, loop_factory: Callable[[], Any] | None) -> None:
    def block() -> None:
        with bridge.background_loop(loop_factory=loop_factory, shutdown_timeout=SOON) as portal:
            if opened == "enter":
                held.append(portal.enter(never_left()))
                held[0].__enter__()
            else:
                held.append(portal.iterate(never_closed()))
                next(held[0])

    held: list[Any] = []
    thread = threading.Thread(target=block)
    with events_of("BRG404") as events:
        thread.start()
        within(thread)
    (event,) = events
    assert event.headline.startswith("task ")
    assert event.place is not None
    assert event.place.function == "forever"


def test_an_async_generator_that_never_closes_is_left_behind(loop_factory: Callable[[], Any] | None) -> None:
    kept: list[Any] = []

    async def main() -> None:
        kept.append(never_closed())
        await anext(kept[0])

    with events_of("BRG404") as events:
        assert run(loop_factory, main, shutdown_timeout=SOON) is None
    assert {event.place.function for event in events if event.place is not None} <= {"forever", "never_closed"}
    assert events


def test_a_task_that_starts_another_in_its_place_each_time_is_left_behind(
    loop_factory: Callable[[], Any] | None,
) -> None:
    kept: list[Any] = []

    def start_over(_: Any = None) -> None:
        kept.append(asyncio.get_running_loop().create_task(forever(), name="undying"))
        kept[-1].add_done_callback(start_over)

    async def main() -> str:
        start_over()
        await asyncio.sleep(0)
        return "done"

    with events_of("BRG404") as events:  # many times PATIENCE: it is not the time that ends this
        assert run(loop_factory, main, shutdown_timeout=100 * PATIENCE) == "done"
    (event,) = events
    assert event.headline.startswith("task 'undying' running forever() has not ended ")
    assert "start no task in the place of one that was cancelled" in event.advice


# -- what ends ---------------------------------------------------------------------------------------------------------


def test_a_clean_up_that_ends_is_waited_for_whatever_it_starts(loop_factory: Callable[[], Any] | None) -> None:
    log: list[str] = []
    kept: list[Any] = []

    async def late() -> None:
        try:
            await forever()
        finally:
            log.append("what it has started has ended")

    async def work() -> None:
        try:
            await forever()
        finally:
            kept.append(asyncio.create_task(late()))
            await asyncio.sleep(0.01)
            log.append("cleaned up")

    async def main() -> None:
        kept.append(asyncio.create_task(work()))
        await asyncio.sleep(0)

    with events_of("BRG404") as events:
        assert run(loop_factory, main, shutdown_timeout=PATIENCE) is None
    assert log == ["cleaned up", "what it has started has ended"]
    assert events == []


def test_the_error_of_a_clean_up_goes_to_the_exception_handler(
    loop_factory: Callable[[], Any] | None, complaints: list[dict[str, Any]]
) -> None:
    kept: list[Any] = []

    async def work() -> None:
        try:
            await forever()
        finally:
            raise KeyError("clean-up")

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: complaints.append(context))
        kept.append(asyncio.create_task(work()))
        await asyncio.sleep(0)

    assert run(loop_factory, main) is None
    (context,) = complaints
    assert isinstance(context["exception"], KeyError)
    assert context["task"] is kept[0]


def test_one_that_exits_does_not_cut_the_others_short(
    loop_factory: Callable[[], Any] | None, complaints: list[dict[str, Any]]
) -> None:
    log: list[str] = []
    kept: list[Any] = []

    async def exit_at_once() -> None:
        try:
            await forever()
        finally:
            sys.exit(3)

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: complaints.append(context))
        kept.extend(asyncio.create_task(each) for each in (exit_at_once(), clean_up(log), exit_at_once()))
        await asyncio.sleep(0)

    outcome = run(loop_factory, main)
    assert isinstance(outcome, SystemExit)
    assert outcome.code == 3
    assert log == ["cleaned up"]
    kept.clear()
    gc.collect()
    assert complaints == []


def test_after_an_interruption_nothing_is_waited_for(loop_factory: Callable[[], Any] | None) -> None:
    kept: list[Any] = []

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: None)
        kept.append(asyncio.create_task(swallow_every_cancellation()))
        kept.append(asyncio.create_task(interrupted()))
        await asyncio.sleep(0)

    # Many times PATIENCE: had it waited, the thread would not come back.
    assert isinstance(run(loop_factory, main, shutdown_timeout=100 * PATIENCE), KeyboardInterrupt)


@pytest.mark.parametrize("times", [1, 2])
def test_nor_do_async_generators_keep_what_was_interrupted(
    times: int, loop_factory: Callable[[], Any] | None, complaints: list[dict[str, Any]]
) -> None:
    kept: list[Any] = []

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: complaints.append(context))
        kept.append(never_closed())
        await anext(kept[0])
        kept.extend(asyncio.create_task(interrupted()) for _ in range(times))
        await asyncio.sleep(0)

    assert isinstance(run(loop_factory, main, shutdown_timeout=100 * PATIENCE), KeyboardInterrupt)
    kept.clear()
    gc.collect()
    assert complaints == []


def test_a_task_that_stops_the_loop_in_the_end_does_not_cut_the_others_short(
    loop_factory: Callable[[], Any] | None, complaints: list[dict[str, Any]]
) -> None:
    log: list[str] = []
    kept: list[Any] = []

    async def stop_the_loop() -> None:
        try:
            await forever()
        finally:
            asyncio.get_running_loop().stop()

    async def main() -> str:
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: complaints.append(context))
        kept.extend(asyncio.create_task(each) for each in (stop_the_loop(), clean_up(log)))
        await asyncio.sleep(0)
        return "done"

    assert run(loop_factory, main) == "done"
    assert log == ["cleaned up"]
    assert complaints == []


def test_a_task_factory_that_fails_does_not_keep_tasks_from_ending(loop_factory: Callable[[], Any] | None) -> None:
    log: list[str] = []
    kept: list[Any] = []

    def no_more(loop: Any, coro: Any, **how: Any) -> Any:
        coro.close()
        raise RuntimeError("no more tasks")

    async def main() -> None:
        kept.append(asyncio.create_task(clean_up(log)))
        await asyncio.sleep(0)
        asyncio.get_running_loop().set_task_factory(no_more)

    run(loop_factory, main)
    assert log == ["cleaned up"]


# -- exits -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("when", ["at once", "later"])
@pytest.mark.parametrize("factory", ["bridge.new_event_loop", "None", "uvloop.new_event_loop"])
def test_an_exit_in_a_called_function_ends_the_program_without_further_words(factory: str, when: str) -> None:
    if factory.startswith("uvloop"):
        pytest.importorskip("uvloop")
    program = textwrap.dedent(f"""
        import asyncio, sys
        import bridge
        {"import uvloop" if factory.startswith("uvloop") else ""}

        async def leave():
            if {when!r} == "later":
                await asyncio.sleep(0.001)
            sys.exit(3)

        async def main():
            await bridge.to_thread(lambda: bridge.portal().call(leave))

        bridge.run(main, loop_factory={factory})
    """)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        timeout=3 * PATIENCE,
        check=False,
    )
    assert (done.stdout, done.returncode) == ("", 3)

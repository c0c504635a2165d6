"""Executors, portals and background loops that nobody closes (BRG501): told with the line that made them, and freed."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import bridge
from bridge.diagnostics.events import Event
from tests.conftest import PATIENCE, Gate, events_of, within

needs_processes = pytest.mark.skipif(sys.platform == "win32", reason="ProcessExecutor needs POSIX")
needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")

EXECUTORS = [bridge.ThreadExecutor, pytest.param(bridge.ProcessExecutor, marks=needs_processes)]


@pytest.fixture
def events() -> Iterator[list[Event]]:
    """What was reported."""
    with events_of("BRG501") as events:
        yield events


@pytest.fixture
def warned() -> Iterator[list[warnings.WarningMessage]]:
    """What was warned of."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield caught


async def double(number: int) -> int:
    return 2 * number


def told(events: list[Event], warned: list[warnings.WarningMessage], source: str) -> Event:
    """The one event, which has its warning, and is of the line that begins like that."""
    (event,), (warning,) = events, warned
    assert event.code == "BRG501"
    assert event.level == logging.INFO
    assert event.place is not None
    assert event.place.file == __file__
    assert event.place.source.startswith(source)
    assert warning.category is ResourceWarning
    assert (warning.filename, warning.lineno) == event.place[:2]
    assert event.advice in str(warning.message)
    return event


# -- executors ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", EXECUTORS)
def test_an_executor_that_nobody_holds_is_told_and_its_work_goes_on(
    kind: Any, events: list[Event], warned: list[warnings.WarningMessage]
) -> None:
    executor = kind(1, name="render")
    future = executor.submit(pow, 2, 10)
    del executor
    event = told(events, warned, "executor = kind(1,")
    assert f"a {kind.__name__} 'render' was not closed, made at " in event.headline
    assert event.advice == f"with bridge.{kind.__name__}(...) as executor:"
    assert event.attributes == {"bridge.resource": kind.__name__, "bridge.resource.name": "render"}
    assert future.result(PATIENCE) == 1024


def test_what_to_write_is_the_line_that_made_it(events: list[Event], warned: list[warnings.WarningMessage]) -> None:
    bridge.ThreadExecutor(2, name="db").submit(int).result(PATIENCE)
    event = told(events, warned, "bridge.ThreadExecutor(2,")
    assert event.advice == "with bridge.ThreadExecutor(2, name='db') as executor:"


def test_the_threads_of_a_forgotten_executor_leave(warned: list[warnings.WarningMessage], gate: Gate) -> None:
    executor = bridge.ThreadExecutor(1, name="forgotten")
    executor.submit(gate.wait)
    pool = executor._pool
    (worker,) = pool.workers
    del executor
    assert pool.closing
    assert warned
    gate.open()
    within(worker.thread)


@needs_processes
def test_the_processes_of_a_forgotten_executor_leave(warned: list[warnings.WarningMessage]) -> None:
    executor = bridge.ProcessExecutor(1, name="forgotten")
    executor.submit(int).result(PATIENCE)
    crew = executor._crew
    finished = threading.Event()
    crew.when_finished(finished.set)
    del executor
    assert warned
    assert finished.wait(PATIENCE)


@needs_processes
def test_the_processes_of_an_executor_that_was_forgotten_with_its_loop_leave(
    warned: list[warnings.WarningMessage], caplog: pytest.LogCaptureFixture
) -> None:
    executor = bridge.ProcessExecutor(1, name="forgotten")
    crew = executor._crew
    finished = threading.Event()
    crew.when_finished(finished.set)
    loop = asyncio.new_event_loop()
    assert loop.run_until_complete(executor.run(pow, 2, 3)) == 8
    loop.close()  # and bridge is not told
    cycle: list[Any] = [executor]
    cycle.append(cycle)
    asyncio.run(bridge.to_thread(int))  # the thread remembers the loop that it met last
    del loop, crew, executor, cycle
    gc.collect()
    assert finished.wait(PATIENCE)
    assert ["forgotten" in str(each.message) for each in warned if each.category is ResourceWarning] == [True]
    assert caplog.messages == []


@pytest.mark.parametrize("kind", EXECUTORS)
@pytest.mark.parametrize(
    "close",
    [
        lambda executor: executor.shutdown(),
        lambda executor: executor.shutdown(wait=False),
        lambda executor: executor.close_within(PATIENCE),
        lambda executor: executor.__enter__().__exit__(None, None, None),
        lambda executor: asyncio.run(executor.aclose()),
    ],
)
def test_one_that_was_closed_in_any_way_is_not(
    kind: Any, close: Callable[[Any], None], events: list[Event], warned: list[warnings.WarningMessage]
) -> None:
    executor = kind(1)
    executor.submit(int).result(PATIENCE)
    close(executor)
    del executor
    gc.collect()
    assert (events, warned) == ([], [])


@pytest.mark.parametrize("kind", EXECUTORS)
def test_one_that_did_nothing_holds_nothing_and_is_not_told(
    kind: Any, events: list[Event], warned: list[warnings.WarningMessage]
) -> None:
    kind(1)
    with pytest.raises(ValueError, match="max_workers"):
        kind(0)
    gc.collect()
    assert (events, warned) == ([], [])


@needs_processes
def test_what_bridge_makes_for_a_loop_is_nobodys_to_close(
    events: list[Event], warned: list[warnings.WarningMessage]
) -> None:
    async def main() -> tuple[int, int]:
        return await bridge.to_thread(pow, 2, 3), await bridge.to_process(pow, 2, 4)

    loop = asyncio.new_event_loop()
    assert loop.run_until_complete(main()) == (8, 16)
    loop.close()
    del loop
    asyncio.run(bridge.to_thread(int))  # the thread remembers the loop that it met last
    gc.collect()
    assert (events, [each for each in warned if each.category is ResourceWarning]) == ([], [])


# -- background loops --------------------------------------------------------------------------------------------------


def test_a_background_loop_that_nobody_holds_is_told_and_ends(
    events: list[Event], warned: list[warnings.WarningMessage]
) -> None:
    scope = bridge.background_loop(name="forgotten")
    portal = scope.__enter__()
    thread = portal.call(threading.current_thread)
    slow = portal.run_coroutine_threadsafe(asyncio.sleep(0.01, "done"))
    del portal, scope
    event = told(events, warned, "scope = bridge.background_loop(")
    assert event.advice == "with bridge.background_loop(name='forgotten') as portal:"
    within(thread)
    assert slow.result(0) == "done"


def test_whoever_holds_its_portal_holds_the_loop(events: list[Event], warned: list[warnings.WarningMessage]) -> None:
    portal = bridge.background_loop().__enter__()
    thread = portal.call(threading.current_thread)
    gc.collect()
    assert portal.call(double, 2) == 4
    assert events == []
    del portal
    told(events, warned, "portal = bridge.background_loop(")
    within(thread)


def test_one_that_was_left_or_never_entered_is_not(events: list[Event], warned: list[warnings.WarningMessage]) -> None:
    bridge.background_loop()
    scope = bridge.background_loop()
    with scope as portal:
        assert portal.call(double, 2) == 4
    del scope, portal
    gc.collect()
    assert (events, warned) == ([], [])


# -- portals as scopes -------------------------------------------------------------------------------------------------


def test_a_portal_that_was_entered_and_not_left_is_told(
    events: list[Event], warned: list[warnings.WarningMessage]
) -> None:
    with bridge.background_loop() as outer:
        portal = outer.call(bridge.portal)
        portal.__enter__()
        assert portal.run_coroutine_threadsafe(double(3)).result(PATIENCE) == 6
        del portal
        assert told(events, warned, "portal.__enter__()").advice == "with portal:"


def test_a_portal_that_was_left_or_through_which_nothing_was_started_is_not(
    events: list[Event], warned: list[warnings.WarningMessage]
) -> None:
    with bridge.background_loop() as outer:
        portal = outer.call(bridge.portal)
        with portal:
            portal.run_coroutine_threadsafe(double(3))
        portal.__enter__()
        del portal
        portal = outer.call(bridge.portal)
        portal.run_coroutine_threadsafe(double(3)).result(PATIENCE)
        del portal
    assert (events, warned) == ([], [])


# -- how it is told ----------------------------------------------------------------------------------------------------


def test_where_warnings_are_errors_it_is_written_out_and_the_threads_leave_all_the_same(
    events: list[Event], monkeypatch: pytest.MonkeyPatch
) -> None:
    unraisable: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda each: unraisable.append(each.exc_value))
    executor = bridge.ThreadExecutor(1, name="forgotten")
    executor.submit(int).result(PATIENCE)
    pool = executor._pool
    del executor
    assert pool.closing
    assert [type(error) for error in unraisable] == [ResourceWarning]
    assert [event.code for event in events] == ["BRG501"]


def test_without_diagnostics_there_is_the_warning_alone(
    events: list[Event], warned: list[warnings.WarningMessage], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BRIDGE_DIAGNOSTICS", "0")
    bridge.ThreadExecutor(1).submit(int).result(PATIENCE)
    assert events == []
    assert [each.category for each in warned] == [ResourceWarning]


# -- the end of the program --------------------------------------------------------------------------------------------


def run_script(script: str) -> tuple[str, str]:
    """Output and errors of a program, which must end well; every ResourceWarning is an error."""
    done = subprocess.run(
        [sys.executable, "-W", "error::ResourceWarning", "-W", "ignore::DeprecationWarning", "-c", script],
        capture_output=True,
        text=True,
        timeout=6 * PATIENCE,
        check=True,
    )
    return done.stdout, done.stderr


@needs_processes
def test_executors_that_are_open_at_the_end_are_closed_by_it_and_nothing_is_told() -> None:
    script = """if True:
        import bridge, logging
        logging.basicConfig(level=logging.INFO)
        threads, processes = bridge.ThreadExecutor(1), bridge.ProcessExecutor(1)
        print(threads.submit(pow, 2, 3).result(), processes.submit(pow, 2, 4).result())
    """
    assert run_script(script) == ("8 16\n", "")


def test_a_background_loop_that_is_open_at_the_end_is_cut_off_and_told() -> None:
    script = """if True:
        import bridge, logging
        bridge.on_event(lambda event: print(event.code))
        scope = bridge.background_loop()
        print(scope.__enter__().call(pow, 2, 3))
    """
    output, errors = run_script(script)
    assert output == "8\nBRG501\n"
    assert "ResourceWarning: unclosed background_loop 'bridge-loop'" in errors


def test_a_background_loop_may_be_left_at_the_end() -> None:
    script = """if True:
        import atexit, bridge
        bridge.on_event(lambda event: print(event.code))
        scope = bridge.background_loop()
        portal = scope.__enter__()
        atexit.register(scope.__exit__, None, None, None)
        print(portal.call(pow, 2, 3))
    """
    assert run_script(script) == ("8\n", "")


@needs_fork
@needs_processes
def test_a_forked_child_is_not_told_of_what_its_parent_has_open() -> None:
    script = """if True:
        import bridge, gc, os
        bridge.on_event(lambda event: print(os.getpid() == parent, event.code, flush=True))
        parent = os.getpid()
        threads, processes, scope = bridge.ThreadExecutor(1), bridge.ProcessExecutor(1), bridge.background_loop()
        portal = scope.__enter__()
        threads.submit(int).result(), processes.submit(int).result()
        child = os.fork()
        if not child:
            del threads, processes, scope, portal
            gc.collect()
            os._exit(0)
        os.waitpid(child, 0)
        scope.__exit__(None, None, None)
    """
    assert run_script(script) == ("", "")

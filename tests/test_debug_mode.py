"""asyncio's debug mode on bridge's loop: turned on by asyncio's switches, it says where everything was made, in full."""

from __future__ import annotations

import asyncio
import logging
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable, Coroutine
from pathlib import Path
from traceback import StackSummary
from typing import Any

import pytest

import bridge

from .conftest import PATIENCE

#: More than the ten frames of asyncio's debug mode.
DEEP = 40


def run(main: Callable[[], Coroutine[Any, Any, Any]], *, debug: bool = True) -> Any:
    with asyncio.Runner(loop_factory=bridge.new_event_loop, debug=debug) as runner:
        return runner.run(main())


def made_at(thing: Any) -> list[str]:
    """The functions in which something was made, innermost last."""
    stack: StackSummary | None = thing._source_traceback
    assert stack is not None
    assert stack[-1].filename == __file__
    assert stack[-1].line
    return [frame.name for frame in stack]


# -- the switches ------------------------------------------------------------------------------------------------------

PROGRAM = """
import asyncio, bridge, sys, warnings

def call(loop):
    try:
        loop.call_soon(int)
    except bridge.WrongThread:
        return "refused"
    return "handed over"

async def main():
    loop = asyncio.get_running_loop()
    if "set_debug" in sys.argv:
        loop.set_debug(True)
    print(loop.get_debug(), await bridge.to_thread(call, loop))

debug = True if "debug" in sys.argv else None
bridge.run(main, debug=debug)
with asyncio.Runner(loop_factory=bridge.new_event_loop, debug=debug) as runner:
    runner.run(main())
"""


@pytest.mark.parametrize(
    ("options", "arguments", "variables"),
    [
        pytest.param([], ["debug"], {}, id="debug=True"),
        pytest.param([], ["set_debug"], {}, id="loop.set_debug"),
        pytest.param(["-X", "dev"], [], {}, id="-X dev"),
        pytest.param([], [], {"PYTHONASYNCIODEBUG": "1"}, id="PYTHONASYNCIODEBUG"),
    ],
)
def test_each_of_asyncios_switches_turns_it_on(
    options: list[str], arguments: list[str], variables: dict[str, str], tmp_path: Path
) -> None:
    done = run_program(PROGRAM, tmp_path, options, arguments, variables)
    assert done.stdout == "True refused\n" * 2
    assert done.stderr.count("BRG301 loop.call_soon was called in thread") == 2


def test_without_a_switch_it_is_off(tmp_path: Path) -> None:
    done = run_program(PROGRAM, tmp_path, [], [], {})
    assert done.stdout == "False handed over\n" * 2
    assert done.stderr.count("BRG301 ") == 1  # once for the line


def run_program(
    program: str, folder: Path, options: list[str], arguments: list[str], variables: dict[str, str]
) -> subprocess.CompletedProcess[str]:
    path = folder / "program.py"
    path.write_text(textwrap.dedent(program))
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHONASYNCIO", "BRIDGE_"))}
    return subprocess.run(
        [sys.executable, *options, path, *arguments],
        env={**environment, **variables},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=3 * PATIENCE,
        check=True,
    )


def test_it_can_be_turned_on_and_off_while_the_loop_runs() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        for debug in (False, True, False):
            loop.set_debug(debug)
            assert loop.get_debug() is debug
            task = asyncio.create_task(asyncio.sleep(0))
            for thing in (task, loop.create_future(), loop.call_soon(int), loop.call_later(0, int)):
                assert bool(thing._source_traceback) is debug  # type: ignore[attr-defined]
            await task

    run(main, debug=False)


# -- where things were made --------------------------------------------------------------------------------------------


def test_whatever_the_loop_makes_knows_the_whole_stack_that_made_it() -> None:
    def make(depth: int, function: Callable[[], Any]) -> Any:
        return make(depth - 1, function) if depth else function()

    async def main() -> None:
        loop = asyncio.get_running_loop()
        makers: list[Callable[[], Any]] = [
            lambda: loop.call_soon(int),
            lambda: loop.call_soon_threadsafe(int),
            lambda: loop.call_later(0, int),
            lambda: loop.call_at(loop.time(), int),
            lambda: loop.create_future(),
            lambda: loop.create_task(asyncio.sleep(0)),
            lambda: asyncio.create_task(asyncio.sleep(0)),
            lambda: asyncio.ensure_future(asyncio.sleep(0)),
        ]
        for maker in makers:
            thing = make(DEEP, maker)
            assert made_at(thing)[-(DEEP + 3) :] == ["main", *["make"] * (DEEP + 1), "<lambda>"]
            assert f"created at {__file__}:" in repr(thing)
            if asyncio.isfuture(thing):
                thing.cancel()

    run(main)


def test_a_task_was_made_by_the_task_that_made_it() -> None:
    async def inner() -> list[str]:
        return made_at(asyncio.current_task())

    async def outer() -> list[str]:
        return await asyncio.create_task(inner())

    async def main() -> list[str]:
        return await asyncio.create_task(outer())

    assert run(main) == ["outer"]


def test_a_cancelled_handle_says_what_it_was_for() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        for handle in (loop.call_soon(note, 1), loop.call_later(1000, note, 1)):
            handle.cancel()
            assert handle.cancelled()
            assert "cancelled" in repr(handle)
            assert "note(" in repr(handle)
            handle.cancel()

    run(main)


def note(number: int) -> None:
    raise AssertionError("this was cancelled")


def test_an_exception_in_a_callback_is_logged_with_the_line_that_scheduled_it(caplog: pytest.LogCaptureFixture) -> None:
    contexts: list[dict[str, Any]] = []

    def fail() -> None:
        raise ZeroDivisionError("in a callback")

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.call_soon(fail)
        await asyncio.sleep(0)
        loop.set_exception_handler(lambda loop, context: contexts.append(context))
        loop.call_soon(fail)
        await asyncio.sleep(0)

    run(main)
    [record] = [record for record in caplog.records if record.name == "asyncio" and record.levelno >= logging.ERROR]
    text = record.getMessage()
    assert "Object created at (most recent call last):" in text
    assert "loop.call_soon(fail)" in text
    [context] = contexts
    assert context["source_traceback"][-1].filename == __file__


# -- what is logged ----------------------------------------------------------------------------------------------------


def test_asyncio_logs_what_was_slow_on_its_own_logger(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        asyncio.get_running_loop().slow_callback_duration = 0.0
        await asyncio.sleep(0)

    caplog.set_level(logging.DEBUG, "asyncio")
    run(main)
    messages = [record.getMessage() for record in caplog.records if record.name == "asyncio"]
    slow = [message for message in messages if "took" in message]
    assert any(message.startswith("Executing <Task ") for message in slow)
    assert any(f"created at {__file__}" in message for message in slow)


def quick() -> None: ...


def fails() -> None:
    raise ValueError("failed")


async def slow_coroutine() -> None: ...


def slow_function() -> None: ...


async def in_a_thread(ask: Callable[[bridge.Portal], object]) -> None:
    await bridge.to_thread(ask, bridge.portal())


async def after_a_thread() -> None:
    await bridge.to_thread(quick)


async def after_a_failure() -> None:
    with pytest.raises(ValueError, match="failed"):
        await bridge.to_thread(fails)


async def after_a_process() -> None:
    await bridge.to_process(quick)


async def after_the_loops_executor() -> None:
    await asyncio.get_running_loop().run_in_executor(None, quick)


async def in_a_call() -> None:
    await in_a_thread(lambda portal: portal.call(slow_function))


async def in_a_coroutine() -> None:
    await in_a_thread(lambda portal: portal.call(slow_coroutine))


async def in_a_coroutine_handed_over() -> None:
    await in_a_thread(lambda portal: portal.run_coroutine_threadsafe(slow_coroutine()).result())


async def in_a_callback() -> None:
    await in_a_thread(lambda portal: portal.call_soon_threadsafe(slow_function))


async def in_a_call_of_a_process() -> None:
    await bridge.to_process(call_back)


def call_back() -> None:
    bridge.portal().call(slow_function)


@pytest.mark.parametrize(
    ("way", "name", "steps"),
    [
        (after_a_thread, "after_a_thread()", 2),
        (after_a_failure, "after_a_failure()", 2),
        (after_a_process, "after_a_process()", 2),
        (after_the_loops_executor, "after_the_loops_executor()", 2),
        (in_a_call, "slow_function", 1),
        (in_a_coroutine, "slow_coroutine", 1),
        (in_a_coroutine_handed_over, "slow_coroutine", 1),
        (in_a_callback, "slow_function()", 1),
        (in_a_call_of_a_process, "slow_function", 1),
    ],
)
def test_whatever_was_slow_is_named(
    way: Callable[[], Coroutine[Any, Any, Any]], name: str, steps: int, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        asyncio.get_running_loop().slow_callback_duration = 0.0
        await asyncio.wait_for(asyncio.create_task(way()), PATIENCE)
        await asyncio.sleep(0)

    caplog.set_level(logging.WARNING, "asyncio")
    run(main)
    slow = [message for message in messages(caplog) if message.startswith("Executing")]
    assert not [message for message in slow if message.startswith(("Executing <bridge.", "Executing <AsyncioJob"))]
    assert len([message for message in slow if f"{name} " in message or f"{name}>" in message]) >= steps


def test_the_main_coroutine_has_the_name_of_the_programs_function(caplog: pytest.LogCaptureFixture) -> None:
    async def my_main() -> None:
        asyncio.get_running_loop().slow_callback_duration = 0.0
        await asyncio.sleep(0)

    caplog.set_level(logging.WARNING, "asyncio")
    bridge.run(my_main, debug=True, diagnostics=False)
    assert any("my_main()" in message for message in messages(caplog))


def test_the_exception_handler_works_in_what_a_thread_has_sent(caplog: pytest.LogCaptureFixture) -> None:
    """It reads the traceback of whatever runs just now."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        await bridge.to_thread(quick)
        loop.call_exception_handler({"message": "after a thread"})
        await bridge.to_thread(bridge.portal().call, loop.call_exception_handler, {"message": "in a call"})

    run(main)
    assert messages(caplog) == ["after a thread", "in a call"]


def messages(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "asyncio"]

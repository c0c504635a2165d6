"""BRG404: the seconds that it names are those for which the end has been waiting, wherever that wait began."""

from __future__ import annotations

import asyncio
import concurrent.futures
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from time import monotonic
from typing import Any

import process_targets as targets
import pytest

import bridge
from bridge.diagnostics.events import Event
from tests.conftest import Gate, events_of

needs_processes = pytest.mark.skipif(sys.platform == "win32", reason="ProcessExecutor needs POSIX")

#: Seconds that an end waits here. Never how long anything takes.
TIMEOUT = 0.1


@pytest.fixture
def events() -> Iterator[list[Event]]:
    with events_of("BRG404") as heard:
        yield heard


class Stuck:
    """A function that does not end before its gate opens."""

    def __init__(self, gate: Gate):
        self.begun = Gate()
        self._gate = gate

    def __call__(self) -> None:
        self.begun.open()
        self._gate.wait()

    def end(self) -> None:
        self._gate.open()


@pytest.fixture
def stuck(gate: Gate) -> Iterator[Stuck]:
    function = Stuck(gate)
    yield function
    function.end()


def check(events: list[Event], began: float) -> None:
    """One report, of a wait that began after `began` and has lasted TIMEOUT at least."""
    (event,) = events
    waited = event.attributes["bridge.duration"]
    assert isinstance(waited, float)
    assert TIMEOUT <= waited <= monotonic() - began
    assert f"has not ended {waited:.1f} s after " in event.headline


def pause() -> None:
    """Time passes in which nothing is waited for."""
    threading.Event().wait(3 * TIMEOUT)


async def run_until_stuck(stuck: Stuck, to: Any, cancel: Any, ended: list[float]) -> None:
    """The main function of a program; something that it has sent is stuck when it ends."""
    task = asyncio.create_task(bridge.offload(to=to, cancel=cancel)(stuck)())
    await stuck.begun.reached()
    ended.append(monotonic())
    asyncio.get_running_loop().call_soon(task.cancel)  # it is not lost


@pytest.mark.parametrize("cancel", ["wait", "abandon"])
@pytest.mark.parametrize("to", ["thread", "lane"])
def test_at_the_end_of_a_run_it_is_since_the_main_function_has_ended(
    to: str, cancel: str, loop_factory: Callable[[], Any], stuck: Stuck, events: list[Event]
) -> None:
    ended: list[float] = []
    executors = {"lane": bridge.ThreadExecutor(1)}
    bridge.run(
        run_until_stuck,
        stuck,
        to,
        cancel,
        ended,
        loop_factory=loop_factory,
        shutdown_timeout=TIMEOUT,
        executors=executors,
    )
    check(events, ended[0])


@needs_processes
@pytest.mark.parametrize("cancel", ["wait", "abandon"])
def test_so_it_is_for_a_process(cancel: Any, loop_factory: Callable[[], Any], events: list[Event], tmp_path: Any) -> None:
    ended: list[float] = []

    async def main() -> None:
        hold = bridge.offload(to=executor, cancel=cancel)(targets.hold_until_exists)
        task = asyncio.create_task(hold(str(tmp_path / "never")))
        while not executor.statistics().running:
            await asyncio.sleep(0.01)
        ended.append(monotonic())
        asyncio.get_running_loop().call_soon(task.cancel)

    executor = bridge.ProcessExecutor(1)
    bridge.run(main, loop_factory=loop_factory, shutdown_timeout=TIMEOUT, executors={"lane": executor})
    check(events, ended[0])


def test_an_executor_that_was_shut_down_before_counts_from_when_its_end_is_waited_for(
    stuck: Stuck, events: list[Event]
) -> None:
    executor = bridge.ThreadExecutor(1)
    executor.submit(stuck)
    stuck.begun.wait()
    executor.shutdown(wait=False)
    pause()
    began = monotonic()
    executor.close_within(TIMEOUT)
    check(events, began)


@needs_processes
def test_so_does_one_of_processes(events: list[Event], tmp_path: Any) -> None:
    executor = bridge.ProcessExecutor(1)
    executor.submit(targets.hold_until_exists, str(tmp_path / "never"))
    while not executor.statistics().running:
        pause()
    executor.shutdown(wait=False)
    pause()
    began = monotonic()
    executor.close_within(TIMEOUT)
    check(events, began)


@pytest.mark.parametrize("kind", ["threads", "elsewhere"])
def test_so_does_a_foreign_one(kind: str, stuck: Stuck, events: list[Event], gate: Gate) -> None:
    if kind == "threads":
        pool: concurrent.futures.Executor = concurrent.futures.ThreadPoolExecutor(1)
    else:
        pool = NeverRuns()
    executor = bridge.ForeignExecutor(pool)
    executor.submit(stuck)
    if kind == "threads":
        stuck.begun.wait()
    executor.shutdown(wait=False)
    pause()
    began = monotonic()
    executor.close_within(TIMEOUT)
    check(events, began)
    gate.open()
    pool.shutdown()


class NeverRuns(concurrent.futures.Executor):
    """One that is somewhere else, and never gets to it."""

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> concurrent.futures.Future[Any]:
        future: concurrent.futures.Future[Any] = concurrent.futures.Future()
        future.set_running_or_notify_cancel()
        return future


def test_the_default_executor_of_a_loop_counts_from_when_it_is_shut_down(stuck: Stuck, events: list[Event]) -> None:
    loop = bridge.new_event_loop()

    async def main() -> float:
        future = loop.run_in_executor(None, stuck)
        await stuck.begun.reached()
        began = monotonic()
        await loop.shutdown_default_executor(TIMEOUT)
        check(events, began)
        stuck.end()
        await future
        return began

    try:
        loop.run_until_complete(main())
    finally:
        loop.close()


@pytest.mark.parametrize("how", ["normally", "by an exception"])
def test_a_background_loop_counts_from_when_its_block_is_left(how: str, stuck: Stuck, events: list[Event]) -> None:
    began = 0.0
    try:
        with bridge.background_loop(shutdown_timeout=TIMEOUT) as portal:
            portal.call_soon_threadsafe(stuck)
            stuck.begun.wait()
            pause()
            began = monotonic()
            if how == "by an exception":
                raise KeyError
    except KeyError:
        pass
    check(events, began)
    stuck.end()


@pytest.mark.parametrize(
    ("executor", "function"),
    [
        ("bridge.ThreadExecutor(1)", "threading.Event().wait"),
        pytest.param("bridge.ProcessExecutor(1)", "__import__('signal').pause", marks=needs_processes),
    ],
)
def test_at_the_exit_of_the_interpreter_it_is_since_that_began(executor: str, function: str) -> None:
    program = f"""\
import atexit, threading, time
import bridge
from bridge.executors.process import closing as of_processes
from bridge.threads import closing
closing.SHUTDOWN_TIMEOUT = of_processes.SHUTDOWN_TIMEOUT = 0.1
exit_began = []
bridge.on_event(lambda event: event.code == "BRG404" and print(
    0.1 <= event.attributes["bridge.duration"] <= time.monotonic() - exit_began[0]))
executor = {executor}
executor.submit({function})
while not executor.statistics().running:
    time.sleep(0.01)
executor.shutdown(wait=False)
time.sleep(0.3)
atexit.register(lambda: exit_began.append(time.monotonic()))
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert ended.stdout == "True\n", ended.stderr

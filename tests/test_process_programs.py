"""Whole programs over processes: sync ones, lanes, context, logs, `__main__`, and executors that outlive a loop."""

# ruff: noqa: F811 - fixtures are imported by name
from __future__ import annotations

import asyncio
import concurrent.futures
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import anyio
import process_targets as targets
import pytest
from process_targets import Deliberate, Gate, Tally

import bridge
from tests.conftest import LOOPS
from tests.processes import (  # noqa: F401
    begun,
    children,
    gate,
    new_gate,
    no_thread_left,
    reaped,
    tally,
    wait_until,
)

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX")


@pytest.fixture(scope="module")
def crew() -> Iterator[bridge.ProcessExecutor]:
    """An executor that sync code uses: its home is a background loop."""
    with bridge.ProcessExecutor(2, name="crew", grace=0.2) as executor:
        yield executor


# -- without a loop ------------------------------------------------------------------------------------------------------


def test_submit_and_map_in_a_program_without_a_loop(crew: bridge.ProcessExecutor) -> None:
    assert crew.submit(divmod, 7, 2).result(targets.PATIENCE) == (3, 1)
    assert list(crew.map(pow, [2, 3, 4], [5, 2, 3])) == [32, 9, 64]
    with pytest.raises(Deliberate):
        crew.submit(targets.fail).result(targets.PATIENCE)


def test_wait_and_as_completed_of_the_standard_library(crew: bridge.ProcessExecutor, gate: Gate, begun: Gate) -> None:
    slow = crew.submit(targets.announce_and_wait, begun, gate, "slow")
    quick = [crew.submit(targets.echo, n) for n in range(5)]
    begun.wait()
    done, waiting = concurrent.futures.wait([slow, quick[0]], targets.PATIENCE, concurrent.futures.FIRST_COMPLETED)
    assert (done, waiting) == ({quick[0]}, {slow})
    completed = concurrent.futures.as_completed([slow, *quick], targets.PATIENCE)
    assert {next(completed) for _ in quick} == set(quick)
    gate.open()
    assert next(completed).result() == "slow"


def test_many_threads_submit_at_once(crew: bridge.ProcessExecutor) -> None:
    found: list[int] = []

    def ask(number: int) -> None:
        found.extend(crew.submit(targets.echo, 100 * number + n).result(targets.PATIENCE) for n in range(50))

    threads = [threading.Thread(target=ask, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(targets.PATIENCE)
    assert sorted(found) == sorted(100 * number + n for number in range(8) for n in range(50))


def test_a_future_can_be_cancelled_until_it_runs(
    begun: Gate, gate: Gate, tally: Tally, new_gate: Callable[[str], Gate]
) -> None:
    with bridge.ProcessExecutor(1) as executor:
        running = executor.submit(targets.announce_and_wait, begun, gate)
        queued = [executor.submit(targets.add_and_return, tally, n) for n in range(5)]
        begun.wait()
        assert not running.cancel()
        assert [queued[n].cancel() for n in (1, 3)] == [True, True]
        gate.open()
    assert running.result(0)
    assert tally.count() == {"0": 1, "2": 1, "4": 1}
    assert queued[1].cancelled()


def test_shutdown_waits_or_drops_the_queue(begun: Gate, gate: Gate) -> None:
    executor = bridge.ProcessExecutor(1)
    running = executor.submit(targets.announce_and_wait, begun, gate, "ran")
    queued = executor.submit(targets.pid_of)
    begun.wait()
    executor.shutdown(wait=False, cancel_futures=True)
    with pytest.raises(bridge.ExecutorClosed):
        executor.submit(targets.pid_of)
    wait_until(queued.cancelled)
    gate.open()
    executor.shutdown()
    assert running.result(0) == "ran"


def test_leaving_a_sync_block_by_an_exception_ends_what_runs(begun: Gate) -> None:
    with pytest.raises(KeyError):  # noqa: PT012 - leaving the block is what is tested
        with bridge.ProcessExecutor(1, grace=0.05) as executor:
            running = executor.submit(targets.sleep_for_ever, begun)
            queued = executor.submit(targets.pid_of)
            pid = int(begun.wait())
            raise KeyError
    assert running.done()
    assert queued.cancelled()
    assert reaped(pid)


def test_a_forgotten_executor_leaves_no_process() -> None:
    before = children()
    executor = bridge.ProcessExecutor(1)
    assert executor.submit(targets.pid_of).result(targets.PATIENCE) != os.getpid()
    with pytest.warns(ResourceWarning, match="unclosed ProcessExecutor"):
        del executor
    wait_until(lambda: children() == before)


def test_a_program_that_closed_its_loop_without_a_word_ends() -> None:
    program = """if True:
        import asyncio, bridge
        loop = asyncio.new_event_loop()
        print(loop.run_until_complete(bridge.to_process(pow, 2, 4)), flush=True)
        loop.close()
    """
    ended = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, timeout=60, check=False
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "16\n", "")


# -- lanes ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loop", LOOPS)
def test_to_process_needs_no_preparation_and_leaves_nothing(loop: str) -> None:
    backend, options = LOOPS[loop]
    before = children()

    async def main() -> tuple[int, int]:
        first, second = await bridge.to_process(os.getpid), await bridge.to_process(targets.echo, 5)
        return first, second

    if backend == "trio":
        pid, five = bridge.run(main, backend="trio")
    else:
        pid, five = bridge.run(main, loop_factory=options.get("loop_factory") or asyncio.new_event_loop)
    assert pid != os.getpid()
    assert five == 5
    assert children() == before


@pytest.mark.parametrize("loop", LOOPS)
def test_to_process_on_a_loop_that_somebody_else_runs(loop: str) -> None:
    backend, options = LOOPS[loop]
    before = children()
    assert anyio.run(bridge.to_process, os.getpid, backend=backend, backend_options=options) != os.getpid()
    wait_until(lambda: children() == before)


def test_to_process_uses_the_lane_of_that_name() -> None:
    lane = bridge.ProcessExecutor(1, env={"BRIDGE_TEST": "the lane"})

    async def main() -> tuple[Any, Any]:
        offloaded = bridge.offload(to="process")(os.getenv)
        return await bridge.to_process(os.getenv, "BRIDGE_TEST"), await offloaded("BRIDGE_TEST")

    assert bridge.run(main, executors={"process": lane}) == ("the lane", "the lane")


def test_an_executor_whose_loop_has_ended_answers_the_next_one(loop_factory: Callable[[], Any] | None) -> None:
    """Either it works on, on another loop, or it says that it does not; it never hangs."""
    executor = bridge.ProcessExecutor(1)
    factory = loop_factory or asyncio.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        assert runner.run(executor.run(pow, 2, 3)) == 8
    for attempt in (
        lambda: executor.submit(pow, 2, 4).result(targets.PATIENCE),
        lambda: bridge.run(executor.run, pow, 2, 4, loop_factory=factory),
    ):
        try:
            assert attempt() == 16
        except (bridge.ExecutorClosed, bridge.LoopClosed):
            pass
    executor.shutdown()


# -- context -------------------------------------------------------------------------------------------------------------


def test_declared_context_variables_travel_and_others_do_not() -> None:
    async def main() -> list[Any]:
        async with bridge.ProcessExecutor(1, context_vars=(targets.declared,)) as executor:
            seen = [await executor.run(targets.read_both)]
            targets.declared.set("first")
            targets.undeclared.set("stays here")
            future = executor.submit(targets.read_both)
            targets.declared.set("second")
            seen.append(await executor.run(targets.read_both))
            await executor.run(targets.set_declared, "in the worker")
            seen.append(await executor.run(targets.read_both))
            seen.append(await asyncio.wrap_future(future))
            return seen

    seen = bridge.run(main)
    assert seen == [("unset", "unset"), ("second", "unset"), ("second", "unset"), ("first", "unset")]


def test_log_records_of_workers_come_to_the_parents_loggers(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="targets"), bridge.ProcessExecutor(1) as executor:
        pid = executor.submit(targets.log, "targets.deep", logging.WARNING, "%s is %d", "answer", 42).result(10)
        wait_until(lambda: [r for r in caplog.records if r.name == "targets.deep"])
    [record] = [r for r in caplog.records if r.name == "targets.deep"]
    assert record.getMessage() == "answer is 42"
    assert record.levelno == logging.WARNING
    assert record.process == pid
    assert record.filename == "process_targets.py"


def test_records_that_the_parent_does_not_want_are_not_made(
    caplog: pytest.LogCaptureFixture, new_gate: Callable[[str], Gate]
) -> None:
    formatted = new_gate("formatted")
    with caplog.at_level(logging.WARNING, logger="targets"), bridge.ProcessExecutor(1) as executor:
        assert not executor.submit(targets.is_enabled, "targets.deep", logging.INFO).result(10)
        executor.submit(targets.log, "targets.deep", logging.INFO, "%s", targets.Unformattable(formatted)).result(10)
        executor.submit(targets.log, "targets.deep", logging.ERROR, "last").result(10)
        wait_until(lambda: "last" in caplog.messages)
    assert not formatted.is_open()


def test_a_level_that_changes_later_reaches_workers_that_run_already(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="targets"), bridge.ProcessExecutor(1) as executor:
        assert not executor.submit(targets.is_enabled, "targets.deep", logging.INFO).result(10)
        logging.getLogger("targets").setLevel(logging.INFO)
        wait_until(lambda: executor.submit(targets.is_enabled, "targets.deep", logging.INFO).result(10))


# -- programs without a module -------------------------------------------------------------------------------------------

PROGRAM = """
import dataclasses, os
import bridge

FACTOR = 2
seen = []

@dataclasses.dataclass
class Point:
    x: int

class Wrong(Exception):
    pass

def double(point):
    return Point(FACTOR * point.x)

def fail():
    raise Wrong("by value")

def note(x):
    seen.append(x)

def call_home(x):
    bridge.portal().call(note, x)

async def main():
    async with bridge.ProcessExecutor(1) as executor:
        point = await executor.run(double, Point(21))
        assert type(point) is Point and point.x == 42, point
        assert await executor.run(lambda: os.getpid()) != os.getpid()
        try:
            await executor.run(fail)
        except Wrong as error:
            assert str(error) == "by value"
        await executor.run(call_home, 7)
        assert seen == [7], seen

bridge.run(main)
print("all is well", flush=True)
"""


@pytest.mark.parametrize("how", ["script", "-c", "stdin"])
def test_functions_and_classes_of_main_need_no_guard(how: str, tmp_path: Any) -> None:
    script = tmp_path / "program.py"
    script.write_text(PROGRAM)
    arguments = {"script": [str(script)], "-c": ["-c", PROGRAM], "stdin": ["-"]}[how]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    ended = subprocess.run(
        [sys.executable, "-W", "error", *arguments],
        input=PROGRAM if how == "stdin" else None,
        capture_output=True,
        text=True,
        timeout=60,
        env=environment,
        check=False,
    )
    assert (ended.stdout, ended.stderr) == ("all is well\n", "")

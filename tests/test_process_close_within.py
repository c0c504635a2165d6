"""What bridge itself ends, when an executor's time to close is over, is not reported as somebody else's doing."""

# ruff: noqa: F811 - fixtures are imported by name
from __future__ import annotations

import gc
import sys

import process_targets as targets
import pytest
from process_targets import Gate

import bridge
from tests.conftest import events_of
from tests.processes import begun, children, no_thread_left, reaped  # noqa: F401

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX")


def test_a_function_that_is_ended_at_closing_is_reported_once_and_its_future_says_who_did_it(begun: Gate) -> None:
    with events_of("BRG202", "BRG403", "BRG404") as told:
        executor = bridge.ProcessExecutor(1, name="closed")
        running = executor.submit(targets.sleep_for_ever, begun)
        pid = int(begun.wait())
        executor.close_within(0.0)
        error = running.exception(targets.PATIENCE)
    assert [event.code for event in told] == ["BRG404"]
    assert isinstance(error, bridge.WorkerDied)
    assert str(error).startswith("process_targets.sleep_for_ever was ended by bridge after ")
    assert "'closed' was told to close" in str(error)
    assert "somebody" not in str(error)
    assert error.pid == pid
    assert reaped(pid)


def test_a_future_that_was_dropped_is_not_reported_as_lost(begun: Gate) -> None:
    with events_of("BRG202", "BRG403") as told:
        executor = bridge.ProcessExecutor(1)
        executor.submit(targets.sleep_for_ever, begun)
        begun.wait()
        executor.close_within(0.0)
        del executor
        gc.collect()
    assert told == []


@pytest.mark.parametrize("calls_before", [0, 100])  # what is known to be short is sent to the worker at once
def test_what_had_not_begun_is_cancelled_wherever_it_waits(begun: Gate, calls_before: int) -> None:
    executor = bridge.ProcessExecutor(1)
    for n in range(calls_before):
        executor.submit(targets.echo, n).result(targets.PATIENCE)
    running = executor.submit(targets.sleep_for_ever, begun)
    begun.wait()
    queued = [executor.submit(targets.echo, n) for n in range(5)]
    executor.close_within(0.0)
    assert isinstance(running.exception(targets.PATIENCE), bridge.WorkerDied)
    assert all(future.cancelled() for future in queued)
    assert not children()

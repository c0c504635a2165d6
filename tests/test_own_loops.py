"""The loop that bridge runs for an executor is no loop of the program's: only what the program does to it is reported."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import process_targets as targets
import pytest

import bridge
from bridge.diagnostics.events import Event
from tests.conftest import PATIENCE, events_of

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="ProcessExecutor needs POSIX")

#: Seconds that are soon over, and longer than anything here takes that is not held.
SOON = 0.05


@pytest.fixture
def events() -> Iterator[list[Event]]:
    with events_of("BRG101", "BRG102", "BRG103", "BRG104") as heard:
        yield heard


@pytest.fixture
def executor(monkeypatch: pytest.MonkeyPatch) -> Iterator[bridge.ProcessExecutor]:
    """In a synchronous program, so that it has a loop of bridge's own."""
    monkeypatch.setenv("BRIDGE_SLOW_CALLBACK_DURATION", str(SOON))
    with bridge.ProcessExecutor(1, name="render") as executor:
        assert executor.submit(targets.echo, 1).result(PATIENCE) == 1
        yield executor


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "it did not come"
        threading.Event().wait(0.005)


def test_a_callback_of_the_program_that_blocks_it_is_reported_with_the_executor(
    executor: bridge.ProcessExecutor, events: list[Event], tmp_path: Path
) -> None:
    go_on = tmp_path / "go on"

    def block(future: Any) -> None:
        until(lambda: events)

    executor.submit(targets.hold_until_exists, str(go_on)).add_done_callback(block)
    go_on.touch()
    until(lambda: [event.code for event in events][-1:] == ["BRG102"])
    said = "the loop that serves 'render' has been blocked for "
    assert any(event.headline.startswith(said) and __file__ in event.message for event in events)


def test_what_bridge_does_there_itself_is_nothing_to_tell_a_user(
    executor: bridge.ProcessExecutor, events: list[Event], monkeypatch: pytest.MonkeyPatch
) -> None:
    home = executor._crew._home
    assert home is not None
    done = threading.Event()
    home.loop.call_soon_threadsafe(time.sleep, 6 * SOON)
    home.loop.call_soon_threadsafe(done.set)
    assert done.wait(PATIENCE)
    assert executor.submit(targets.echo, 3).result(PATIENCE) == 3
    assert events == []


def test_a_background_loop_of_the_program_is_watched_as_ever(
    executor: bridge.ProcessExecutor, events: list[Event]
) -> None:
    async def block() -> None:
        until(lambda: events)

    with bridge.background_loop() as portal:
        portal.call(block)
    assert events[0].headline.startswith("the loop has been blocked for ")

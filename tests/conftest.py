"""Every async test runs on every loop; every test leaves no thread behind.

`anyio_backend` is the one fixture that chooses the loop. Blocking waits in tests have an end (`within`, `Gate`), so that
a test which would hang fails instead, with the line that hung.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest

import bridge
from bridge.diagnostics.events import Event, on_event, stream
from bridge.diagnostics.watchdog import THREAD_NAME
from bridge.threads.closing import join
from bridge.threads.pool import pools

LOOPS: dict[str, tuple[str, dict[str, Any]]] = {
    "bridge": ("asyncio", {"loop_factory": bridge.new_event_loop}),
    "asyncio": ("asyncio", {}),
    "trio": ("trio", {}),
}
try:
    import uvloop
except ImportError:  # Windows
    pass
else:
    LOOPS["uvloop"] = ("asyncio", {"loop_factory": uvloop.new_event_loop})

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in what a shell runs in the background
    signal.signal(signal.SIGINT, signal.default_int_handler)  # else the programs that tests start would ignore it as well

# Worker processes import from here what tests send them by name. Last, so that it is the installed bridge that is tested.
sys.path.append(str(Path(__file__).parent.parent))

#: A machine that runs tests stops for a moment now and then, be it for its disk. Only what is about blocked loops wants
#: to hear of that, and takes this out of the environment.
UNHURRIED = {"BRIDGE_SLOW_CALLBACK_DURATION": "2"}
os.environ.update(UNHURRIED)

#: Seconds after which a wait in a test has failed. Never how long anything takes.
PATIENCE = 10.0


@pytest.fixture(params=list(LOOPS))
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    return LOOPS[request.param]


@pytest.fixture
def loop_name(request: pytest.FixtureRequest) -> str:
    """Which of LOOPS this test runs on."""
    return request.node.callspec.params["anyio_backend"]


@pytest.fixture(params=[name for name in LOOPS if name != "trio"])
def loop_factory(request: pytest.FixtureRequest) -> Callable[[], Any] | None:
    """For tests that run an asyncio loop themselves."""
    return LOOPS[request.param][1].get("loop_factory")


@pytest.fixture(autouse=True)
def no_thread_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    for pool in list(pools):
        pool.close()
    for pool in list(pools):
        assert join(pool, PATIENCE), f"{pool.name} still runs {[w.job and w.job.fn for w in pool.workers]}"
    left = {t for t in set(threading.enumerate()) - before if not comes_and_goes(t)}
    for thread in left:
        while thread.ident is None:  # it is just being started
            time.sleep(0.001)
        thread.join(PATIENCE)
    assert not [thread for thread in left if thread.is_alive()]


def comes_and_goes(thread: threading.Thread) -> bool:
    """Bridge's sentry and watchdog leave when they have had nothing to do, its delivery threads stay, other libraries'
    threads come and go as those like."""
    return thread.name.startswith(
        ("bridge-sentry", "bridge-delivery", THREAD_NAME, "AnyIO worker", "Trio thread", "asyncio_", "uvloop_")
    )


class Gate:
    """An event that threads and loops can both wait for, within PATIENCE."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def open(self) -> None:
        self._event.set()

    def is_open(self) -> bool:
        return self._event.is_set()

    def wait(self) -> None:
        """In a thread."""
        assert self._event.wait(PATIENCE), "nobody opened this gate"

    async def reached(self) -> None:
        """On a loop: without blocking it, and without using what is under test."""
        with anyio.fail_after(PATIENCE):
            while not self._event.is_set():
                await anyio.sleep(0.001)


@pytest.fixture
def gate() -> Gate:
    return Gate()


@pytest.fixture
def new_gate() -> type[Gate]:
    return Gate


@contextmanager
def events_of(*codes: str) -> Iterator[list[Event]]:
    """What is reported with one of these codes. A busy machine may well block a loop, which is another matter."""
    stream.forget()
    heard: list[Event] = []
    with on_event(lambda event: heard.append(event) if event.code in codes else None):
        yield heard
    stream.forget()


def logged(caplog: pytest.LogCaptureFixture, name: str, count: int = 1) -> list[logging.LogRecord]:
    """The records of that logger, once there are so many: events are logged by a thread of their own."""
    deadline = time.monotonic() + PATIENCE
    while len(records := [each for each in caplog.records if each.name == name]) < count and time.monotonic() < deadline:
        time.sleep(0.001)
    return records


def within(thread: threading.Thread) -> None:
    """Join, or fail."""
    thread.join(PATIENCE)
    assert not thread.is_alive(), f"{thread.name} hangs"

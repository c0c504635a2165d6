"""An exception that a signal handler raises at any bytecode of a portal's methods leaves nothing behind.

Each test interrupts one use of a portal at every bytecode in turn, in a thread that is not a worker (only the main thread
handles signals), and accounts for every call, session, context and coroutine after each.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import gc
import sys
import threading
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import pytest

import bridge
from tests.conftest import PATIENCE
from tests.interruptions import Interrupted, Position, interrupt, interruptions


class Ledger:
    """What begins and ends on the loop."""

    def __init__(self, tasks: int = 0) -> None:
        self.begun = 0
        self.ended = 0
        self.tasks = tasks  # those that are always there

    @contextmanager
    def entry(self) -> Iterator[None]:
        self.begun += 1
        try:
            yield
        finally:
            self.ended += 1

    async def coroutine(self) -> str:
        with self.entry():
            await asyncio.sleep(0)
        return "done"

    @asynccontextmanager
    async def context(self) -> AsyncGenerator[str]:
        with self.entry():
            await asyncio.sleep(0)
            yield "value"

    async def numbers(self) -> AsyncGenerator[int]:
        with self.entry():
            for number in range(3):
                await asyncio.sleep(0)
                yield number


def settled(portal: bridge.Portal, ledger: Ledger) -> bool:
    """Nothing waits for the loop, nothing that it has begun goes on, and its tasks are those that it always has."""
    tasks = portal.call(lambda: len(asyncio.all_tasks()))
    return ledger.begun == ledger.ended and tasks == ledger.tasks and not portal._host.waits


def settles(portal: bridge.Portal, ledger: Ledger, position: Position) -> None:
    """What the interruption has left to the loop ends soon, without the thread."""
    gc.collect(0)  # no cycle is needed to keep what was interrupted: this one only collects what has just been made
    deadline = time.monotonic() + PATIENCE
    while not settled(portal, ledger):
        assert time.monotonic() < deadline, f"{position} leaves {ledger.begun - ledger.ended} open, {portal._host.waits}"


def call(portal: bridge.Portal, ledger: Ledger) -> None:
    assert portal.call(ledger.coroutine) == "done"


def enter(portal: bridge.Portal, ledger: Ledger) -> None:
    with portal.enter(ledger.context()) as value:
        assert value == "value"


def enter_and_raise(portal: bridge.Portal, ledger: Ledger) -> None:
    with pytest.raises(ZeroDivisionError), portal.enter(ledger.context()):
        raise ZeroDivisionError


def iterate(portal: bridge.Portal, ledger: Ledger) -> None:
    assert list(portal.iterate(ledger.numbers())) == [0, 1, 2]


def iterate_and_leave(portal: bridge.Portal, ledger: Ledger) -> None:
    iterator = portal.iterate(ledger.numbers())
    assert next(iterator) == 0
    iterator.close()  # type: ignore[attr-defined]


def iterate_and_break(portal: bridge.Portal, ledger: Ledger) -> None:
    for number in portal.iterate(ledger.numbers()):
        assert number == 0
        break


def drop_context(portal: bridge.Portal, ledger: Ledger) -> None:
    assert portal.enter(ledger.context()).__enter__() == "value"


def run_coroutine(portal: bridge.Portal, ledger: Ledger) -> None:
    portal.run_coroutine_threadsafe(ledger.coroutine()).result(PATIENCE)


USES: dict[str, Callable[[bridge.Portal, Ledger], None]] = {
    each.__name__: each
    for each in (
        call,
        enter,
        enter_and_raise,
        drop_context,
        iterate,
        iterate_and_leave,
        iterate_and_break,
        run_coroutine,
    )
}


@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning")  # before bridge had it
@pytest.mark.parametrize("use", USES)
def test_interrupted_at_any_bytecode_a_portal_loses_nothing(
    use: str, loop_factory: Callable[[], Any] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Interrupted in a finalizer. pytest's own hook keeps the exception, and with it what is finalized.
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: None)
    with bridge.background_loop(loop_factory=loop_factory, diagnostics=False) as portal:
        ledger = Ledger(tasks=portal.call(lambda: len(asyncio.all_tasks())))
        positions = 0
        for position in interruptions(lambda: USES[use](portal, ledger)):
            settles(portal, ledger, position)
            positions += 1
        assert positions > 100
        USES[use](portal, ledger)  # undisturbed
        settles(portal, ledger, position)


def loop_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "interrupted-loop"]


def ends(position: Position) -> None:
    for thread in loop_threads():
        thread.join(PATIENCE)
        assert not thread.is_alive(), f"{position} leaves the loop's thread running"


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # interrupted in a finalizer
@pytest.mark.filterwarnings("ignore::ResourceWarning")  # interrupted before the first line of __exit__
@pytest.mark.parametrize("kind", ["left", "left by an exception"])
def test_interrupted_at_any_bytecode_a_background_loop_ends(kind: str, loop_factory: Callable[[], Any] | None) -> None:
    ledger = Ledger()

    def use() -> None:
        with bridge.background_loop(loop_factory=loop_factory, name="interrupted-loop", diagnostics=False) as portal:
            portal.call(ledger.coroutine)
            if kind != "left":
                raise ZeroDivisionError

    def action() -> None:
        try:
            use()
        except ZeroDivisionError:
            pass

    number = 0
    for position in interruptions(action, sample=200, seed=3):
        ends(position)
        assert ledger.begun == ledger.ended, str(position)
        number += 1
    assert number > 50


def test_interrupted_while_it_waits_for_callers_a_background_loop_cancels_them(
    loop_factory: Callable[[], Any] | None,
) -> None:
    # A second Ctrl-C: the block is being left, and waits for what another thread has called.
    cancelled = threading.Event()

    async def for_ever(begun: threading.Event) -> None:
        begun.set()
        try:
            await asyncio.sleep(1000)
        finally:
            cancelled.set()

    def caller(portal: bridge.Portal, begun: threading.Event) -> None:
        with pytest.raises((bridge.LoopClosed, concurrent.futures.CancelledError)):
            portal.call(for_ever, begun)

    def leave() -> None:
        scope.__exit__(None, None, None)

    begun = threading.Event()
    scope = bridge.background_loop(loop_factory=loop_factory, name="interrupted-loop", diagnostics=False)
    portal = scope.__enter__()
    thread = threading.Thread(target=caller, args=(portal, begun))
    thread.start()
    assert begun.wait(PATIENCE)
    position = interrupt(leave, 200, Interrupted)  # the round in which it asks for a sign of life is repeated for ever
    assert position is not None
    thread.join(PATIENCE)
    assert not thread.is_alive()
    assert cancelled.wait(PATIENCE)
    ends(position)

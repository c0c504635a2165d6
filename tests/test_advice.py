"""What diagnostics and errors name, and what they advise, fits what the program does."""

from __future__ import annotations

import ast
import asyncio
import re
import sqlite3
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any, Literal

import pytest

import bridge
from bridge.diagnostics.advice import offloaded as offloaded_line
from tests.conftest import PATIENCE, Gate, events_of

pytestmark = pytest.mark.anyio

To = Literal["thread", "process"]


# -- StopIteration -----------------------------------------------------------------------------------------------------


def exhausted(*args: object) -> Any:
    return next(iter(()))


def ends_by_next() -> Iterator[int]:
    yield 1
    exhausted()


async def streamed(fn: Callable[..., Any], to: To) -> None:
    async for _ in bridge.stream(fn, to=to):
        pass


async def mapped(fn: Callable[..., Any], to: To) -> None:
    async for _ in bridge.map(fn, [1], to=to):
        pass


async def offloaded(fn: Callable[..., Any], to: To) -> None:
    await bridge.offload(to=to)(fn)()


@pytest.mark.parametrize("to", ["thread", "process"])
async def test_who_raised_stop_iteration_is_named(to: To) -> None:
    ways = [(streamed, exhausted), (streamed, ends_by_next), (mapped, exhausted), (offloaded, exhausted)]
    for way, fn in ways:
        with pytest.raises(RuntimeError, match=f"test_advice.{fn.__name__}") as caught:
            await way(fn, to)
        assert "StopIteration" in str(caught.value)
        assert "bridge." not in str(caught.value)
        assert caught.value.__cause__ is not None


@pytest.mark.parametrize("make", [bridge.ThreadExecutor, bridge.ProcessExecutor])
@pytest.mark.parametrize("size", [1, 2])
def test_who_raised_stop_iteration_in_a_map_for_threads_is_named(make: Callable[[int], Any], size: int) -> None:
    with make(1) as executor, pytest.raises(RuntimeError, match=r"test_advice\.exhausted raised StopIteration"):
        list(executor.map(exhausted, range(3), timeout=PATIENCE, chunksize=size))


# -- objects that belong to one thread ---------------------------------------------------------------------------------

_RLOCK: Any = type(threading.RLock())


class Seen:
    """Keeps what would be advised for the call that is being executed."""

    advice: str | None = ""

    def look(self) -> None:
        frame = sys._getframe(2)
        self.advice = offloaded_line((frame.f_code, frame.f_lasti), "thread", frame=frame)


seen = Seen()


class SeenRLock(_RLOCK):  # type: ignore[misc]
    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        seen.look()
        return True


class SeenCondition(threading.Condition):
    def wait(self, timeout: float | None = None) -> bool:
        seen.look()
        return True


class SeenConnection(sqlite3.Connection):
    def execute(self, *args: Any) -> Any:
        seen.look()
        return self

    def fetchone(self) -> None:
        seen.look()


class SeenEvent(threading.Event):
    def wait(self, timeout: float | None = None) -> bool:
        seen.look()
        return True


class SeenSemaphore(threading.Semaphore):
    def acquire(self, blocking: bool = True, timeout: float | None = None) -> bool:
        seen.look()
        return True


class Holder:
    def __init__(self, lock: Any):
        self.lock = lock


class Slotted:
    __slots__ = ("lock",)

    def __init__(self, lock: Any):
        self.lock = lock


lock_of_the_module = SeenRLock()


def by_name(lock: Any) -> None:
    lock.acquire()


def by_attribute(lock: Any) -> None:
    holder = Holder(lock)
    holder.lock.acquire()


def by_slot(lock: Any) -> None:
    holder = Slotted(lock)
    holder.lock.acquire()


def by_global(lock: Any) -> None:
    lock_of_the_module.acquire()


def by_item(locks: Any) -> None:
    [locks][0].acquire()


@pytest.mark.parametrize("take", [by_name, by_attribute, by_slot, by_global, by_item])
def test_a_lock_that_belongs_to_its_thread_is_not_to_be_taken_in_another_one(take: Callable[[Any], None]) -> None:
    take(SeenRLock())
    assert seen.advice is not None
    assert "acquire" not in seen.advice
    assert ":` in it" in seen.advice
    assert "with " in seen.advice


def test_a_condition_is_not_to_be_waited_for_in_another_thread() -> None:
    changed = SeenCondition()
    changed.wait(1)
    assert seen.advice is not None
    assert "changed.wait" not in seen.advice
    assert "with changed:" in seen.advice


def test_a_connection_that_belongs_to_its_thread_is_not_to_be_used_in_another_one() -> None:
    database = SeenConnection(":memory:")
    try:
        database.execute("SELECT 1")
        assert seen.advice is not None
        assert "database.execute" not in seen.advice
        assert "opens database" in seen.advice
        database.execute("SELECT 1").fetchone()
        assert "opens database" in seen.advice
    finally:
        database.close()


def test_what_any_thread_may_wait_for_can_be_sent_to_one() -> None:
    event, semaphore = SeenEvent(), SeenSemaphore()
    event.wait(1)
    assert seen.advice == "await bridge.to_thread(event.wait, 1)"
    semaphore.acquire()
    assert seen.advice == "await bridge.to_thread(semaphore.acquire)"


# -- names and lines that can be typed ---------------------------------------------------------------------------------


def test_what_is_left_behind_is_named_as_its_author_knows_it(gate: Gate, new_gate: type[Gate]) -> None:
    """A stream runs inside of a function of bridge's own."""
    ended = new_gate()

    def blocks() -> Iterator[int]:
        gate.open()
        ended.wait()
        yield 1

    async def main() -> None:
        async for _ in bridge.stream(blocks):
            pass

    async def leave() -> None:
        streaming = asyncio.create_task(main())
        await gate.reached()
        streaming.cancel()

    with events_of("BRG404") as left:
        bridge.run(leave, shutdown_timeout=0.05)
    ended.open()
    assert [event.attributes["bridge.function"].rpartition(".")[2] for event in left] == ["blocks"]
    assert "blocks has not ended" in left[0].headline


async def test_a_lane_that_is_missing_is_opened_by_a_line_that_can_be_typed() -> None:
    with pytest.raises(bridge.UnknownLane) as caught:
        await bridge.offload(to="my lane")(int)()
    line = re.search(r"`(async with bridge\.lanes\(.*\))`", str(caught.value))
    assert line is not None
    ast.parse(f"async def main():\n    {line[1]}:\n        pass")

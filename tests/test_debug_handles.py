"""Handles of debug mode: what they say of themselves, and when they look for it."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest

import bridge
from bridge.loop.event_loop import EventLoop

MAKERS: dict[str, Callable[..., Any]] = {
    "call_soon": lambda loop, *call: loop.call_soon(*call),
    "call_later": lambda loop, *call: loop.call_later(60, *call),
    "call_soon_threadsafe": lambda loop, *call: loop.call_soon_threadsafe(*call),
}


@pytest.fixture
def loop() -> Iterator[EventLoop]:
    loop = bridge.new_event_loop()
    loop.set_debug(True)
    yield loop
    loop.close()


@pytest.fixture(params=MAKERS)
def make(request: pytest.FixtureRequest, loop: EventLoop) -> Callable[..., Any]:
    """Make a handle that is to call a function with arguments."""
    return partial(MAKERS[request.param], loop)


class Argument:
    """Notes that it was described."""

    described = False

    def __repr__(self) -> str:
        self.described = True
        return "an argument"


class Callback:
    """An object that can be called, without a name of its own."""

    def __call__(self) -> None:
        pass


def work(*arguments: object) -> None:
    """What is to be called."""


WORK = f"work(...) at {work.__code__.co_filename}:{work.__code__.co_firstlineno}"


def test_one_that_waits_says_what_it_calls_and_where_it_was_made(make: Callable[..., Any]) -> None:
    told = repr(make(work, Argument()))
    assert "work(an argument) at " in told
    assert f"created at {__file__}:" in told


def test_a_cancelled_one_says_what_it_was_to_call_and_where_it_was_made(make: Callable[..., Any]) -> None:
    handle = make(work, 1)
    handle.cancel()
    told = repr(handle)
    assert told.startswith(("<Handle cancelled ", "<TimerHandle cancelled when="))
    assert f" {WORK} created at {__file__}:" in told


@pytest.mark.parametrize(
    ("callback", "said"), [(partial(work, 1), WORK), ([].append, "list.append(...)"), (Callback(), "Callback(...)")]
)
def test_a_cancelled_one_names_callbacks_of_every_kind(make: Callable[..., Any], callback: Any, said: str) -> None:
    handle = make(callback)
    handle.cancel()
    assert said in repr(handle)


def test_cancelling_describes_nothing(make: Callable[..., Any]) -> None:
    argument = Argument()
    handle = make(work, argument)
    handle.cancel()
    handle.cancel()
    repr(handle)
    assert handle.cancelled()
    assert not argument.described


def test_a_cancelled_one_keeps_neither_function_nor_arguments(make: Callable[..., Any]) -> None:
    def function(argument: Argument) -> None:
        pass

    argument = Argument()
    gone = [weakref.ref(function), weakref.ref(argument)]
    handle = make(function, argument)
    handle.cancel()
    del function, argument
    assert [each() for each in gone] == [None, None]


def test_cancelled_timers_are_counted_once_so_that_the_loop_clears_them_away(loop: EventLoop) -> None:
    timers = [loop.call_later(60, work) for _ in range(3)]
    for timer in timers:
        timer.cancel()
        timer.cancel()
    counted: int = loop._timer_cancelled_count  # type: ignore[attr-defined]
    assert counted == 3

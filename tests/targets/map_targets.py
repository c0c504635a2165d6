"""Functions that the tests of `map` run in threads and processes. They fail for some of their inputs.

A worker imports this module when it begins its first call, whose time may be limited: so it imports little.
"""

from __future__ import annotations

import os
import pickle
import signal
import time
from collections.abc import Iterable
from typing import Any, NoReturn

import bridge

#: Seconds after which a wait in a worker has failed. Never how long anything takes.
PATIENCE = 20.0


class Bad(Exception):
    """What these functions raise."""


def check(number: int) -> int:
    if number % 7 == 3:
        raise Bad(number)
    return number


def divide(number: int, by: int, *, scale: int = 1) -> float:
    return scale * number / by


def hang_at(number: int, hanging: int) -> int:
    """It ends when it is told to."""
    give_up = time.monotonic() + PATIENCE
    while number == hanging:
        assert time.monotonic() < give_up, "this function was not told to end"
        bridge.check_cancelled()
        time.sleep(0.001)
    return number


def sleep_at(number: int, sleeping: int, seconds: float) -> int:
    """It cannot be told anything."""
    if number == sleeping:
        time.sleep(seconds)
    return number


def sleep_for_ever_at(number: int, sleeping: int, begun: Any) -> int:
    if number == sleeping:
        begun.open(os.getpid())
        time.sleep(3600)
    return number


def crash_at(number: int, tally: Any, crashing: Iterable[int]) -> int:
    tally.add(number)
    if number in crashing:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def echo(thing: Any) -> Any:
    return thing


def exit_at(number: int, exiting: int) -> int:
    if number == exiting:
        raise SystemExit("enough")
    return number


def make_at(number: int, kind: str, at: int) -> Any:
    """A number, or something that does not travel well."""
    return Awkward(kind) if number == at else number


class Awkward:
    """It cannot be pickled, or what comes of that cannot be rebuilt."""

    def __init__(self, kind: str):
        self.kind = kind

    def __repr__(self) -> str:
        return f"Awkward({self.kind!r})"

    def __reduce__(self) -> Any:
        if self.kind == "unpicklable":
            raise pickle.PicklingError("an awkward thing stays where it is")
        return refuse_to_be_rebuilt, ()


def refuse_to_be_rebuilt() -> NoReturn:
    raise ValueError("an awkward thing is not rebuilt")


class Unsendable(Exception):
    """It cannot be pickled."""

    def __reduce__(self) -> NoReturn:
        raise pickle.PicklingError("this error stays where it is")


def raise_unsendable_at(number: int, at: int) -> int:
    if number == at:
        raise Unsendable("it is the input's fault")
    return number


async def double_on_a_loop(number: int) -> int:
    if number == 3:
        raise Bad(number)
    return 2 * number


async def map_inside(numbers: list[int]) -> list[int]:
    return [result async for result in bridge.map(check, numbers)]

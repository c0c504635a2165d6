"""Functions on arrays that the tests run in worker processes; apart, because numpy takes a while to import."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from typing import Any

import numpy as np

_kept: list[Any] = []


def total(array: Any) -> float:
    return float(array.sum())


def filled(value: float, size: int = 20_000) -> Any:
    return np.full(size, value)


def fill(array: Any, value: float) -> float:
    array[:] = value
    return float(array.sum())


def keep(array: Any) -> Any:
    _kept[:] = [array]
    return array


def kept() -> Any:
    return _kept[0]


def keep_and_say_pid(array: Any) -> int:
    keep(array)
    return os.getpid()


def rows(count: int, size: int) -> Iterator[Any]:
    for number in range(count):
        yield np.full(size, number)


def die_with(array: Any) -> None:
    keep(array)
    os.kill(os.getpid(), signal.SIGKILL)

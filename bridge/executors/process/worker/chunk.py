"""Several calls of one function, one after the other, in a worker."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter
from typing import Any

from bridge.threads.job import check_cancelled


@dataclass(slots=True)
class Chunk:
    """What came of a chunk: the values up to the first error, and that error."""

    values: list[Any]
    seconds: float
    error: BaseException | None


def run_chunk(fn: Callable[..., Any], calls: list[tuple[Any, ...]]) -> Chunk:
    """Call `fn(*args)` for each, until one raises. Between two calls a cancellation is noticed."""
    values: list[Any] = []
    began = perf_counter()
    error = None
    for args in calls:
        check_cancelled()
        try:
            values.append(fn(*args))
        except Exception as reason:
            error = reason
            break
    return Chunk(values, perf_counter() - began, error)

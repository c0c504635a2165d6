"""Several calls of one function, one after the other, in a worker."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING, Any

from bridge.executors.process.wire.errors import pack_error, unpack_error
from bridge.threads.here import here
from bridge.threads.job import check_cancelled

if TYPE_CHECKING:
    from bridge.executors.process.wire.pickling import Unpacker


@dataclass(slots=True)
class Chunk:
    """What came of a chunk: the values up to the first error, and that error."""

    values: list[Any]
    seconds: float
    #: As `wire.errors` packs it, until `rebuild`.
    error: Any

    def rebuild(self, unpacker: Unpacker) -> None:
        """In the parent: make an exception of the error again, with the worker's traceback."""
        if self.error is not None:
            self.error = unpack_error(self.error, unpacker)


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
            error = pack_error(reason, here.worker.packer)  # type: ignore[union-attr]
            break
    return Chunk(values, perf_counter() - began, error)

"""Several calls of one function, one after the other, in a worker."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter
from types import AsyncGeneratorType, CoroutineType
from typing import TYPE_CHECKING, Any

from bridge.executors.process.wire.errors import pack_error, unpack_error
from bridge.executors.process.wire.page import STEP
from bridge.threads.here import here
from bridge.threads.job import check_cancelled

if TYPE_CHECKING:
    from bridge.executors.process.wire.pickling import Packer, Unpacker

#: Functions that came by value and that a worker keeps.
MOST_KNOWN = 8


@dataclass(slots=True)
class Chunk:
    """What came of a chunk: the values up to the first error, and that error."""

    values: list[Any]
    seconds: float
    #: As `wire.errors` packs it, until `rebuild`.
    error: Any

    def up_to_the_unpicklable(self, packer: Packer) -> Chunk:
        """In the worker: the values before the first that cannot be pickled, and the error of that one."""
        for number, value in enumerate(self.values):
            try:
                packer.discard(packer.pack(value))
            except Exception as reason:
                return Chunk(self.values[:number], self.seconds, pack_error(reason, packer))
        return self

    def rebuild(self, unpacker: Unpacker) -> None:
        """In the parent: make an exception of the error again, with the worker's traceback."""
        if self.error is not None:
            self.error = unpack_error(self.error, unpacker)


_known: dict[bytes, Any] = {}  # functions that came by value, the last ones


def known(key: bytes, data: bytes) -> Any:
    """The function of that key, unpickled when it comes for the first time."""
    fn = _known.get(key)
    if fn is None:
        fn = pickle.loads(data)
        if len(_known) >= MOST_KNOWN:
            del _known[next(iter(_known))]
        _known[key] = fn
    return fn


class Repeated:
    """A function that goes by value with every chunk, pickled once for all of them."""

    def __init__(self, data: bytes):
        self._data = data
        self._key = os.urandom(12)

    def __reduce__(self) -> tuple[Any, ...]:
        return known, (self._key, self._data)


def run_chunk(fn: Callable[..., Any], calls: list[tuple[Any, ...]]) -> Chunk:
    """Call `fn(*args)` for each, until one raises. Between two calls a cancellation is noticed."""
    seat: Any = here.worker
    words, job = seat.words, seat.job
    values: list[Any] = []
    began = perf_counter()
    error = None
    try:
        for args in calls:
            words[STEP] = len(values) + 1
            if job.cancelling is not None:
                check_cancelled()
            try:
                value = fn(*args)
                if type(value) is CoroutineType or type(value) is AsyncGeneratorType:
                    value = seat.run_coroutine(value)
                values.append(value)
            except (Exception, KeyboardInterrupt) as reason:
                error = pack_error(reason, seat.packer)
                break
    finally:
        words[STEP] = 0
    return Chunk(values, perf_counter() - began, error)

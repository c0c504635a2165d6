"""Frames: the messages between a parent and one worker process, in both directions, over one stream socket.

A frame is a header (length of the payload, kind, ident) and a payload. Frames keep their order; many may travel in one
write. Descriptors travel on a socket of their own, always before the frame that speaks of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from struct import Struct
from typing import Any, NamedTuple

HEADER: Struct = Struct("<IBQ")


class Setup(NamedTuple):
    """What a SETUP frame carries. Its fields are named in messages about what cannot be pickled."""

    initializer: Any
    initargs: tuple[Any, ...]
    context_vars: Any
    levels: dict[str, int]


# -- to the worker: ident is the job's number unless it says otherwise ---------------------------------------------------
SETUP = 1  #: how to be a worker
JOB = 2  #: one byte of flags, then a parcel of (fn, args, kwargs, contextvars)
CANCEL = 3  #: nobody wants the job's result any more (the shared page says so, too)
CREDIT = 4  #: a stream may send so many items more (payload: u32)
ANSWER = 5  #: to a CALL; ident is the call's number
LEVELS = 6  #: the levels of the parent's loggers have changed
TRIM = 7  #: let go of blocks that lie ready for reuse
QUIT = 8  #: end when the jobs before this are done
PREPARE = 10  #: the first frame: what multiprocessing would tell it
JOBS = 9  #: several calls of one function (`wire.alike`); ident is the number of the first

# -- from the worker ---------------------------------------------------------------------------------------------------
READY = 16  #: set up, the initializer has run
RESULT = 17  #: TIMES, then a parcel
ERROR = 18  #: TIMES, then an error; ident 0: the set-up failed
ITEM = 19  #: of a stream: u32 its number, then a parcel
CALL = 20  #: through the portal; ident is the call's number
LOG = 21  #: a log record

# -- either way; ident is a block's number -----------------------------------------------------------------------------
RELEASE = 32  #: no view is left on your block
FORGET = 33  #: my block is gone, unmap it
LOST = 34  #: your block has not come: its descriptor could not be received

# -- flags of a JOB ----------------------------------------------------------------------------------------------------
PERMIT = 1  #: wait for your permit: until you have read it, the parent may take the job back
STREAM = 2  #: iterate what the function returns, and send the items

#: When a job began and ended in the worker, by `time.perf_counter`, which all processes of a machine share on Linux.
TIMES: Struct = Struct("<dd")
COUNT: Struct = Struct("<I")
_OUTCOME = Struct(HEADER.format + TIMES.format[1:])

#: Bytes asked of the socket at a time.
CHUNK = 1 << 18


def frame(kind: int, ident: int, payload: bytes = b"") -> bytes:
    """One frame, ready to be sent."""
    return HEADER.pack(len(payload), kind, ident) + payload


def outcome(kind: int, ident: int, began: float, ended: float, parcel: bytes) -> bytes:
    """A RESULT or an ERROR."""
    return _OUTCOME.pack(TIMES.size + len(parcel), kind, ident, began, ended) + parcel


def frames_in(data: memoryview) -> Iterator[tuple[int, int, memoryview]]:
    """The whole frames in `data`: kind, ident, payload. Payloads are views on `data`."""
    start, end = 0, len(data)
    unpack, size = HEADER.unpack_from, HEADER.size
    while end - start >= size:
        length, kind, ident = unpack(data, start)
        payload = start + size
        start = payload + length
        if start > end:
            return
        yield kind, ident, data[payload:start]


class Inflow:
    """What has been read from a stream socket and not been understood yet: at most the beginning of one frame.

    `room` is where the next bytes go. The buffer is used again and again: a payload is valid until `room` is asked for.
    """

    def __init__(self) -> None:
        self._buffer = memoryview(bytearray(CHUNK))
        self._begin = 0  # of what has not been understood
        self._end = 0

    def room(self) -> memoryview:
        """Where to put the next bytes; at least as many as complete the frame that has begun, if its length is known."""
        left = self._end - self._begin
        if left:
            rest = bytes(self._buffer[self._begin : self._end])
            wanted = HEADER.unpack_from(rest)[0] + HEADER.size if left >= HEADER.size else 0
            if wanted > len(self._buffer):
                self._buffer = memoryview(bytearray(wanted + CHUNK))
            self._buffer[:left] = rest
        elif len(self._buffer) > CHUNK:
            self._buffer = memoryview(bytearray(CHUNK))
        self._begin, self._end = 0, left
        return self._buffer[left:]

    def took(self, count: int) -> Iterator[tuple[int, int, memoryview]]:
        """So many bytes have come in: the frames that are whole now."""
        self._end += count
        buffer = self._buffer
        unpack, size = HEADER.unpack_from, HEADER.size
        while self._end - self._begin >= size:
            length, kind, ident = unpack(buffer, self._begin)
            payload = self._begin + size
            if payload + length > self._end:
                return
            self._begin = payload + length
            yield kind, ident, buffer[payload : payload + length]

"""Many calls of a short function: they travel in chunks, so that a crossing is paid for once for so many calls.

    source ──> args, args, ... ── size reached, or nothing else to read ──> run_chunk(fn, calls) in a worker ──> values

A chunk is sized so that it takes about `CHUNK` seconds, by what the last one took; so the first is a single call. The
first error ends its chunk, after the values before it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from itertools import islice
from time import monotonic
from typing import TYPE_CHECKING, Any

from bridge.diagnostics.places import Site, submit_site
from bridge.executors.amap import MapJob, Window
from bridge.executors.process.wire.blocks import BlockStore
from bridge.executors.process.wire.originals import goes_by_name
from bridge.executors.process.wire.parcels import PLAIN
from bridge.executors.process.wire.patience import IN_BAND, TooLarge
from bridge.executors.process.wire.pickling import Packer
from bridge.executors.process.worker.chunk import Chunk, Repeated, run_chunk

if TYPE_CHECKING:
    from bridge.executors.process.executor import ProcessExecutor

#: Seconds that a chunk should take: long beside a crossing (50 us), short beside what anybody notices.
CHUNK = 0.0005
#: Calls in a chunk, at most; and how much larger than the last one the next may be.
LARGEST = 1024
GROWTH = 8


class _ChunkJob(MapJob):
    """`count` calls that travel together."""

    __slots__ = ("count", "site", "window")
    site: Site | None
    count: int
    window: ChunkWindow

    @property
    def named(self) -> Any:
        return self.window.fn

    def values(self) -> Iterator[Any]:
        chunk: Chunk = self.unwrap()
        self.window.learn(chunk)
        yield from chunk.values
        if chunk.error is not None:
            raise chunk.error


class ChunkWindow(Window):
    """A window whose jobs are chunks. `in_flight` limits calls; None lets chunks be as large as they should be."""

    def __init__(self, executor: ProcessExecutor, fn: Callable[..., Any], in_flight: int | None):
        chunks = 2 * executor.max_workers
        super().__init__(executor, fn, chunks * LARGEST if in_flight is None else in_flight, kill=True)
        self._largest: int = LARGEST if in_flight is None else max(1, in_flight // chunks)
        if executor.counts_calls:
            self._largest = 1
        self._most_chunks = chunks if in_flight is None else in_flight
        self._size = 1
        self._site = submit_site()
        self._sent = _prepared(fn)
        self._calls: list[tuple[Any, ...]] = []
        self._in_window = 0

    @property
    def full(self) -> bool:
        return self._in_window >= self._in_flight or len(self.jobs) >= self._most_chunks

    def fill(self) -> None:
        super().fill()
        self._send_chunk()

    def send(self, args: tuple[Any, ...]) -> None:
        self._calls.append(args)
        self._in_window += 1
        if len(self._calls) >= self._size:
            self._send_chunk()

    def _send_chunk(self) -> None:
        calls, self._calls = self._calls, []
        if not calls:
            return
        job = _ChunkJob(run_chunk, (self._sent, calls), self.host, self.mailbox)
        job.count, job.window, job.site = len(calls), self, self._site
        self._carrier.submit_job(job)
        self.jobs.append(job)

    def take(self, ordered: bool) -> MapJob | None:
        job = super().take(ordered)
        if isinstance(job, _ChunkJob):
            self._in_window -= job.count
        return job

    def exhausted(self) -> bool:
        return super().exhausted() and not self._calls

    def learn(self, chunk: Chunk) -> None:
        """Size the next chunk by what this one took."""
        if chunk.values:
            each = max(chunk.seconds / len(chunk.values), 1e-7)
            self._size = max(1, min(int(CHUNK / each), self._size * GROWTH, self._largest))


def _prepared(fn: Callable[..., Any]) -> Any:
    """What travels in the place of `fn`: itself if it goes by its name, else its pickle, which is made once."""
    if goes_by_name(fn):
        return fn
    try:
        parcel = Packer(BlockStore(_no_blocks), direction="out").pack(fn, limit=IN_BAND)
    except Exception:  # too large, or not to be pickled at all: that is said by the chunk
        return fn
    return Repeated(parcel) if parcel[0] == PLAIN else fn


def _no_blocks(descriptor: int, message: bytes) -> None:
    raise TooLarge


def map_in_chunks(
    executor: ProcessExecutor,
    fn: Callable[..., Any],
    iterables: tuple[Iterable[Any], ...],
    timeout: float | None,
    size: int,
) -> Iterator[Any]:
    """`Executor.map` for threads, with chunks of a given size. All are submitted at once."""
    end = None if timeout is None else monotonic() + timeout
    source = zip(*iterables, strict=False)
    futures: list[Future[Chunk]] = []
    sent = _prepared(fn)
    while calls := list(islice(source, size)):
        futures.append(executor.submit(run_chunk, sent, calls))
    return _results(futures, end)


def _results(futures: list[Future[Chunk]], end: float | None) -> Iterator[Any]:
    futures.reverse()
    try:
        while futures:
            chunk = futures.pop().result(None if end is None else max(0.0, end - monotonic()))
            yield from chunk.values
            if chunk.error is not None:
                raise chunk.error
    finally:
        for future in futures:
            future.cancel()

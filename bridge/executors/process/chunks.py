"""Many calls of a short function: they travel in chunks, so that a crossing is paid for once for so many calls.

    source ──> args, args, ... ── size reached, or nothing else to read ──> run_chunk(fn, calls) in a worker ──> values
                                                     └─ could not travel: its calls are sent again, one by one

A chunk is sized so that it takes about `CHUNK` seconds, by what the last one took; so the first is a single call. The
first error ends its chunk, after the values before it.

Where a failed call must cost no other one, calls travel alone (`CallWindow`): the values of a chunk come home together,
so those before a crash would be lost with it, and a call that has begun is never run again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor as StandardExecutor
from itertools import islice, repeat
from pickle import PicklingError, UnpicklingError
from typing import TYPE_CHECKING, Any

from bridge.diagnostics.places import submit_site
from bridge.executors.amap import MapJob, Rules, Window
from bridge.executors.process.wire.alike import can_be_shared
from bridge.executors.process.wire.blocks import BlockStore
from bridge.executors.process.wire.errors import RemoteTraceback
from bridge.executors.process.wire.parcels import PLAIN
from bridge.executors.process.wire.patience import IN_BAND, TooLarge
from bridge.executors.process.wire.pickling import Packer
from bridge.executors.process.worker.chunk import Chunk, Repeated, run_chunk
from bridge.threads.job import survivable

if TYPE_CHECKING:
    from bridge.executors.process.executor import ProcessExecutor

#: Seconds that a chunk should take: long beside a crossing (50 us), short beside what anybody notices.
CHUNK = 0.0005
#: Calls in a chunk, at most; and how much larger than the last one the next may be.
LARGEST = 1024
GROWTH = 8
#: Calls that are in flight for each worker by default where they travel alone, if they take less than SHORT seconds.
MANY = 100
SHORT = 0.001


class CallWindow(Window):
    """A window whose jobs are single calls, in processes."""

    def __init__(self, executor: ProcessExecutor, fn: Callable[..., Any], in_flight: int | None, rules: Rules):
        super().__init__(executor, fn, 2 * executor.max_workers if in_flight is None else in_flight, rules)
        self._executor = executor
        self._most = MANY * executor.max_workers if in_flight is None else 0
        self._site = submit_site()

    @property
    def full(self) -> bool:
        count = len(self.jobs)
        if count < self._in_flight:
            return False
        pace = self._executor.pace_of(self.fn) if count < self._most else None
        return pace is None or pace > SHORT

    def submit(self, job: MapJob) -> None:
        """As `Window.submit`, with the line of the program that iterates."""
        job.site = self._site
        super().submit(job)


class _ChunkJob(MapJob):
    """`count` calls that travel together; `index` is that of the first."""

    __slots__ = ("calls", "count", "uncertain", "window")
    is_chunk = True
    calls: list[tuple[Any, ...]]
    count: int
    window: ChunkWindow

    @property
    def named(self) -> Any:
        return self.window.fn

    def deliver(self) -> None:
        value = self.value
        if type(value) is Chunk and value.error is None:
            self.calls = []
        super().deliver()

    @property
    def could_not_travel(self) -> bool:
        """Has none of its calls begun, because one of them, or the function, cannot be pickled or rebuilt there?

        A result that cannot be rebuilt here fails with the same type of error, but not in the worker.
        """
        error = self.error
        return isinstance(error, PicklingError) or (
            isinstance(error, UnpicklingError) and isinstance(error.__cause__, RemoteTraceback)
        )

    def results(self) -> tuple[Iterable[Any], BaseException | None]:
        chunk: Chunk | None = self.value
        if chunk is None:  # its worker died, or the values cannot be rebuilt here
            self.uncertain = 0 if self.died_in is not None else self.count - 1
            self._failed_at(self.died_in or 0)
            return super().results()
        self.window.learn(chunk)
        if chunk.error is not None:
            self._failed_at(len(chunk.values))
        self.value, self.error = None, chunk.error
        return chunk.values, self.take_awaitable_outcome()[1]

    def _failed_at(self, step: int) -> None:
        self.index += step
        self.inputs = self.calls[step]


class ChunkWindow(Window):
    """A window whose jobs are chunks. `in_flight` limits calls; None lets chunks be as large as they should be."""

    def __init__(self, executor: ProcessExecutor, fn: Callable[..., Any], in_flight: int | None, rules: Rules):
        chunks = 2 * executor.max_workers
        super().__init__(executor, fn, chunks * LARGEST if in_flight is None else in_flight, rules)
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
        try:
            self._send_chunk()
        except RuntimeError as error:
            self.fail(error)

    def send(self, args: tuple[Any, ...]) -> None:
        """As `Window.send`, when there are enough of them."""
        self._calls.append(args)
        self.next_index()
        self._in_window += 1
        if len(self._calls) >= self._size:
            self._send_chunk()

    def _send_chunk(self) -> None:
        calls, self._calls = self._calls, []
        if not calls:
            return
        job = _ChunkJob(run_chunk, (self._sent, calls), self.host, self.mailbox, self.read - len(calls))
        job.calls, job.count, job.uncertain, job.died_in, job.window = calls, len(calls), 0, None, self
        self.submit(job)

    def submit(self, job: MapJob) -> None:
        """As `Window.submit`, with the line of the program that iterates."""
        job.site = self._site
        super().submit(job)

    def take(self, ordered: bool) -> MapJob | None:
        """As `Window.take`; the calls of a chunk that could not travel are sent again, one by one, in its place."""
        job = super().take(ordered)
        if not isinstance(job, _ChunkJob):
            self._in_window -= job is not None
            return job
        if not job.could_not_travel:
            self._in_window -= job.count
            return job
        others = list(self.jobs)
        self.jobs.clear()
        try:
            for index, args in enumerate(job.calls, job.index):
                self.submit(MapJob(self.fn, args, self.host, self.mailbox, index))
        finally:
            self.jobs.extend(others)
        return None

    def exhausted(self) -> bool:
        return super().exhausted() and not self._calls

    def learn(self, chunk: Chunk) -> None:
        """Size the next chunk by what this one took."""
        if chunk.values:
            each = max(chunk.seconds / len(chunk.values), 1e-7)
            self._size = max(1, min(int(CHUNK / each), self._size * GROWTH, self._largest))


def _prepared(fn: Callable[..., Any]) -> Any:
    """What travels in the place of `fn`: itself if it goes by its name, else its pickle, which is made once."""
    if can_be_shared(fn):
        return fn
    try:
        parcel = Packer(BlockStore(_no_blocks), direction="out").pack(fn, limit=IN_BAND)
    except Exception:  # too large, or not to be pickled at all: that is said by the chunk
        return fn
    return Repeated(parcel) if parcel[0] == PLAIN else fn


def _no_blocks(descriptor: int, message: bytes) -> None:
    raise TooLarge


def map_in_chunks(
    executor: ProcessExecutor, fn: Callable[..., Any], iterables: tuple[Iterable[Any], ...], size: int, **options: Any
) -> Iterator[Any]:
    """`concurrent.futures.Executor.map`, with its `options`, of calls that travel in chunks of a given size."""
    source = zip(*iterables, strict=False)
    calls = iter(lambda: list(islice(source, size)), [])
    return _values(fn, StandardExecutor.map(executor, run_chunk, repeat(_prepared(fn)), calls, **options))


def _values(fn: Callable[..., Any], chunks: Iterator[Chunk]) -> Iterator[Any]:
    for chunk in chunks:
        yield from chunk.values
        if chunk.error is not None:
            raise survivable(fn, chunk.error)

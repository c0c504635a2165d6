"""One worker process, as the parent sees it: what it was given, what it has answered, how it ended.

    assign: pack -> in_flight[seq], out ── flush ──> permits, frames        receive: frames -> outcomes, or `crew.heard`

Owners: everything belongs to the crew's home, under its turn. `in_flight` is in the order in which the worker takes the
jobs. Whether a job has begun is never a matter of opinion: while the worker lives, whoever reads the job's permit has it
(`take_back`); when it is dead, the shared page says which job it began last (`bury`). The first job given to a worker
without work needs no permit, because nothing can be ahead of it.
"""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from functools import partial
from struct import Struct
from time import perf_counter
from typing import TYPE_CHECKING, Any

from bridge.executors.process.launch import Lifelines, end_at_once
from bridge.executors.process.wire import alike, frames
from bridge.executors.process.wire.blocks import BlockStore, Mappings, receive_from
from bridge.executors.process.wire.page import BEGUN, CANCEL, PHASE, STEP
from bridge.executors.process.wire.pickling import Packer, Unpacker
from bridge.threads.job import Job

if TYPE_CHECKING:
    from bridge.executors.process.calls import RemoteCalls
    from bridge.executors.process.crew import Crew
    from bridge.executors.process.timers import Alarm

_job_header = Struct(frames.HEADER.format + "B").pack
_jobs_header = Struct(frames.HEADER.format + alike.HEAD.format[1:]).pack

#: Jobs that may be in one worker's pipe. A permit is the last byte of a job's number, so it must stay far below 256.
MOST_IN_FLIGHT = 100
#: Seconds within which a process that has ended can be reaped.
REAP = 0.2


class StreamJob(Job):
    """A job whose outcome comes in pieces."""

    __slots__ = ()
    on_the_wire = frames.STREAM

    def given(self, member: Member, seq: int) -> None:
        """It is on its way to a worker, under that number."""
        raise NotImplementedError

    def item(self, number: int, parcel: bytes) -> None:
        """A piece has come; after the death of its worker perhaps for the second time."""
        raise NotImplementedError

    def drop_held(self) -> None:
        """Pieces that have come and wait for others never will be handed on."""
        raise NotImplementedError


class Member:
    """A worker process and its channel."""

    def __init__(self, crew: Crew, lifelines: Lifelines, tasks: int | None):
        self.crew: Crew = crew
        self.pid: int = lifelines.child.pid
        self.lifelines: Lifelines = lifelines
        self.started_at: float = perf_counter()
        self.completed: int = 0
        self.tasks_left: int = -1 if tasks is None else tasks
        self.in_flight: dict[int, tuple[Job, float]] = {}
        self.backlog: float = 0.0  # seconds of work that are expected to be in flight
        self.replies: int = 0
        self.replies_seen: int = 0  # when `crew` last looked whether it goes on
        self.calls: RemoteCalls
        #: A job whose arguments are being pickled in a helper thread.
        self.packing: Job | None = None
        self.ready: bool = False
        self.gone: bool = False
        self.placed: bool = False  # holds one of the places for those that run, or has lent it
        self.lent: bool = False  # its job waits for the parent, so another worker may run one meanwhile
        self.stuck: bool = False  # took longer than expected: nothing is put behind the job it runs
        self.retiring: bool = False
        self.condemned: Job | None = None  # the job for which it is going to be killed
        self.verdict: Any = None  # the error that the job gets if the worker dies of us
        self.stopped_by: str | None = None  # the signal that had stopped it when it was condemned
        self.most_memory: int = 0  # resident bytes, as far as somebody has looked
        self.alarms: list[Alarm] = []
        self.idle_since: float = 0.0
        self.trimmed: bool = False  # since then
        self.blocked: bool = False  # the kernel takes no more bytes just now
        self._seq = 0
        self._out: list[bytes] = []
        self._permits = bytearray()
        self.inflow: frames.Inflow = frames.Inflow()
        self.store: BlockStore = BlockStore(self._send_descriptor)
        self.packer: Packer = Packer(self.store, direction="out")
        self.released: list[int] = []  # its blocks that are not looked at any more
        self.lost: list[int] = []  # and those that could not be received
        mappings = Mappings(partial(receive_from, lifelines.descriptors), self.released.append, self.lost.append)
        self.unpacker: Unpacker = Unpacker(mappings, direction="home")

    def __repr__(self) -> str:
        return f"<worker process {self.pid}, {len(self.in_flight)} in flight>"

    # -- what it can do ------------------------------------------------------------------------------------------------

    @property
    def busy(self) -> bool:
        return bool(self.in_flight) or self.packing is not None

    def can_take(self, pace: float, limit: float) -> bool:
        """May a job of `pace` seconds be put behind those in flight, without waiting for more than `limit` seconds?"""
        count = len(self.in_flight)
        return (
            0 < count < MOST_IN_FLIGHT
            and self.backlog + pace <= limit
            and self.tasks_left != 0
            and not (self.stuck or self.lent or self.retiring or self.condemned or self.packing)
        )

    def room(self, pace: float, limit: float) -> int:
        """How many such jobs fit in, if at least one does."""
        room = MOST_IN_FLIGHT - len(self.in_flight)
        if self.tasks_left > 0:
            room = min(room, self.tasks_left)
        return max(1, min(room, int((limit - self.backlog) / pace))) if pace > 0 else room

    @property
    def job(self) -> Job | None:
        """The job that it runs, as far as one can tell; from any thread."""
        try:
            begun = self.lifelines.page.words[BEGUN]
        except ValueError:  # it has ended, and the page is closed
            return None
        entry = self.in_flight.get(begun)
        return entry[0] if entry is not None else self.packing

    # -- giving --------------------------------------------------------------------------------------------------------

    def give(self, job: Job, parcel: bytes, flags: int, pace: float) -> int:
        """Put a job into the pipe."""
        self._seq = seq = self._seq + 1
        if self.in_flight:
            flags |= frames.PERMIT
            self._permits.append(seq & 255)
        self.in_flight[seq] = (job, pace)
        self.backlog += pace
        if self.tasks_left > 0:
            self.tasks_left -= 1
        self._out.append(_job_header(len(parcel) + 1, frames.JOB, seq, flags) + parcel)
        return seq

    def give_alike(self, jobs: list[Job], parcel: bytes, pace: float) -> None:
        """Put several calls of one function into the pipe."""
        in_flight = self.in_flight
        flags = frames.PERMIT if in_flight else 0
        first = seq = self._seq + 1
        for job in jobs:
            if in_flight:
                self._permits.append(seq & 255)
            in_flight[seq] = (job, pace)
            seq += 1
        self._seq = seq - 1
        self.backlog += pace * len(jobs)
        if self.tasks_left > 0:
            self.tasks_left -= len(jobs)
        header = _jobs_header(len(parcel) + alike.HEAD.size, frames.JOBS, first, flags, len(jobs))
        self._out.append(header + parcel)

    def send(self, kind: int, ident: int, payload: bytes = b"") -> None:
        """Put any other frame into the pipe."""
        self._out.append(frames.frame(kind, ident, payload))

    def flush(self) -> bool:
        """Send what there is; False if some of it has to wait until the socket is writable."""
        if self.released or self.lost:
            self._give_back_blocks()
        if self.blocked or not self._out:
            return not self.blocked
        data = self._out[0] if len(self._out) == 1 else b"".join(self._out)
        self._out.clear()
        if self._permits:  # before their jobs: an empty pipe then means that a job was taken back
            os.write(self.lifelines.give, self._permits)
            self._permits.clear()
        try:
            sent = self.lifelines.sock.send(data)
        except BlockingIOError:
            sent = 0
        except OSError:  # it has ended; that is noticed elsewhere
            return True
        if sent < len(data):
            self._out.append(data[sent:])
            self.blocked = True
            return False
        return True

    def _give_back_blocks(self) -> None:
        while self.released:
            self.send(frames.RELEASE, self.released.pop())
        while self.lost:
            self.send(frames.LOST, self.lost.pop())

    def _send_descriptor(self, descriptor: int, message: bytes) -> None:
        socket.send_fds(self.lifelines.descriptors, [message], [descriptor])

    # -- taking --------------------------------------------------------------------------------------------------------

    def receive(self) -> Iterator[tuple[int, int, memoryview]]:
        """One read from the socket. Payloads are valid until the next. Raises BlockingIOError, EOFError."""
        try:
            count = self.lifelines.sock.recv_into(self.inflow.room())
        except ConnectionResetError:
            count = 0
        if not count:
            raise EOFError
        return self.inflow.took(count)

    def answered(self, seq: int) -> Job | None:
        """The job of that number has its answer; None if it had one before."""
        entry = self.in_flight.pop(seq, None)
        if entry is None:
            return None
        job, pace = entry
        self.replies += 1
        self.completed += 1
        self.stuck = False
        self.backlog = self.backlog - pace if self.in_flight else 0.0
        return job

    def take_back(self) -> list[Job]:
        """The jobs that have not begun, and now never will here; in order."""
        if self._permits:  # not even sent
            os.write(self.lifelines.give, self._permits)
            self._permits.clear()
        try:
            permits = set(os.read(self.lifelines.take, 256))
        except BlockingIOError:
            return []
        back = [seq for seq in self.in_flight if seq & 255 in permits]
        jobs = []
        for seq in back:
            job, pace = self.in_flight.pop(seq)
            self.backlog -= pace
            jobs.append(job)
        if self.tasks_left >= 0:
            self.tasks_left += len(jobs)
        return jobs

    def cancel(self, job: Job, kill: bool) -> None:
        """From any thread: nobody wants the result of a job that is here."""
        self.crew.cancel(job, kill)

    def tell_cancelled(self, job: Job) -> None:
        """Let the function know that nobody waits for it any more."""
        for seq, (running, _) in self.in_flight.items():
            if running is job:
                self.lifelines.page.words[CANCEL] = seq
                self.send(frames.CANCEL, seq)
                return

    # -- the end -------------------------------------------------------------------------------------------------------

    @property
    def phase(self) -> int:
        """How far it has come (`wire.page`)."""
        return int(self.lifelines.page.words[PHASE])

    @property
    def call_of_chunk(self) -> int | None:
        """The call of a chunk in which it died, the first is 0; None if it ran none."""
        number = int(self.lifelines.page.words[STEP])
        return number - 1 if number else None

    def exit_code(self) -> int | None:
        """As `multiprocessing.Process.exitcode`; None if somebody else has taken it away."""
        child = self.lifelines.child
        if not child.wait(REAP):  # it has closed what tells its end, and goes on
            child.signal(signal.SIGKILL)
            child.wait(REAP)
        return child.exit_code

    def bury(self) -> tuple[list[Job], list[Job]]:
        """When it is dead and all it said has been heard: the jobs that it had begun, and those it had not."""
        begun = self.lifelines.page.words[BEGUN]
        had_begun = [job for seq, (job, _) in self.in_flight.items() if seq <= begun]
        had_not = [job for seq, (job, _) in self.in_flight.items() if seq > begun]
        self.in_flight.clear()
        for alarm in self.alarms:
            alarm.cancel()
        return had_begun, had_not

    def end_at_once(self) -> None:
        """Kill and reap the process, and let go of the channel. Blocks until it has ended; idempotent."""
        self.gone = self.retiring = True
        end_at_once(self.lifelines)
        self.close()

    def after_fork_in_child(self) -> None:
        """Let go of the copies of the channel's descriptors."""
        self.store.renew_lock()
        self.unpacker.mappings.renew_locks()
        self.close()

    def close(self) -> None:
        """Let go of the channel. A worker that still lives dies of it."""
        self.store.close()
        self.unpacker.close()
        self.lifelines.close()

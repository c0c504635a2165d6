"""The worker's end of the channel: reading, writing, and who of its threads does the reading.

    main thread, idle: read ─┐                                  main thread: keep(RESULT) ─> outbox ── no more jobs: flush
    a thread in a call: wait ┴─> one of them leads: recv, sort:        any thread: send(CALL, LOG, ...) ─> outbox, flush
                                 JOB -> jobs, ANSWER -> waiting, ...

Owners: whoever holds `_leading` reads the socket and hands out what came; the others wait for `_news`. A thread that
waits looks at what it waits for while it holds `_news`, and the leader, having let go of `_leading`, takes `_news` to
wake them: one sees the other. There is no thread that only reads, so the way of a job costs no change of threads;
`read_in_background` starts one when answers may come while nobody waits.

The outbox is in the shared page (see `wire.page`), written by whoever holds `_sending`, from `_pending`, to which
everybody appends. If the parent dies, `recv` says so, and the process ends where it is; long before that the kernel has
usually killed it (`main._tie_to_parent`).
"""

from __future__ import annotations

import os
import socket
import threading
from _thread import LockType, allocate_lock
from collections import deque
from collections.abc import Callable
from itertools import count
from time import perf_counter
from typing import Any

from bridge.errors import LoopClosed
from bridge.executors.process.wire import alike, frames
from bridge.executors.process.wire.page import LENGTH, OUTBOX, ROUND, SharedPage
from bridge.threads.here import here

#: Seconds for which the worker stays awake for the next frame, if the last one came within `QUICK` seconds.
SPIN = 0.00006
QUICK = 0.0001
#: With one core the parent could not send anything meanwhile.
MAY_SPIN: bool = len(os.sched_getaffinity(0)) > 1 if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1) > 1
yield_core: Callable[[], object] = getattr(os, "sched_yield", int)


class Line:
    """Frames from and to the parent. `waiting` maps the number of a call to what its answer is given to."""

    def __init__(self, sock: socket.socket, descriptors: socket.socket, permits: int, page: SharedPage):
        self.sock: socket.socket = sock
        self.page: SharedPage = page
        self.jobs: deque[tuple[int, int, bytes | alike.AlikeCalls]] = deque()
        self.waiting: dict[int, Any] = {}
        #: Kinds of frames that others understand: called with ident and payload, in whatever thread reads.
        self.listeners: dict[int, Callable[[int, memoryview], object]] = {}
        self.quitting: bool = False
        self.released: deque[int] = deque()  # numbers of the parent's blocks that nobody looks at any more
        self.lost: deque[int] = deque()  # and of those that could not be received
        self.packer: Any = None
        self.unpacker: Any = None
        self.descriptors: socket.socket = descriptors
        self._permits = permits
        self._permit: int | None = None  # read, but for a later job
        self._inflow = frames.Inflow()
        self._sending = allocate_lock()
        self._pending: deque[bytes] = deque()
        self._urgent = False
        self._forked = False
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self.after_fork_in_child)
        self._leading = allocate_lock()
        self._news = threading.Condition()
        self._followers = 0
        self._background = False
        self._eager = False
        self._numbers = count(1)

    # -- reading -------------------------------------------------------------------------------------------------------

    def next_job(self) -> tuple[int, int, bytes | alike.AlikeCalls] | None:
        """The next job that may be begun, waiting for one; None when the parent wants no more."""
        jobs = self.jobs
        while True:
            while jobs:
                job = jobs.popleft()
                if not job[1] & frames.PERMIT or self._permitted(job[0]):
                    return job
                if isinstance(job[2], bytes):
                    self.unpacker.discard(job[2])
            self.flush()
            if self.quitting:
                return None
            self.wait_until(self._something_to_do)

    def _something_to_do(self) -> bool:
        return bool(self.jobs) or self.quitting

    def wait(self, gate: LockType) -> None:
        """Return when an answer has opened `gate`, reading the line meanwhile unless somebody else does."""
        self.wait_until(lambda: gate.acquire(False))

    def wait_until(self, satisfied: Callable[[], bool]) -> None:
        """Likewise, for anything that a frame can bring about."""
        while not satisfied():
            if self._leading.acquire(False):
                try:
                    if satisfied():
                        return
                    self._read()
                finally:
                    self._leading.release()
                    if self._followers:
                        with self._news:
                            self._news.notify_all()
            elif self._follow(satisfied):
                return

    def _follow(self, satisfied: Callable[[], bool]) -> bool:
        """Let another thread read; True when satisfied, False when it is our turn to try."""
        with self._news:
            self._followers += 1
            try:
                while not satisfied():
                    if not self._leading.locked():
                        return False
                    self._news.wait()
                return True
            finally:
                self._followers -= 1

    def read_what_is_there(self) -> None:
        """For a loop that watches the socket: read once, unless another thread does."""
        if self._leading.acquire(False):
            try:
                self._read()
            finally:
                self._leading.release()
                with self._news:
                    self._news.notify_all()

    def read_in_background(self) -> None:
        """See to it that answers arrive also while no thread waits for any."""
        with self._news:
            if self._background:
                return
            self._background = True
        threading.Thread(target=self.wait_until, args=(lambda: False,), name="bridge-line", daemon=True).start()

    def _read(self) -> None:
        """One `recv`, and everything that came with it."""
        if self.released or self.lost:
            self._give_back_blocks()
            self.flush()
        inflow = self._inflow
        received = self._receive(inflow.room())
        if not received:
            os._exit(1)  # the parent is gone, and nobody is left to be told anything
        for kind, ident, payload in inflow.took(received):
            if kind == frames.JOB:
                self.jobs.append((ident, payload[0], bytes(payload[1:])))
            elif kind == frames.JOBS:
                flags, count = alike.HEAD.unpack_from(payload)
                calls = alike.AlikeCalls(ident, bytes(payload[alike.HEAD.size :]))
                self.jobs.append((ident, flags, calls))
                self.jobs.extend([(seq, frames.PERMIT, calls) for seq in range(ident + 1, ident + count)])
            elif kind == frames.ANSWER:
                waiting = self.waiting.pop(ident, None)
                if waiting is not None:
                    waiting.answer(payload)
            elif kind == frames.QUIT:
                self.quitting = True
            else:
                listener = self.listeners.get(kind)
                if listener is not None:
                    listener(ident, payload)

    def _receive(self, room: memoryview) -> int:
        """Wait for bytes; awake, for a moment, while they keep coming at once: to be woken costs more than they do."""
        receive = self.sock.recv_into
        if self._eager:
            end = perf_counter() + SPIN
            while True:
                try:
                    return receive(room, 0, socket.MSG_DONTWAIT)
                except BlockingIOError:
                    if perf_counter() > end:
                        break
                    yield_core()  # if somebody else wants this core, it may be the parent
            self._eager = False
        began = perf_counter()
        received = receive(room)
        self._eager = MAY_SPIN and perf_counter() - began < QUICK
        return received

    def _permitted(self, seq: int) -> bool:
        """May this job be begun? A byte says so that the parent takes out of the pipe if it takes back the job.

        The kernel gives each byte to one of the two. Permits come in the order of the jobs: one for a later job means
        that those before it were taken back, and so does an empty pipe, because permits are sent before their jobs.
        """
        permit = self._permit
        if permit is None:
            try:
                permit = os.read(self._permits, 1)[0]
            except (BlockingIOError, IndexError):
                return False
        if permit == seq & 255:
            self._permit = None
            return True
        self._permit = permit
        return False

    def after_fork_in_child(self) -> None:
        """In a process that the running function has forked off: the line is its parent's."""
        here.worker = None
        self._forked = True
        self.sock.close()
        self.descriptors.close()

    # -- writing -------------------------------------------------------------------------------------------------------

    def new_ident(self) -> int:
        """A number for a call that no other call has."""
        return next(self._numbers)

    def send_descriptor(self, descriptor: int, message: bytes) -> None:
        socket.send_fds(self.descriptors, [message], [descriptor])

    def keep(self, frame: bytes) -> None:
        """Put a frame into the outbox, to be sent with the next flush. It survives the death of this process."""
        if self._forked:  # the function has forked, and returns here as well: its parent's answer is the one
            os._exit(1)
        if self._pending or not self._sending.acquire(False):
            self._pending.append(frame)
            self._work_off(False)
            return
        try:
            self._keep(frame)
        finally:
            self._sending.release()
        if self._pending or self._urgent:
            self._work_off(True)

    def send(self, kind: int, ident: int, payload: bytes = b"") -> None:
        """Send a frame now, after everything kept before; from any thread, also from a finalizer that interrupts this."""
        if self._forked:
            raise LoopClosed(
                "this process was forked off in a worker process, and the way to the parent's loop is not its own"
            )
        self._pending.append(frames.frame(kind, ident, payload))
        self._urgent = True
        self._work_off(True)

    def flush(self) -> None:
        """Send what was kept, if there is anything."""
        if self.released or self.lost:
            self._give_back_blocks()
        if self.page.words[LENGTH] or self._pending:
            self._urgent = True
            self._work_off(True)

    def _work_off(self, urgent: bool) -> None:
        """Move what is pending into the outbox and, if somebody wants that, send it.

        Whoever finds somebody else at it leaves the work to him: he looks again when he has let go of it. A frame is
        pending, and wanted, before that is tried, so that one of the two sees it.
        """
        while self._pending or (urgent and self._urgent):
            if not self._sending.acquire(False):
                return
            try:
                pending = self._pending
                while pending:
                    self._keep(pending.popleft())
                if self._urgent:
                    self._urgent = False
                    self._flush()
            finally:
                self._sending.release()
            urgent = True

    def _give_back_blocks(self) -> None:
        for kind, numbers in ((frames.RELEASE, self.released), (frames.LOST, self.lost)):
            while numbers:
                self.keep(frames.frame(kind, numbers.popleft()))

    def _keep(self, data: bytes) -> None:
        page = self.page
        length = page.words[LENGTH]
        end = length + len(data)
        if end > OUTBOX:
            self._flush()
            if len(data) > OUTBOX:
                self.sock.sendall(data)
                return
            length, end = 0, len(data)
        page.outbox[length:end] = data
        page.words[LENGTH] = end

    def _flush(self) -> None:
        words = self.page.words
        length = words[LENGTH]
        if length:
            words[ROUND] += 1
            self.sock.sendall(self.page.outbox[:length])
            words[LENGTH] = 0
            words[ROUND] += 1

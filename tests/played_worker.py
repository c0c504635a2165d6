"""A worker process played by threads, and the parent's side of it, for tests of the portal between them.

The line between the two is the real one, over a socket pair; the crew and the pickling are played. What is packed is
handed over as it is, so that functions can be closures, except where a test is about pickling. The origin of the jobs is
the loop of `anyio_backend`. The home is the same loop, or a background loop; under trio always the latter. Test modules
import the fixtures of this file by name; they take the place of those in conftest.
"""

from __future__ import annotations

import contextvars
import os
import pickle
import socket
import threading
import types
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager, suppress
from functools import partial
from inspect import CORO_CREATED, getcoroutinestate, iscoroutine
from types import SimpleNamespace, TracebackType
from typing import Any, NoReturn

import anyio
import pytest

import bridge
from bridge.executors.process.calls import RemoteCalls
from bridge.executors.process.wire import frames
from bridge.executors.process.wire.page import CANCEL, SIZE, SharedPage, anonymous_file
from bridge.executors.process.worker.line import Line
from bridge.executors.process.worker.portal import RemotePortal
from bridge.loop.hosts import current_host
from bridge.threads.here import here
from bridge.threads.host import Host
from tests.conftest import LOOPS, PATIENCE, Gate


class Unpicklable:
    """Cannot be sent, in either direction."""


class Unopenable:
    """Can be sent, but not be rebuilt on the other side."""


class Large:
    """So large that it is packed and unpacked aside."""

    def __init__(self, value: Any = None):
        self.value = value


class Pickling:
    """Packer and unpacker in one: objects are handed over, but errors copied, and coroutines made anew."""

    def __init__(self, objects: dict[int, Any], numbers: Any):
        self._objects = objects
        self._numbers = numbers

    def pack(self, obj: Any, *, limit: int | None = None) -> bytes:
        parts = _parts(obj)
        if any(isinstance(part, Unpicklable) for part in parts):
            raise pickle.PicklingError("cannot pickle it")
        if limit is not None and any(isinstance(part, Large) for part in parts):
            from bridge.executors.process.wire.pickling import TooLarge

            raise TooLarge
        if isinstance(obj, BaseException):
            obj = pickle.loads(pickle.dumps(obj))
        number = next(self._numbers)
        self._objects[number] = Unstarted(obj) if iscoroutine(obj) else obj
        return number.to_bytes(8) + bytes(any(isinstance(part, Large) for part in parts))

    def pack_patiently(self, obj: Any) -> bytes:
        return self.pack(obj)

    def discard(self, parcel: bytes) -> None:
        del self._objects[int.from_bytes(parcel)]

    def is_large(self, parcel: bytes) -> bool:
        return len(parcel) > 8

    def unpack(self, parcel: bytes | memoryview) -> Any:
        obj = self._objects.pop(int.from_bytes(parcel[:8]))
        if any(isinstance(part, Unopenable) for part in _parts(obj)):
            raise pickle.UnpicklingError("cannot rebuild it")
        return obj() if isinstance(obj, Unstarted) else obj

    unpack_patiently = unpack


def _parts(obj: Any) -> list[Any]:
    return [part for item in obj for part in _parts(item)] if isinstance(obj, tuple) else [obj]


class Unstarted:
    """A coroutine on its way: its function and arguments."""

    def __init__(self, coro: Any):
        assert getcoroutinestate(coro) == CORO_CREATED
        code, frame = coro.cr_code, coro.cr_frame
        cells = tuple(types.CellType(frame.f_locals[name]) for name in code.co_freevars)
        self._fn = types.FunctionType(code, frame.f_globals, closure=cells)
        self._args = [frame.f_locals[name] for name in code.co_varnames[: code.co_argcount]]

    def __call__(self) -> Any:
        return self._fn(*self._args)


class HungUp(Exception):
    """The other end is closed."""


class PlayedLine(Line):
    def __init__(self, *args: Any):
        super().__init__(*args)
        self.threads: list[threading.Thread] = []
        self.calls_sent = 0

    def send(self, kind: int, ident: int, payload: bytes = b"") -> None:
        if kind == frames.CALL:
            self.calls_sent += 1
        super().send(kind, ident, payload)

    def read_in_background(self) -> None:
        if not self._background:
            self._background = True
            self.start_thread(self.wait_until, lambda: False)

    def start_thread(self, fn: Callable[..., Any], *args: Any) -> None:
        """Start another thread of this worker, which ends with it."""
        thread = threading.Thread(target=quietly, args=(fn, *args), daemon=True)
        self.threads.append(thread)
        thread.start()


def quietly(fn: Callable[..., Any], *args: Any) -> None:
    """In a worker that ends before `fn` does."""
    with suppress(HungUp, OSError):
        fn(*args)


class Ear:
    """A worker's socket: where the process would end with its parent, this raises."""

    def __init__(self, sock: socket.socket):
        self._sock = sock
        self.sendall = sock.sendall

    def recv_into(self, buffer: memoryview, *how: int) -> int:
        count = self._sock.recv_into(buffer, *how)
        if not count:
            raise HungUp
        return count


class HomeJob:
    """The job as the parent knows it."""

    def __init__(self, fn: Any, origin: Host | None):
        self.fn = self.named = fn
        self.origin = origin
        there = origin is not None and not origin.runs_here()
        self.context = contextvars.Context() if there else contextvars.copy_context()
        self.step: Any = None
        self.call: Any = None
        self.cancelling: Any = None


class WorkersJob:
    """The job as the worker knows it."""

    def __init__(self, seq: int, words: memoryview):
        self.seq = seq
        self.told = False
        self._words = words

    @property
    def cancelling(self) -> Callable[[], NoReturn] | None:
        return self._cancelled if self._words[CANCEL] == self.seq else None

    def _cancelled(self) -> NoReturn:
        raise CancelledError("the job is cancelled")


class Roster:
    """One place, lent and reclaimed; while it is `taken` by another worker, nobody gets it back."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.taken = False
        self.lent = False
        self._returner: Callable[[], object] | None = None

    def lend(self, member: Member) -> None:
        self.log.append("lent")
        self.lent = True

    def reclaim(self, member: Member, then: Callable[[], object]) -> None:
        if self.lent and self.taken:
            self._returner = then
            return
        if self.lent:
            self.log.append("reclaimed")
        self.lent = False
        then()

    def give_back(self) -> None:
        self.taken = False
        if self._returner is not None:
            self.reclaim(None, self._returner)  # type: ignore[arg-type]

    def to_flush(self, member: Member) -> None: ...


class Member:
    """The parent's end of the line."""

    pid = 4711

    def __init__(self, sock: socket.socket, pickling: Pickling):
        self.sock = sock
        self.packer = self.unpacker = pickling
        self.in_flight: dict[int, tuple[HomeJob, float]] = {}
        self.out: list[bytes] = []
        self.inflow = frames.Inflow()

    @property
    def job(self) -> HomeJob | None:
        return next((job for job, _ in self.in_flight.values()), None)

    def send(self, kind: int, ident: int, payload: bytes = b"") -> None:
        self.out.append(frames.frame(kind, ident, payload))


class Crew:
    """What a crew does about portal calls, on `host`'s thread: look, in turns, and hand over outside of them."""

    def __init__(self, host: Host, member: Member):
        self.name = "played"
        self.host = host
        self.member = member
        self.roster = Roster()
        self.todo: deque[Callable[[], object]] = deque()
        self.calls = RemoteCalls(self, member)  # type: ignore[arg-type]
        self.asides: list[threading.Thread] = []
        self.hold_asides: Gate | None = None
        self.in_turn = False
        self.calls_heard = 0
        self._incoming: deque[Callable[[], object]] = deque()

    def post(self, action: Callable[[], object]) -> None:
        self._incoming.append(action)
        with suppress(bridge.LoopClosed):
            self.host.call_soon(self.look, ())

    def aside(self, then: Callable[[Any, BaseException | None], object], fn: Callable[..., Any], *args: Any) -> None:
        def do() -> None:
            if self.hold_asides is not None:
                self.hold_asides.wait()
            try:
                done = partial(then, fn(*args), None)
            except BaseException as error:
                done = partial(then, None, error)
            self.post(done)

        thread = threading.Thread(target=do)
        self.asides.append(thread)
        thread.start()

    def readable(self) -> None:
        member = self.member
        try:
            count = member.sock.recv_into(member.inflow.room())
        except BlockingIOError:
            return
        self.in_turn = True
        calls = 0
        for kind, ident, payload in member.inflow.took(count):
            assert kind == frames.CALL
            calls += 1
            self.calls.heard(ident, payload)
        self.in_turn = False
        self.look()
        self.calls_heard += calls

    def look(self) -> None:
        while True:
            self.in_turn = True
            while self._incoming:
                self._incoming.popleft()()
            if self.member.out:
                data = b"".join(self.member.out)
                self.member.out.clear()
                self.member.sock.send(data)
            self.in_turn = False
            if not self.todo:
                return
            self.todo.popleft()()


class Worker:
    """A worker process, played by threads, and its parent's end."""

    def __init__(self, origin: Host | None, home: Host):
        mine, yours = socket.socketpair()
        mine.setblocking(False)
        descriptor = anonymous_file("page", SIZE)
        self.page = SharedPage(descriptor)
        os.close(descriptor)
        self.origin = origin
        self.socks = mine, yours
        objects: dict[int, Any] = {}
        numbers = iter(range(1, 1 << 62))
        self.objects = objects
        self.line = PlayedLine(Ear(yours), None, -1, self.page)  # type: ignore[arg-type]
        self.line.packer = self.line.unpacker = Pickling(objects, numbers)
        self.member = Member(mine, Pickling(objects, numbers))
        self.crew = Crew(home, self.member)
        self.roster = self.crew.roster
        self.seq = 0
        self.threads: list[threading.Thread] = []
        self.dead = False

    def start(self, fn: Callable[..., Any], *args: Any) -> Result:
        """Run a function as a job."""
        self.seq = seq = self.seq + 1
        job = HomeJob(fn, self.origin)
        self.member.in_flight[seq] = job, 0.0
        result = Result(job, seq)

        def work() -> None:
            here.worker = SimpleNamespace(  # type: ignore[assignment]
                job=WorkersJob(seq, self.page.words), portal=RemotePortal(self.line, seq)
            )
            try:
                result.value = fn(*args)
            except BaseException as error:
                result.error = error
            finally:
                here.worker = None
            result.done.open()

        thread = threading.Thread(target=work, name="worker", daemon=True)
        self.threads.append(thread)
        thread.start()
        return result

    async def run(self, fn: Callable[..., Any], *args: Any) -> Any:
        return await self.start(fn, *args).get()

    def cancel(self, result: Result) -> None:
        """What a crew does when nobody wants a job's result any more."""
        self.page.words[CANCEL] = result.seq
        result.job.cancelling = lambda: None
        if result.job.call is not None:
            result.job.call.cancel()

    @property
    def at_rest(self) -> bool:
        """Has everything that it asked for been heard, and come to its end?"""
        return self.crew.calls_heard == self.line.calls_sent and not self.crew.calls._open

    def die(self) -> None:
        """On any thread: the worker is gone, in the middle of whatever it does."""
        self.dead = True
        self.crew.post(lambda: self.crew.todo.append(self.crew.calls.drop_all))

    def close(self) -> None:
        for sock in self.socks:
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        for thread in [*self.threads, *self.line.threads, *self.crew.asides]:
            thread.join(PATIENCE)
            assert not thread.is_alive()
        for sock in self.socks:
            sock.close()
        with self.line._sending:  # a finalizer sends in a thread that nobody knows
            self.page.close()


class Result:
    def __init__(self, job: HomeJob, seq: int):
        self.job = job
        self.seq = seq
        self.done = Gate()
        self.value: Any = None
        self.error: BaseException | None = None

    async def get(self) -> Any:
        await self.done.reached()
        error, self.error = self.error, None
        if error is not None:
            try:
                raise error
            finally:
                del error
        return self.value


#: On which loop a test runs, and whether the crew lives there, too; which it cannot on trio.
PLACES = [(name, own) for name in LOOPS for own in (True, False) if not (own and name == "trio")]


@pytest.fixture(params=PLACES, ids=[f"{name}, {'its own home' if own else 'home elsewhere'}" for name, own in PLACES])
def place(request: pytest.FixtureRequest) -> tuple[str, bool]:
    return request.param  # type: ignore[no-any-return]


@pytest.fixture
def anyio_backend(place: tuple[str, bool]) -> tuple[str, dict[str, Any]]:
    return LOOPS[place[0]]


@pytest.fixture
def loop_name(place: tuple[str, bool]) -> str:
    return place[0]


@pytest.fixture
async def worker(place: tuple[str, bool]) -> AsyncIterator[Worker]:
    """A worker whose jobs come from this test's loop."""
    if place[1]:
        with played(current_host(), current_host()) as worker:
            yield worker
    else:
        async with bridge.background_loop() as portal:
            with played(current_host(), await anyio.to_thread.run_sync(portal.call, current_host)) as worker:
                yield worker


@contextmanager
def played(origin: Host | None, home: Host) -> Iterator[Worker]:
    """A worker whose crew lives at `home`; nothing is left of it afterwards."""
    worker = Worker(origin, home)
    sock = worker.socks[0]
    on_home(home, home.loop.add_reader, sock, worker.crew.readable)
    try:
        yield worker
    finally:
        on_home(home, home.loop.remove_reader, sock)
        worker.close()
        assert not worker.crew.calls._open
        assert not worker.crew.calls._sessions


def on_home(home: Host, fn: Callable[..., Any], *args: Any) -> Any:
    """`fn(*args)`, done on the home's thread."""
    if home.runs_here():
        return fn(*args)
    done, found = threading.Event(), []

    def do() -> None:
        found.append(fn(*args))
        done.set()

    home.call_soon(do, ())
    assert done.wait(PATIENCE)
    return found[0]


async def until(condition: Callable[[], object]) -> None:
    with anyio.fail_after(PATIENCE):
        while not condition():
            await anyio.sleep(0.001)


class Recorder:
    """An async context manager that notes what it is told, and in which task."""

    def __init__(self, log: list[Any], *, suppress: bool = False, fail: str = "", value: Any = "entered"):
        self.log = log
        self.suppress = suppress
        self.fail = fail
        self.value = value
        self.tasks: list[int] = []

    async def __aenter__(self) -> Any:
        await anyio.sleep(0)
        self.tasks.append(anyio.get_current_task().id)
        if self.fail == "enter":
            raise ZeroDivisionError("on entering")
        self.log.append("in")
        return self.value

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        with anyio.CancelScope(shield=True):
            await anyio.sleep(0)
        self.tasks.append(anyio.get_current_task().id)
        self.log.append(kind)
        if self.fail == "exit":
            raise ZeroDivisionError("on leaving")
        if self.fail == "same":
            assert error is not None
            raise error
        return self.suppress


async def numbers(log: list[Any], count: int = 1000, *, fail_at: int = -1) -> AsyncGenerator[int]:
    """Counts, and notes which task iterates and which closes."""
    try:
        for number in range(count):
            log.append(anyio.get_current_task().id)
            await anyio.sleep(0)
            if number == fail_at:
                raise ZeroDivisionError("half-way")
            yield number
    finally:
        log.append(("closed", anyio.get_current_task().id))

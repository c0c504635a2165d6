"""Functions that the tests run in worker processes, and gates that both sides can see.

Worker processes find this module because its folder is on the path that pytest sets up; it imports little, because every
worker imports it.
"""

from __future__ import annotations

import contextvars
import ctypes
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any, NoReturn

import bridge

#: Seconds after which a wait in a worker has failed. Never how long anything takes.
PATIENCE = 20.0

declared: contextvars.ContextVar[str] = contextvars.ContextVar("declared", default="unset")
undeclared: contextvars.ContextVar[str] = contextvars.ContextVar("undeclared", default="unset")


class Deliberate(Exception):
    """Raised by functions that are meant to fail."""


class Gate:
    """An event made of a file: any process can open it, say something by doing so, and wait for it."""

    def __init__(self, path: object):
        self.path = str(path)

    def open(self, text: object = "") -> None:
        scratch = f"{self.path}.{os.getpid()}.{threading.get_ident()}"
        with open(scratch, "w") as file:
            file.write(str(text))
        os.replace(scratch, self.path)

    def is_open(self) -> bool:
        return os.path.exists(self.path)

    def wait(self) -> str:
        """In a thread of any process: what was said, once it was."""
        give_up = time.monotonic() + PATIENCE
        while not self.is_open():
            assert time.monotonic() < give_up, f"nobody opened {os.path.basename(self.path)}"
            time.sleep(0.001)
        with open(self.path) as file:
            return file.read()

    async def reached(self) -> str:
        """On a loop: likewise, without blocking it."""
        import anyio

        with anyio.fail_after(PATIENCE):
            while not self.is_open():
                await anyio.sleep(0.001)
        return self.wait()


class Tally:
    """A file to which every process appends what it has done, one line in one write."""

    def __init__(self, path: object):
        self.path = str(path)

    def add(self, ident: object) -> None:
        descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            os.write(descriptor, f"{ident}\n".encode())
        finally:
            os.close(descriptor)

    def lines(self) -> list[str]:
        if not os.path.exists(self.path):
            return []
        with open(self.path) as file:
            return file.read().split()

    def count(self) -> Counter[str]:
        return Counter(self.lines())


# -- plain ---------------------------------------------------------------------------------------------------------------


def echo(*args: Any, **kwargs: Any) -> Any:
    return kwargs or (args[0] if len(args) == 1 else args)


def fail(message: str = "on purpose") -> NoReturn:
    raise Deliberate(message)


def pid_of(_: object = None) -> int:
    return os.getpid()


def announce_and_wait(begun: Gate, gate: Gate, value: Any = None) -> Any:
    """A function that cannot be told anything: says its pid, then waits for the gate."""
    begun.open(os.getpid())
    gate.wait()
    return os.getpid() if value is None else value


def add_and_return(tally: Tally, ident: Any, seconds: float = 0.0) -> Any:
    tally.add(ident)
    time.sleep(seconds)
    return ident


def slowest_first(number: int, gate: Gate) -> int:
    if number == 0:
        gate.wait()
    return number


def read_both() -> tuple[str, str]:
    return declared.get(), undeclared.get()


def set_declared(value: str) -> None:
    declared.set(value)


def log(name: str, level: int, message: str, *args: Any) -> int:
    logging.getLogger(name).log(level, message, *args)
    return os.getpid()


def is_enabled(name: str, level: int) -> bool:
    return logging.getLogger(name).isEnabledFor(level)


class Unformattable:
    """Formatting it in the worker leaves a trace, so a test sees that a record was never made."""

    def __init__(self, formatted: Gate):
        self.formatted = formatted

    def __str__(self) -> str:
        self.formatted.open()
        return "formatted"


def interrupt_oneself() -> int:
    os.kill(os.getpid(), signal.SIGINT)
    return os.getpid()


class Account:
    """Something with state and methods, to be sent there and back."""

    def __init__(self, balance: int):
        self.balance = balance

    def add(self, amount: int) -> int:
        self.balance += amount
        return self.balance

    def __call__(self, amount: int) -> int:
        return self.add(amount)


# -- initializers --------------------------------------------------------------------------------------------------------

initialized: list[Any] = []


def initialize(*args: Any) -> None:
    initialized.append(args)


def read_initialized(_: object = None) -> tuple[int, list[Any]]:
    return os.getpid(), initialized


def initialize_badly(message: str) -> NoReturn:
    raise Deliberate(message)


def die_the_first_time(been_here: Gate) -> None:
    if not been_here.is_open():
        been_here.open()
        os._exit(9)


# -- generators and coroutines -------------------------------------------------------------------------------------------


def numbers(count: int, made: Tally | None = None, closed: Gate | None = None) -> Iterator[int]:
    try:
        for number in range(count):
            if made is not None:
                made.add(number)
            yield number
    finally:
        if closed is not None:
            closed.open(os.getpid())


def numbers_then(count: int, end: Any, *args: Any) -> Iterator[int]:
    yield from range(count)
    end(*args)


async def sleep_and_return(value: Any, seconds: float = 0.0) -> Any:
    import asyncio

    await asyncio.sleep(seconds)
    return value


async def pid_and_task() -> tuple[int, str]:
    import asyncio

    await asyncio.sleep(0)
    task = asyncio.current_task()
    assert task is not None
    return os.getpid(), type(asyncio.get_running_loop()).__module__


async def fail_later() -> None:
    await sleep_and_return(None)
    raise Deliberate("in a coroutine")


async def wait_for_ever(begun: Gate, ended: Gate) -> None:
    import asyncio

    begun.open(os.getpid())
    try:
        await asyncio.sleep(3600)
    finally:
        ended.open(os.getpid())


# -- how functions end that nobody wants any more ------------------------------------------------------------------------


def until_cancelled(begun: Gate, ended: Gate | None = None) -> None:
    """A well-behaved blocking function: it asks from time to time whether anybody still wants it."""
    begun.open(os.getpid())
    give_up = time.monotonic() + PATIENCE
    try:
        while time.monotonic() < give_up:
            bridge.check_cancelled()
            time.sleep(0.001)
    finally:
        if ended is not None:
            ended.open(os.getpid())
    raise AssertionError("nobody cancelled this function")


def sleep_for_ever(begun: Gate) -> None:
    begun.open(os.getpid())
    time.sleep(3600)


def compute_for_ever(begun: Gate) -> None:
    begun.open(os.getpid())
    while True:
        pass


def hold_the_interpreter(begun: Gate) -> None:
    """In a C function that never lets another thread, or a signal handler written in Python, have a turn."""
    begun.open(os.getpid())
    ctypes.PyDLL(None).sleep(3600)


def ignore_everything(begun: Gate) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    begun.open(os.getpid())
    while True:
        time.sleep(1)


def note_each_warning(begun: Gate, told: Gate, terminated: Gate) -> None:
    """Says when it was told to end, does not end, and says when it was asked by SIGTERM."""

    def on_term(*_: object) -> NoReturn:
        terminated.open(time.monotonic())
        os._exit(0)

    signal.signal(signal.SIGTERM, on_term)
    begun.open(os.getpid())
    while True:
        try:
            bridge.check_cancelled()
        except BaseException:
            if not told.is_open():
                told.open(time.monotonic())
        time.sleep(0.001)


def with_children(begun: Gate) -> None:
    """A child, a child in a session of its own, and a grandchild; all of them outlive a plain kill of their parent."""
    sleep = [sys.executable, "-S", "-c", "import time; time.sleep(3600)"]
    nested = f"import os, subprocess; print(subprocess.Popen({sleep!r}).pid, flush=True); os.read(0, 1)"
    child = subprocess.Popen(sleep)
    loner = subprocess.Popen(sleep, start_new_session=True)
    parent = subprocess.Popen([sys.executable, "-S", "-c", nested], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert parent.stdout is not None
    grandchild = int(parent.stdout.readline())
    begun.open(f"{os.getpid()} {child.pid} {loner.pid} {parent.pid} {grandchild}")
    time.sleep(3600)


def take_memory(size: int, begun: Gate) -> None:
    """Touch so many bytes, piece by piece, and keep them."""
    kept = []
    for _ in range(0, size, 1 << 22):
        kept.append(b"\1" * (1 << 22))
        time.sleep(0.001)
    begun.open()
    time.sleep(3600)


# -- how workers die -----------------------------------------------------------------------------------------------------


def crash() -> None:
    """A segmentation fault, as a C extension would have one."""
    ctypes.string_at(0)


def end_by_signal(number: int, begun: Gate | None = None) -> None:
    if begun is not None:
        begun.open(os.getpid())
    if number != signal.SIGKILL:
        signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
    time.sleep(3600)


def add_then(tally: Tally, ident: object, end: Any, *args: Any) -> None:
    tally.add(ident)
    end(*args)


class Fatal:
    """Kills the process that unpickles it (`when="unpickled"`), or a worker that pickles it (`when="pickled"`)."""

    def __init__(self, when: str, home: int):
        self.when = when
        self.home = home

    def __reduce__(self) -> Any:
        if self.when == "pickled" and os.getpid() != self.home:
            os._exit(11)
        return _fatal, (self.when, self.home)


def _fatal(when: str, home: int) -> Fatal:
    if when == "unpickled" and os.getpid() != home:
        os._exit(12)
    return Fatal(when, home)


# -- bad pickles ---------------------------------------------------------------------------------------------------------


class Stubborn:
    """Raises whatever it was made with, on one of the ways: "there" (in a worker) or "back" (at home), or "at once"."""

    def __init__(self, where: str, home: int):
        self.where = where
        self.home = home

    def __reduce__(self) -> Any:
        if self.where == "at once":
            raise ValueError("cannot be reduced")
        return _stubborn, (self.where, self.home)


def _stubborn(where: str, home: int) -> Stubborn:
    if where == ("back" if os.getpid() == home else "there"):
        raise ValueError("cannot be rebuilt")
    return Stubborn(where, home)


def make_stubborn(where: str, home: int) -> dict[str, list[Stubborn]]:
    return {"rows": [Stubborn(where, home)]}


def make_lock() -> dict[str, Any]:
    return {"rows": [1, threading.Lock()]}


class Unsendable(Exception):
    """An exception that holds what cannot be pickled."""

    def __init__(self, message: str):
        super().__init__(message)
        self.lock = threading.Lock()


class Picky(Exception):
    """An exception that cannot be rebuilt from its `args`, as so many cannot."""

    def __init__(self, code: int, *, reason: str):
        super().__init__(f"{code}: {reason}")


def raise_unsendable() -> NoReturn:
    raise Unsendable("has a lock")


def raise_picky() -> NoReturn:
    raise Picky(7, reason="never mind")


# -- back over the bridge ------------------------------------------------------------------------------------------------


async def count_up(count: int, ended: Gate | None = None) -> AsyncIterator[int]:
    try:
        for number in range(count):
            yield number
    finally:
        if ended is not None:
            ended.open(os.getpid())


@asynccontextmanager
async def entered(log: Tally) -> AsyncIterator[int]:
    log.add(f"in-{os.getpid()}")
    try:
        yield os.getpid()
    finally:
        log.add(f"out-{os.getpid()}")


def call_home(fn: Any, *args: Any, **kwargs: Any) -> Any:
    return bridge.portal().call(fn, *args, **kwargs)


def call_home_later(begun: Gate, gate: Gate, fn: Any, *args: Any) -> Any:
    begun.open(os.getpid())
    gate.wait()
    return bridge.portal().call(fn, *args)


def hold_until_exists(path: str) -> None:
    """Run for as long as there is no such file."""
    while not os.path.exists(path):
        time.sleep(0.005)


#: In the parent: the executor that functions of the parent use. (Closures over an executor could not be sent out.)
at_home: dict[str, Any] = {}


async def look_around() -> tuple[int, int]:
    """At home: the pid of another worker, and how many slots are lent."""
    executor = at_home["executor"]
    return await executor.run(pid_of), executor.statistics().lent


async def descend(depth: int) -> list[int]:
    """At home."""
    pids: list[int] = await at_home["executor"].run(dive, depth - 1)
    return pids


def dive(depth: int) -> list[int]:
    """In a worker that calls the loop, which calls a worker, which ...: their pids."""
    return [os.getpid(), *(bridge.portal().call(descend, depth) if depth else ())]


def descend_in(executors: list[Any], depth: int) -> int:
    """Loop, worker, loop, worker, ..., through each of the executors in turn: how deep."""
    if depth == 0:
        return 0
    deeper: int = bridge.portal().call(executors[depth % len(executors)].run, descend_in, executors, depth - 1)
    return deeper + 1


async def wait_as_told(pid: int) -> None:
    """At home."""
    await at_home["wait"](pid)


def wait_at_home() -> None:
    bridge.portal().call(wait_as_told, os.getpid())


async def seven_from_a_thread() -> int:
    return await bridge.to_thread(int, "7")


def with_a_loop_of_its_own() -> int:
    with bridge.background_loop() as portal:
        return portal.call(seven_from_a_thread)


def pid_and_surroundings() -> tuple[int, tuple[int, int]]:
    return os.getpid(), bridge.portal().call(look_around)


def die_while_calling(die: Gate, fn: Any, *args: Any) -> None:
    def killer() -> None:
        die.wait()
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=killer, daemon=True).start()
    bridge.portal().call(fn, *args)


# -- where one is --------------------------------------------------------------------------------------------------------


def here() -> tuple[int, int, str]:
    """The process, the thread and the kind of loop."""
    import sniffio

    return os.getpid(), threading.get_ident(), sniffio.current_async_library()


async def where_am_i() -> tuple[int, int, str]:
    """Likewise, after a turn of the loop."""
    import anyio

    await anyio.sleep(0)
    return here()

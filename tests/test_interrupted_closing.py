"""An exception that a signal handler raises anywhere while executors and runs are closed leaves nothing behind.

Accounted for after each interruption: every future is answered, no thread and no process stays that nothing would end.
What the interruption kept from being closed is closed by the next closing, as the end of the program does it.
"""

from __future__ import annotations

import dis
import gc
import random
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future
from functools import cache
from itertools import pairwise
from types import CodeType, FrameType
from typing import Any, NoReturn

import psutil
import pytest

import bridge
from bridge.diagnostics.watchdog import watchdog
from bridge.executors.process.crew import crews
from bridge.loop.watch.watcher import LoopWatcher
from bridge.threads.pool import pools
from tests.conftest import LOOPS, PATIENCE, comes_and_goes
from tests.interruptions import Position, of_bridge, tracing


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    """What an interruption has kept from being awaited, or from being closed, is no fault of a later test."""
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        gc.collect()
    for watcher in watched_loops():  # of loops that were not closed, and may be run again
        watcher.close()
    sys.set_coroutine_origin_tracking_depth(0)  # trio's end may have been interrupted before it was put back


posix = pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX")

pytestmark = [
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),  # interrupted in a finalizer
    pytest.mark.filterwarnings("ignore::ResourceWarning"),  # interrupted before the first line of __exit__
    pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning"),  # before a loop had it
]


class Account:
    """What there was before, and the futures that were made since."""

    def __init__(self, processes: bool = False) -> None:
        self.futures: list[Future[Any]] = []
        self.closing = False  # does the executor's block end?
        self._processes = processes  # can there be any?
        self._threads = set(threading.enumerate())

    def settle(self, what: object) -> None:
        """What the end of the program does; then nothing may be left."""
        gc.collect(0)
        for crew in list(crews):
            crew.close()
        for pool in list(pools):
            pool.close()
        for future in self.futures:
            try:
                future.exception(PATIENCE)
            except TimeoutError:
                pytest.fail(f"{what}: {future} was never answered")
            except CancelledError:
                pass
        self.futures.clear()
        if self._processes:
            self._until(lambda: not workers(), what, workers)
        self._until(lambda: not self.threads(), what, self.threads)

    def threads(self) -> list[threading.Thread]:
        gc.collect(0)
        return [each for each in set(threading.enumerate()) - self._threads if not comes_and_goes(each)]

    @staticmethod
    def _until(condition: Callable[[], object], what: object, left: Callable[[], object]) -> None:
        deadline = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < deadline, f"{what} leaves {left()}"
            time.sleep(0.002)


def workers() -> list[int]:
    """Child processes, zombies included; not the resource tracker, which stays as long as the process does."""
    found = []
    for process in psutil.Process().children():
        try:
            if "resource_tracker" not in " ".join(process.cmdline()):
                found.append(process.pid)
        except psutil.ZombieProcess:
            found.append(process.pid)
        except psutil.NoSuchProcess:
            pass
    return found


def watched_loops() -> list[LoopWatcher]:
    return [each for each in watchdog._watchers.copy() if isinstance(each, LoopWatcher)]


def watched_though_closed() -> list[LoopWatcher]:
    return [each for each in watched_loops() if each._view.is_over()]


@cache
def interruptible(code: CodeType) -> frozenset[int]:
    """Offsets of the bytecodes before which CPython runs signal handlers: at the start, after calls, where loops turn.

    What comes out of a handler after a call comes out of the call. So where a block ends with a call, as `with lock` does
    that returns what a function gives, there is no bytecode before which an exception would be the same.
    """
    found = set()
    for before, after in pairwise(dis.get_instructions(code)):
        if before.opname.startswith("JUMP_BACKWARD"):
            found.add(before.argval)
        elif not _runs_handlers(before.opname):
            continue
        elif _handler(code, before.offset) == _handler(code, after.offset):
            found.add(after.offset)
    return frozenset(found)


def _runs_handlers(name: str) -> bool:
    return name == "RESUME" or (name.startswith("CALL") and "INTRINSIC" not in name)


def _handler(code: CodeType, offset: int) -> int | None:
    entries = dis._parse_exception_table(code)  # type: ignore[attr-defined]
    return next((entry.target for entry in entries if entry.start <= offset < entry.end), None)


def in_a_finalizer() -> bool:
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code.co_name != "__del__":
        frame = frame.f_back
    return frame is not None


def always() -> bool:
    return True


def interrupt(action: Callable[[], object], *numbers: int, when: Callable[[], bool] = always) -> tuple[str, int]:
    """Raise an exception at the interruptible bytecodes with these numbers; say where, and how many there were.

    Only those count that come `when` it is true. A second exception does not come in a finalizer, where Python would
    swallow it and leave undone what the finalizer does for the first.
    """
    seen = 0
    positions: list[str] = []

    def on_bytecode(code: CodeType, offset: int) -> None:
        nonlocal seen
        if when() and of_bridge(code, offset) and offset in interruptible(code):
            seen += 1
            if seen in numbers and not (positions and in_a_finalizer()):
                positions.append(str(Position.of(seen, code, offset)))
                raise KeyboardInterrupt

    try:
        with tracing(on_bytecode):
            action()
    except BaseException:  # asyncio and trio have errors of their own for what was interrupted in their midst
        if not positions:
            raise
    return " and ".join(positions), seen


def interruptions(
    action: Callable[[], object], sample: int | None = None, seed: int = 0, when: Callable[[], bool] = always
) -> Iterator[str]:
    """Interrupt an action at each interruptible bytecode, or at some of them, and give the position each time."""
    total = interrupt(action, when=when)[1]
    numbers = range(1, total + 1)
    for number in numbers if sample is None else random.Random(seed).sample(numbers, sample):
        yield interrupt(action, number, when=when)[0]


def double_interruptions(
    action: Callable[[], object], sample: int, seed: int, when: Callable[[], bool] = always
) -> Iterator[str]:
    """As `interruptions`, and once more on the way out."""
    total = interrupt(action, when=when)[1]
    chosen = random.Random(seed)
    for _ in range(sample):
        first = chosen.randrange(1, total + 1)
        yield interrupt(action, first, first + chosen.randrange(1, 20), when=when)[0]


# -- threads -------------------------------------------------------------------------------------------------------------


def with_threads(account: Account) -> None:
    account.closing = False
    with bridge.ThreadExecutor(2) as executor:
        account.futures += [executor.submit(int, "5") for _ in range(3)]
        account.closing = True


def with_threads_left_by_an_exception(account: Account) -> None:
    account.closing = False
    try:
        with bridge.ThreadExecutor(2) as executor:
            account.futures += [executor.submit(int, "5") for _ in range(3)]
            account.closing = True
            raise ZeroDivisionError
    except ZeroDivisionError:
        pass


THREADS = [with_threads, with_threads_left_by_an_exception]


@pytest.mark.parametrize("use", THREADS)
def test_threads_are_closed_whatever_bytecode_is_interrupted(use: Callable[[Account], None]) -> None:
    account = Account()
    for position in interruptions(lambda: use(account), sample=150, seed=1):
        account.settle(position)
    for position in interruptions(lambda: use(account), when=lambda: account.closing):
        account.settle(position)


@pytest.mark.parametrize("use", THREADS)
def test_threads_are_closed_after_a_second_interruption(use: Callable[[Account], None]) -> None:
    account = Account()
    for position in double_interruptions(lambda: use(account), sample=60, seed=1):
        account.settle(position)


# -- processes -----------------------------------------------------------------------------------------------------------


def with_processes(account: Account) -> None:
    account.closing = False
    with bridge.ProcessExecutor(1) as executor:
        account.futures += [executor.submit(int, "5") for _ in range(2)]
        account.futures[-1].exception(PATIENCE)
        account.closing = True


def with_processes_left_by_an_exception(account: Account) -> None:
    account.closing = False
    try:
        with bridge.ProcessExecutor(1, grace=0.0) as executor:
            account.futures += [executor.submit(time.sleep, 60) for _ in range(2)]
            account.closing = True
            raise ZeroDivisionError
    except ZeroDivisionError:
        pass


PROCESSES = [with_processes, with_processes_left_by_an_exception]


@pytest.fixture
def no_process_can_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the executor does is the same then, but for what takes time."""

    def launch(name: str, env: object) -> NoReturn:
        raise OSError("there is no process to be had")

    monkeypatch.setattr("bridge.executors.process.roster.launch", launch)


@posix
@pytest.mark.usefixtures("no_process_can_be_started")
@pytest.mark.parametrize("use", PROCESSES)
def test_a_process_executor_is_closed_whatever_bytecode_is_interrupted(use: Callable[[Account], None]) -> None:
    account = Account()
    for position in interruptions(lambda: use(account), sample=150, seed=1):
        account.settle(position)
    for position in interruptions(lambda: use(account), when=lambda: account.closing):
        account.settle(position)


@posix
@pytest.mark.usefixtures("no_process_can_be_started")
@pytest.mark.parametrize("use", PROCESSES)
def test_a_process_executor_is_closed_after_a_second_interruption(use: Callable[[Account], None]) -> None:
    account = Account()
    for position in double_interruptions(lambda: use(account), sample=60, seed=2):
        account.settle(position)


@posix
@pytest.mark.parametrize("use", PROCESSES)
def test_processes_are_closed_where_an_interruption_comes(use: Callable[[Account], None]) -> None:
    account = Account(processes=True)
    for position in interruptions(lambda: use(account), sample=12, seed=3):
        account.settle(position)
    for position in double_interruptions(lambda: use(account), sample=6, seed=4):
        account.settle(position)


# -- bridge.run ----------------------------------------------------------------------------------------------------------


class Run:
    """A run with a lane and with threads of its own; `closing` once its main function has returned."""

    def __init__(self, account: Account, loop: str, lane: type[bridge.ThreadExecutor | bridge.ProcessExecutor]):
        self.closing = False
        self._account = account
        self._lane = lane
        backend, options = LOOPS[loop]
        self._options: dict[str, Any] = {"backend": backend} if backend == "trio" else {"loop_factory": None, **options}

    def __call__(self) -> None:
        self.closing = False
        executor = self._lane(1)

        async def main() -> None:
            self._account.futures.append(executor.submit(int, "5"))
            assert await bridge.to_thread(int, "5") == 5
            self.closing = True

        bridge.run(main, executors={"lane": executor}, **self._options)


LANES = [bridge.ThreadExecutor, pytest.param(bridge.ProcessExecutor, marks=posix)]


@pytest.mark.usefixtures("no_process_can_be_started")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("lane", LANES)
@pytest.mark.parametrize("loop", LOOPS)
def test_a_run_ends_what_it_has_begun_where_an_interruption_comes(loop: str, lane: Any) -> None:
    account = Account()
    run = Run(account, loop, lane)
    for position in interruptions(run, sample=30, seed=5, when=lambda: run.closing):
        account.settle(position)
    for position in double_interruptions(run, sample=10, seed=6, when=lambda: run.closing):
        account.settle(position)
    gc.collect()
    watchdog.wake()
    account._until(lambda: not watched_though_closed(), "an interruption", watched_though_closed)

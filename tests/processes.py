"""What the tests of process executors share: one executor for each loop of a module, and what must not be left behind.

A worker takes a while to start, so a module's tests share one executor per loop, which lives on that loop. Test modules
import the fixtures of this file by name; they take the place of those in conftest.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import psutil
import pytest
from process_targets import Gate, Tally

import bridge
from bridge.threads.closing import join
from bridge.threads.pool import pools
from tests.conftest import LOOPS, PATIENCE, comes_and_goes

linux_only = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks into /proc")

#: Threads that serve everybody and stay.
STAYING = ("bridge-sentry", "pytest_timeout")


@pytest.fixture(scope="module", params=list(LOOPS))
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    return LOOPS[request.param]


@pytest.fixture(scope="module")
async def executor(anyio_backend: tuple[str, dict[str, Any]]) -> AsyncIterator[bridge.ProcessExecutor]:
    """Two workers, whose home is the loop of the tests."""
    async with bridge.ProcessExecutor(2, name="crew", grace=0.2) as executor:
        yield executor


@pytest.fixture(scope="module", autouse=True)
def no_thread_left() -> Iterator[None]:
    """When a module's tests are over, no thread and no process of theirs is left."""
    threads, processes = set(threading.enumerate()), children()
    yield
    for pool in list(pools):
        pool.close()
    for pool in list(pools):
        assert join(pool, PATIENCE), f"{pool.name} still runs {[w.job and w.job.fn for w in pool.workers]}"
    left = {t for t in set(threading.enumerate()) - threads if not t.name.startswith(STAYING) and not comes_and_goes(t)}
    for thread in left:
        thread.join(PATIENCE)
    names = [thread.name for thread in left if thread.is_alive()]
    assert not names, names
    wait_until(lambda: not children() - processes)


@pytest.fixture
def new_gate(tmp_path: Path) -> Callable[[str], Gate]:
    return lambda name: Gate(tmp_path / name)


@pytest.fixture
def begun(tmp_path: Path) -> Gate:
    return Gate(tmp_path / "begun")


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Gate]:
    gate = Gate(tmp_path / "gate")
    yield gate
    gate.open()  # whoever still waits in a worker need not wait longer


@pytest.fixture
def tally(tmp_path: Path) -> Tally:
    return Tally(tmp_path / "tally")


async def until(condition: Callable[[], object]) -> None:
    with anyio.fail_after(PATIENCE):
        while not condition():
            await anyio.sleep(0.001)


async def collect(items: AsyncIterator[Any], found: list[Any]) -> None:
    """What came before an error counts."""
    async for item in items:
        found.append(item)  # noqa: PERF401


def wait_until(condition: Callable[[], object]) -> None:
    """In a thread without a loop."""
    give_up = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < give_up, "this never came true"
        gc.collect()
        time.sleep(0.005)


class Attempt:
    """One await in a cancel scope of its own, and how it ended."""

    def __init__(self) -> None:
        self.scope = anyio.CancelScope()
        self.over = False
        self.value: Any = None
        self.error: BaseException | None = None

    async def make(self, fn: Callable[..., Awaitable[Any]], *args: Any) -> None:
        try:
            with self.scope:
                try:
                    self.value = await fn(*args)
                except Exception as error:
                    self.error = error
        finally:
            self.over = True

    @property
    def cancelled(self) -> bool:
        return self.scope.cancelled_caught


async def attempt_all(*calls: Awaitable[Any]) -> list[Attempt]:
    """Await all at once; each ends as it does, and none disturbs another."""
    attempts = [Attempt() for _ in calls]

    async def settle(call: Awaitable[Any]) -> Any:
        return await call

    async with anyio.create_task_group() as tasks:
        for attempt, call in zip(attempts, calls, strict=True):
            tasks.start_soon(attempt.make, settle, call)
    return attempts


# -- what is there -------------------------------------------------------------------------------------------------------


def children(pid: int | None = None) -> set[int]:
    """Descendants of a process that are alive; not the resource tracker, which stays as long as the process does."""
    found = set()
    for process in psutil.Process(pid).children(recursive=True):
        try:
            if "resource_tracker" not in " ".join(process.cmdline()) and process.status() != psutil.STATUS_ZOMBIE:
                found.add(process.pid)
        except psutil.NoSuchProcess:
            pass
    return found


def alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def reaped(pid: int) -> bool:
    """Gone, zombie included."""
    return not psutil.pid_exists(pid)


def descriptors() -> Counter[str]:
    """What this process's descriptors lead to, without the numbers that make each one different.

    Not the clocks of threads: a loop that is watched looks at whatever threads there are.
    """
    found: Counter[str] = Counter()
    for entry in os.listdir("/proc/self/fd"):
        try:
            leads_to = os.readlink(f"/proc/self/fd/{entry}").split(":[")[0]
        except FileNotFoundError:  # the one that listed the folder
            continue
        if "/task/" not in leads_to:
            found[leads_to] += 1
    return found


def shared_mappings(pid: int | str = "self") -> int:
    """Bytes of memory that a process shares with others and that has no name in a file system."""
    total = 0
    for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
        if "memfd:" in line or "/dev/shm/" in line or ("(deleted)" in line and "rw-s" in line):
            begin, end = (int(part, 16) for part in line.split()[0].split("-"))
            total += end - begin
    return total


def shared_names() -> set[str]:
    """Entries of /dev/shm that may be ours."""
    marks = ("bridge", str(os.getpid()))
    return {name for name in os.listdir("/dev/shm") if any(mark in name for mark in marks)}


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)

"""Where gevent or eventlet has replaced threads or sockets, bridge refuses at once what would wait for ever."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType
from typing import Any

import pytest

import bridge
from bridge.executors.process.executor import ProcessExecutor
from bridge.threads.green import require_threads
from tests.conftest import PATIENCE

Patch = Callable[[str, set[str]], None]


@pytest.fixture
def patched(monkeypatch: pytest.MonkeyPatch) -> Patch:
    """Have a library say that it has replaced these parts."""

    def patch(library: str, parts: set[str]) -> None:
        module, question = {
            "gevent": ("gevent.monkey", "is_module_patched"),
            "eventlet": ("eventlet.patcher", "is_monkey_patched"),
        }[library]
        fake = ModuleType(module)
        setattr(fake, question, parts.__contains__)
        monkeypatch.setitem(sys.modules, module, fake)

    return patch


THREADS = [("gevent", {"threading", "_thread"}), ("eventlet", {"thread"})]
SOCKETS = [("gevent", {"socket"}), ("eventlet", {"socket"})]


@pytest.mark.parametrize(("library", "parts"), THREADS)
def test_no_thread_is_started_where_threads_are_replaced(
    patched: Patch, library: str, parts: set[str], loop_factory: Any
) -> None:
    patched(library, parts)
    refused = pytest.raises(RuntimeError, match=rf"^{library} has replaced the threads.*thread=False[^\n]*$")

    async def main() -> None:
        with refused:
            await bridge.to_thread(abs, -1)

    bridge.run(main, loop_factory=loop_factory)
    executor = bridge.ThreadExecutor(1)
    with refused:
        executor.submit(abs, -1)
    executor.shutdown()
    with refused, bridge.background_loop(loop_factory=loop_factory):
        pass
    with refused:
        ProcessExecutor(1)


@pytest.mark.parametrize(("library", "parts"), THREADS)
def test_threads_that_run_already_go_on(patched: Patch, library: str, parts: set[str]) -> None:
    """Patched in the middle of the program: what has to wait for another thread waits for one of those that are real."""
    with bridge.ThreadExecutor(2) as executor:
        executor.submit(abs, -1).result(PATIENCE)
        patched(library, parts)
        assert [future.result(PATIENCE) for future in [executor.submit(abs, -n) for n in range(9)]] == list(range(9))


@pytest.mark.parametrize(("library", "parts"), SOCKETS)
@pytest.mark.anyio
async def test_where_only_sockets_are_replaced_threads_work_and_processes_are_refused(
    patched: Patch, library: str, parts: set[str]
) -> None:
    patched(library, parts)
    assert await bridge.to_thread(abs, -1) == 1
    with pytest.raises(RuntimeError, match=rf"^{library} has replaced the sockets.*thread=False, socket=False[^\n]*$"):
        ProcessExecutor(1)


@pytest.mark.parametrize("library", ["gevent", "eventlet"])
@pytest.mark.anyio
async def test_what_else_is_replaced_changes_nothing(patched: Patch, library: str) -> None:
    patched(library, {"time", "os", "select", "signal", "subprocess"})
    assert await bridge.to_thread(abs, -1) == 1
    require_threads("nothing", "thread", "socket")


PROGRAM = """
import sys

patch, when, what = sys.argv[1:]
library, _, parts = patch.partition(":")


def patch():
    if library == "gevent":
        from gevent import monkey

        all_parts = monkey.patch_all
    else:
        import eventlet

        all_parts = eventlet.monkey_patch
    if parts == "all":
        all_parts()
    elif parts == "neither":
        all_parts(thread=False, socket=False)
    elif library == "gevent":
        getattr(monkey, f"patch_{parts}", lambda: None)()
    elif parts != "nothing":
        all_parts(**{parts: True})


if when == "before":
    patch()
import bridge

if when == "after":
    patch()


async def seven():
    return 7


def back():
    return bridge.portal().call(seven)


async def main(send):
    print(await (getattr(bridge, send)(back) if send.startswith("to_") else seven()))


try:
    if what == "background":
        with bridge.background_loop() as portal:
            print(portal.call(seven))
    elif what == "submit":
        with bridge.ThreadExecutor(1) as executor:
            print(executor.submit(int, "7").result())
    else:
        bridge.run(main, what)
except RuntimeError as error:
    print(type(error).__name__, error)
"""


@pytest.mark.parametrize("library", ["gevent", "eventlet"])
@pytest.mark.parametrize("parts", ["all", "thread", "socket", "neither", "nothing"])
def test_of_the_real_libraries(library: str, parts: str) -> None:
    if importlib.util.find_spec(library) is None:
        pytest.skip(f"{library} is not installed")

    def run(when: str, what: str) -> None:
        ran = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", PROGRAM, f"{library}:{parts}", when, what],
            capture_output=True,
            text=True,
            timeout=60,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )
        refused = parts in ("all", "thread") or (parts == "socket" and what == "to_process")
        expected = f"RuntimeError {library} has replaced the" if refused and what != "seven" else "7"
        assert ran.stdout.startswith(expected), (when, what, ran.stdout, ran.stderr)

    with ThreadPoolExecutor(2) as threads:
        ways = ("to_thread", "to_process", "submit", "background", "seven")
        cases = [(when, way) for when in ("before", "after") for way in ways]
        list(threads.map(run, *zip(*cases, strict=True)))

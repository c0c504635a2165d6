"""Other threads import at any moment: until they have, `sys.modules` holds modules that lack nearly everything."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

import pytest

import bridge
from bridge.loop import (
    hosts,
    trio_host,  # noqa: F401 - imported now, while everything is as it should be
)

#: What others import, and bridge looks for.
OF_OTHERS = [
    "trio",
    "trio.lowlevel",
    "trio._core._run",
    "sniffio",
    "uvloop",
    "numpy",
    "anyio.from_thread",
    "asgiref",
    "asgiref.sync",
    "gevent",
    "gevent.monkey",
    "eventlet",
    "eventlet.patcher",
]
#: What bridge itself has imported wherever there is a loop; in a worker process any function may be the first to do so.
OF_LOOPS = [
    "asyncio",
    "asyncio.events",
    "anyio",
    "anyio._core._eventloop",
    "cloudpickle.cloudpickle",
    "bridge.threads.portal",
]


def half_imported(name: str) -> ModuleType:
    """As another thread's import leaves it in `sys.modules` while it executes the module's first line."""
    module = ModuleType(name)
    module.__spec__ = ModuleSpec(name, None)
    module.__spec__._initializing = True  # type: ignore[attr-defined]
    return module


@pytest.fixture(params=OF_OTHERS)
def importing(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Half of it is imported from now on."""
    name: str = request.param
    with suppress(ImportError):
        __import__(name)
    monkeypatch.setattr(hosts, "_trios_mark", None)  # as if trio had not been seen before
    monkeypatch.setitem(sys.modules, name, half_imported(name))
    return name


async def seven() -> int:
    return 7


def from_here() -> int:
    return bridge.portal().call(seven)


def fails() -> None:
    raise LookupError("nothing here")


def counted() -> Any:
    yield from range(3)


async def asks_for_everything(to: str) -> None:
    send: Any = bridge.to_thread if to == "thread" else bridge.to_process
    assert await send(abs, -1) == 1
    assert await send(from_here) == 7
    with pytest.raises(LookupError, match="nothing here"):
        await send(fails)
    assert [n async for n in bridge.map(abs, [-1, -2], to=to)] == [1, 2]
    assert [n async for n in bridge.stream(counted, to=to)] == [0, 1, 2]
    assert bridge.portal() is not None


def test_half_imported_modules_disturb_nothing_in_threads(importing: str, loop_factory: Any) -> None:
    async def main() -> None:
        await asks_for_everything("thread")
        with ThreadPoolExecutor(1) as threads:
            async with bridge.ForeignExecutor(threads) as executor:
                assert await executor.run(from_here) == 7
        async with bridge.watch():
            pass

    bridge.run(main, loop_factory=loop_factory)
    with bridge.ThreadExecutor(1) as executor:
        assert executor.submit(abs, -1).result() == 1
    with bridge.background_loop(loop_factory=loop_factory) as portal:
        assert portal.call(seven) == 7
        assert portal.run_coroutine_threadsafe(seven()).result() == 7


def test_half_imported_modules_disturb_nothing_in_the_parent_of_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in OF_OTHERS:
        monkeypatch.setitem(sys.modules, name, half_imported(name))
    bridge.run(asks_for_everything, "process")


def test_half_imported_modules_disturb_nothing_in_a_worker_process() -> None:
    def work(name: str) -> int:
        before = sys.modules.get(name)
        module = sys.modules[name] = ModuleType(name)
        module.__spec__ = ModuleSpec(name, None)
        module.__spec__._initializing = True  # type: ignore[attr-defined]
        try:
            portal = bridge.portal()
            isinstance(portal, int)
            return portal.call(seven)
        finally:
            if before is None:
                del sys.modules[name]
            else:
                sys.modules[name] = before

    async def main() -> None:
        async with bridge.ProcessExecutor(1) as executor:
            for name in [*OF_OTHERS, *OF_LOOPS]:
                assert await executor.run(work, name) == 7, name

    bridge.run(main)


def test_a_module_that_only_bears_the_name_of_trio_disturbs_nothing(
    loop_factory: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A `trio.py` of the program's own."""
    monkeypatch.setitem(sys.modules, "trio", ModuleType("trio"))
    bridge.run(asks_for_everything, "thread", loop_factory=loop_factory)


@pytest.mark.anyio
@pytest.mark.parametrize("installed", [True, False])
async def test_trio_is_found_where_it_does_not_use_sniffio(installed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hosts, "_trios_mark", None)
    with monkeypatch.context() as patched:
        patched.setitem(sys.modules, "sniffio", ModuleType("sniffio") if installed else None)
        assert await bridge.to_thread(abs, -1) == 1
        assert await bridge.to_thread(from_here) == 7
        assert hosts._trios_mark is None


IMPORTS_MEANWHILE = """
import sys, threading

import bridge

sys.setswitchinterval(1e-5)
begun, done, errors = threading.Event(), threading.Event(), []


async def seven():
    return 7


def use():
    try:
        with bridge.ThreadExecutor(2) as executor, bridge.background_loop() as portal:
            while not done.is_set():
                assert executor.submit(abs, -1).result() == 1
                assert portal.call(seven) == 7
                assert portal.call(bridge.to_thread, abs, -1) == 1
                begun.set()
    except BaseException as error:
        errors.append(repr(error))
        begun.set()


user = threading.Thread(target=use)
user.start()
begun.wait()
__import__(sys.argv[1])
done.set()
user.join()
print(errors)
"""


@pytest.mark.parametrize("module", ["trio", "uvloop", "anyio.from_thread", "anyio.pytest_plugin", "asgiref.sync"])
def test_another_thread_that_really_imports_it_disturbs_nothing(module: str) -> None:
    pytest.importorskip(module)
    ran = subprocess.run(
        [sys.executable, "-c", IMPORTS_MEANWHILE, module],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert (ran.stdout.strip(), ran.stderr) == ("[]", "")


def test_a_portal_call_in_a_thread_that_waits_for_an_import_is_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a trio in the middle of a portal's life: before, meanwhile, after."""
    answers = []
    with bridge.background_loop() as portal:
        for name in ("trio", "trio.lowlevel"):
            answers.append(portal.call(seven))
            with monkeypatch.context() as patched:
                patched.setitem(sys.modules, name, half_imported(name))
                thread = threading.Thread(target=lambda: answers.append(portal.call(seven)))
                thread.start()
                thread.join(10)
            answers.append(portal.call(seven))
    assert answers == [7] * 6

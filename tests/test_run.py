"""bridge.run: one async function from beginning to end, and the end of everything that it started."""

from __future__ import annotations

import asyncio
import functools
import logging
import subprocess
import sys
import threading
import time
from typing import Any

import anyio
import pytest

import bridge
from bridge.loop import EventLoop
from tests.conftest import PATIENCE, Gate, logged

BACKENDS: Any = pytest.mark.parametrize("backend", ["asyncio", "trio"])


async def add(a: int, b: int) -> int:
    await anyio.sleep(0)
    return a + b


async def fail() -> None:
    raise KeyError("main")


def plain() -> None: ...


# -- the ordinary way ----------------------------------------------------------------------------------------------------


@BACKENDS
def test_it_returns_what_the_function_returns(backend: Any) -> None:
    assert bridge.run(add, 1, 2, backend=backend) == 3


@BACKENDS
def test_it_raises_what_the_function_raises(backend: Any) -> None:
    with pytest.raises(KeyError, match="main"):
        bridge.run(fail, backend=backend)


def test_partials_and_callable_objects_can_be_run() -> None:
    class Main:
        async def __call__(self) -> int:
            return await add(3, 4)

    assert bridge.run(functools.partial(add, 1, 2)) == 3
    assert bridge.run(Main()) == 7


def test_the_loop_is_bridges_own_unless_another_is_asked_for() -> None:
    async def main() -> Any:
        return type(asyncio.get_running_loop())

    assert bridge.run(main) is EventLoop
    assert bridge.run(main, loop_factory=None) is not EventLoop
    assert bridge.run(main, loop_factory=asyncio.SelectorEventLoop) is asyncio.SelectorEventLoop


def test_trio_runs_when_asked_for() -> None:
    sniffio = pytest.importorskip("sniffio")

    async def main() -> str:
        name: str = sniffio.current_async_library()
        return name

    assert bridge.run(main, backend="trio") == "trio"
    assert bridge.run(main) == "asyncio"


@pytest.mark.parametrize("debug", [True, False])
def test_debug_reaches_the_loop(debug: bool) -> None:
    async def main() -> bool:
        assert await bridge.to_thread(int, "1") == 1
        return asyncio.get_running_loop().get_debug()

    assert bridge.run(main, debug=debug) is debug


def test_a_loop_of_its_own_may_run_in_a_worker_thread() -> None:
    async def main() -> int:
        return await bridge.to_thread(bridge.run, add, 1, 2)

    assert bridge.run(main) == 3


def test_one_run_after_the_other() -> None:
    for number in range(5):
        assert bridge.run(bridge.to_thread, int, str(number)) == number


# -- bad input -----------------------------------------------------------------------------------------------------------


def test_a_plain_function_is_refused_with_the_right_line() -> None:
    not_async: Any = plain
    with pytest.raises(TypeError, match=r"plain is a plain one: write `async def plain\(\.\.\.\)`"):
        bridge.run(not_async)


def test_a_coroutine_is_refused_with_the_right_line_and_closed() -> None:
    coro: Any = add(1, 2)
    with pytest.raises(TypeError, match=r"write bridge\.run\(add\), not bridge\.run\(add\(\)\)"):
        bridge.run(coro)
    with pytest.raises(RuntimeError, match="cannot reuse"):
        coro.send(None)


@pytest.mark.parametrize("thing", [None, 5, "main", asyncio])
def test_what_cannot_be_called_is_refused(thing: Any) -> None:
    with pytest.raises(TypeError, match="needs an async function, not"):
        bridge.run(thing)


@pytest.mark.anyio
async def test_inside_a_running_loop_it_is_refused_with_the_right_line() -> None:
    with pytest.raises(RuntimeError, match=r"where a loop is running already: write `await add\(\.\.\.\)`"):
        bridge.run(add, 1, 2)


def test_an_unknown_backend_is_refused() -> None:
    unknown: Any = "curio"
    with pytest.raises(ValueError, match="backend is 'asyncio' or 'trio', not 'curio'"):
        bridge.run(add, 1, 2, backend=unknown)


def test_a_refused_run_leaves_the_executors_to_their_owner() -> None:
    not_async: Any = plain
    with bridge.ThreadExecutor(1) as executor:
        with pytest.raises(TypeError):
            bridge.run(not_async, executors={"db": executor})
        assert executor.submit(int).result(PATIENCE) == 0


# -- the end -------------------------------------------------------------------------------------------------------------


def test_tasks_that_are_left_are_cancelled_and_may_clean_up() -> None:
    ended: list[str] = []
    tasks = []

    async def background() -> None:
        try:
            await asyncio.sleep(PATIENCE)
        finally:
            ended.append("cancelled")
            await bridge.to_thread(ended.append, "cleaned up in a thread")

    async def main() -> None:
        tasks.append(asyncio.create_task(background()))
        await asyncio.sleep(0)

    bridge.run(main)
    assert ended == ["cancelled", "cleaned up in a thread"]


def test_a_function_in_a_thread_is_told_that_the_program_ends(new_gate: type[Gate]) -> None:
    started, ended, tasks = new_gate(), new_gate(), []

    def work() -> None:
        started.open()
        give_up = time.monotonic() + PATIENCE
        try:
            while time.monotonic() < give_up:
                bridge.check_cancelled()
                time.sleep(0.001)
        finally:
            ended.open()

    async def main() -> None:
        tasks.append(asyncio.create_task(bridge.to_thread(work)))
        await started.reached()

    bridge.run(main)
    assert ended.is_open()


@BACKENDS
def test_the_threads_have_ended_when_run_returns(backend: Any) -> None:
    async def main() -> threading.Thread:
        return await bridge.to_thread(threading.current_thread)

    thread = bridge.run(main, backend=backend)
    assert not thread.is_alive()


def test_a_thread_that_waits_for_the_loop_is_told_that_it_has_closed(new_gate: type[Gate]) -> None:
    ready, called, errors = new_gate(), new_gate(), []

    async def never() -> None:
        called.open()
        await asyncio.Event().wait()

    def outsider(portal: bridge.Portal) -> None:
        ready.open()
        try:
            portal.call(never)
        except BaseException as error:
            errors.append(error)

    threads = []

    async def main() -> None:
        threads.append(threading.Thread(target=outsider, args=(bridge.portal(),)))
        threads[0].start()
        await called.reached()

    bridge.run(main)
    threads[0].join(PATIENCE)
    assert len(errors) == 1
    assert not threads[0].is_alive()


def stuck_functions(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.getMessage().startswith("BRG404")]


@BACKENDS
@pytest.mark.parametrize("lane", [False, True])
def test_a_function_that_does_not_end_is_reported_with_its_stack_and_left_behind(
    backend: Any, lane: bool, gate: Gate, caplog: pytest.LogCaptureFixture
) -> None:
    started = Gate()

    def stuck_in_here() -> None:
        started.open()
        gate.wait()

    async def main() -> str:
        offloaded = bridge.offload(to="db" if lane else "thread", cancel="abandon")(stuck_in_here)
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(offloaded)
                await started.reached()
                scope.cancel()
        return "done"

    executors = {"db": bridge.ThreadExecutor(1)} if lane else None
    try:
        with caplog.at_level(logging.ERROR):
            assert bridge.run(main, backend=backend, shutdown_timeout=0.1, executors=executors) == "done"
        logged(caplog, "bridge.executors.BRG404")
        (message,) = stuck_functions(caplog)
        assert "stuck_in_here has not ended 0.1 s after" in message
        assert "is left behind" in message
        assert "gate.wait()" in message
        assert __file__.rpartition("/")[2] in message
    finally:
        gate.open()


def test_a_stuck_function_that_is_awaited_costs_one_shutdown_timeout_in_all(
    gate: Gate, caplog: pytest.LogCaptureFixture
) -> None:
    started, tasks = Gate(), []

    def stuck_in_here() -> None:
        started.open()
        gate.wait()

    async def main() -> None:
        tasks.append(asyncio.create_task(bridge.to_thread(stuck_in_here)))
        await started.reached()

    try:
        begun = time.monotonic()
        bridge.run(main, shutdown_timeout=1.0)
        took = time.monotonic() - begun
        logged(caplog, "bridge.executors.BRG404")
        assert len(stuck_functions(caplog)) == 1
        assert 0.9 <= took < 1.9, f"{took:.1f} s, with shutdown_timeout=1.0"
    finally:
        gate.open()


def test_a_function_that_ends_in_time_is_not_reported(gate: Gate, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        offloaded = bridge.offload(cancel="abandon")(gate.wait)
        with anyio.move_on_after(0.01):
            await offloaded()
        threading.Timer(0.02, gate.open).start()

    bridge.run(main, shutdown_timeout=PATIENCE)
    assert gate.is_open()
    assert not stuck_functions(caplog)


def test_a_program_with_a_stuck_thread_ends() -> None:
    program = (
        "import bridge, threading\n"
        "never, started = threading.Event(), threading.Event()\n"
        "def stuck():\n"
        "    started.set()\n"
        "    never.wait()\n"
        "async def main():\n"
        "    executor = bridge.ThreadExecutor(1)\n"
        "    executor.submit(stuck)\n"
        "    async with bridge.lanes():\n"
        "        started.wait()\n"
        "    bridge.run_later = executor\n"
        "from bridge.threads import closing\n"
        "closing.SHUTDOWN_TIMEOUT = 0.2\n"
        "bridge.run(main)\n"
        "print('end of program')\n"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout == "end of program\n"
    assert "BRG404 __main__.stuck has not ended 0.2 s" in ended.stderr


def test_a_decorator_that_loses_the_coroutine_is_what_the_error_speaks_of() -> None:
    def logged(fn: Any) -> Any:
        @functools.wraps(fn)
        def wrapper() -> None:
            fn().close()  # and does not return it

        return wrapper

    @logged
    async def main() -> None: ...

    with pytest.raises(TypeError, match=r"have the decorator return what `main\(\.\.\.\)` returns"):
        bridge.run(main)


def test_interrupted_before_its_first_step_a_run_reports_no_fault_of_its_own(caplog: pytest.LogCaptureFixture) -> None:
    class Interrupted(Exception): ...

    class Interrupting(EventLoop):
        """A loop that a signal handler interrupts when the main task has been made and has not begun."""

        rounds = 0

        def run_forever(self) -> None:
            self.rounds += 1
            if self.rounds == 1:
                raise Interrupted
            super().run_forever()

    async def main() -> None: ...

    with pytest.raises(Interrupted):
        bridge.run(main, loop_factory=Interrupting)
    assert not caplog.records

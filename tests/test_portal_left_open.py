"""What a thread, or a worker process, has open through a portal and does not end itself: on which loop it ends, and how.

An iteration that is not finished, a context that is not left, both dropped or left open at the end of their loop, used
in a wrong thread, or never begun because the loop cannot make a task.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import gc
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from types import CodeType
from typing import Any

import anyio
import pytest

import bridge
from tests.conftest import PATIENCE, Gate, within
from tests.interruptions import interruptions, of_bridge, where_handlers_run


class Open:
    """What is opened through a portal; notes where it is ended, and by what."""

    def __init__(self) -> None:
        self.opened_in: int | None = None
        self.ended_in: int | None = None
        self.ended_by: BaseException | None = None
        self.ended = Gate()

    def end(self, error: BaseException | None) -> None:
        self.ended_in = threading.get_ident()
        self.ended_by = error
        self.ended.open()

    async def rows(self) -> AsyncGenerator[int]:
        self.opened_in = threading.get_ident()
        try:
            for number in range(3):
                yield number
                await anyio.sleep(0)
        except BaseException as error:
            self.end(error)
            raise
        else:
            self.end(None)

    @asynccontextmanager
    async def connection(self) -> AsyncGenerator[str]:
        self.opened_in = threading.get_ident()
        try:
            yield "connection"
        except BaseException as error:
            self.end(error)
            raise
        else:
            self.end(None)


def open_iteration(portal: bridge.Portal, subject: Open) -> tuple[Any, Callable[[], object]]:
    iterator = portal.iterate(subject.rows())
    assert next(iterator) == 0
    return iterator, lambda: next(iterator)


def open_context(portal: bridge.Portal, subject: Open) -> tuple[Any, Callable[[], object]]:
    context = portal.enter(subject.connection())
    assert context.__enter__() == "connection"
    return context, lambda: context.__exit__(None, None, None)


OPENERS = {"iterate": open_iteration, "enter": open_context}


@pytest.fixture(params=list(OPENERS))
def opener(request: pytest.FixtureRequest) -> Callable[[bridge.Portal, Open], tuple[Any, Callable[[], object]]]:
    return OPENERS[request.param]


# -- at the end of the loop --------------------------------------------------------------------------------------------


def test_leaving_a_background_loop_ends_what_is_open_and_the_next_use_says_so(
    opener: Any, loop_factory: Callable[[], Any] | None
) -> None:
    subject = Open()
    with bridge.background_loop(loop_factory=loop_factory) as portal:
        held, use = opener(portal, subject)
    assert subject.ended.is_open()
    assert subject.ended_in == subject.opened_in
    with pytest.raises(bridge.LoopClosed):
        use()
    del held


def test_leaving_a_background_loop_by_an_exception_ends_what_is_open(
    opener: Any, loop_factory: Callable[[], Any] | None
) -> None:
    subject = Open()
    scope = bridge.background_loop(loop_factory=loop_factory)
    held, _ = opener(scope.__enter__(), subject)
    scope.__exit__(ZeroDivisionError, ZeroDivisionError(), None)
    assert subject.ended.is_open()
    del held


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_the_end_of_a_run_ends_what_a_thread_has_open(opener: Any, backend: Any, new_gate: type[Gate]) -> None:
    subject, opened, ended = Open(), new_gate(), new_gate()
    told: list[BaseException] = []

    def in_thread(portal: bridge.Portal) -> None:
        held, use = opener(portal, subject)
        opened.open()
        ended.wait()
        try:
            use()
        except BaseException as error:
            told.append(error)
        del held

    async def main() -> threading.Thread:
        thread = threading.Thread(target=in_thread, args=(bridge.portal(),))
        thread.start()
        await opened.reached()
        return thread

    thread = bridge.run(main, backend=backend)
    assert subject.ended.is_open()
    ended.open()
    within(thread)
    assert isinstance(told[0], bridge.LoopClosed)


def test_a_context_whose_end_hangs_does_not_hang_the_end_of_its_loop(new_gate: type[Gate]) -> None:
    entered, released = new_gate(), new_gate()

    @asynccontextmanager
    async def stubborn() -> AsyncGenerator[None]:
        entered.open()
        try:
            yield
        finally:
            while not released.is_open():
                try:
                    await asyncio.sleep(0.01)
                except asyncio.CancelledError:
                    pass

    context = None
    with bridge.background_loop(shutdown_timeout=0.1, diagnostics=False) as portal:
        context = portal.enter(stubborn())
        context.__enter__()
        (loop_thread,) = (thread for thread in threading.enumerate() if thread.name == "bridge-loop")
    released.open()
    within(loop_thread)


# -- dropped -----------------------------------------------------------------------------------------------------------


@pytest.mark.anyio
async def test_dropped_in_a_thread_it_is_ended_on_the_loop(opener: Any) -> None:
    subject = Open()

    def in_thread() -> None:
        opener(bridge.portal(), subject)

    await bridge.to_thread(in_thread)
    await subject.ended.reached()
    assert subject.ended_in == subject.opened_in == threading.get_ident()
    assert subject.ended_by is not None


@pytest.mark.anyio
async def test_dropped_on_the_loops_own_thread_it_is_ended_there_soon(opener: Any) -> None:
    subject = Open()

    def in_thread() -> Any:
        return opener(bridge.portal(), subject)

    held = await bridge.to_thread(in_thread)
    del held
    gc.collect()
    await subject.ended.reached()
    assert subject.ended_in == threading.get_ident()


def test_what_was_dropped_keeps_no_loop_alive_and_is_ended_before_its_loop(
    opener: Any, loop_factory: Callable[[], Any] | None
) -> None:
    subject = Open()
    with bridge.background_loop(loop_factory=loop_factory) as portal:
        opener(portal, subject)
    assert subject.ended.is_open()
    assert subject.ended_in == subject.opened_in


def test_what_is_dropped_after_its_loop_is_left_alone(opener: Any, loop_factory: Callable[[], Any] | None) -> None:
    subject = Open()
    with bridge.background_loop(loop_factory=loop_factory) as portal:
        held = opener(portal, subject)
    assert subject.ended.is_open()
    del held
    gc.collect()


# -- in the wrong thread, twice, too early -------------------------------------------------------------------------------


@pytest.mark.anyio
async def test_used_on_the_loops_own_thread_it_is_refused_and_goes_on_elsewhere(opener: Any) -> None:
    subject = Open()
    held, use = await bridge.to_thread(opener, bridge.portal(), subject)
    with pytest.raises(bridge.WouldDeadlock, match=r"async (for|with)"):
        use()
    assert not subject.ended.is_open()
    await bridge.to_thread(use)
    del held, use
    await subject.ended.reached()


@pytest.mark.anyio
async def test_used_in_a_thread_that_runs_another_loop_it_is_refused(opener: Any) -> None:
    subject = Open()

    def in_thread() -> None:
        held, use = opener(bridge.portal(), subject)

        async def elsewhere(use: Callable[[], object]) -> None:
            with pytest.raises(bridge.WrongThread):
                use()

        asyncio.run(elsewhere(use))
        use()
        del held, use

    await bridge.to_thread(in_thread)
    await subject.ended.reached()


@pytest.mark.anyio
async def test_a_context_is_left_once_and_only_after_it_was_entered() -> None:
    subject = Open()

    def in_thread() -> None:
        context = bridge.portal().enter(subject.connection())
        with pytest.raises(RuntimeError, match=r"not entered, or was left before: write `with portal\.enter"):
            context.__exit__(None, None, None)
        with context:
            pass
        with pytest.raises(RuntimeError, match=r"not entered, or was left before: write `with portal\.enter"):
            context.__exit__(None, None, None)

    await bridge.to_thread(in_thread)
    assert subject.ended_by is None


# -- in worker processes -----------------------------------------------------------------------------------------------

noted: list[str] = []


@asynccontextmanager
async def remote_connection() -> AsyncGenerator[str]:
    try:
        yield "connection"
    except BaseException as error:
        noted.append(type(error).__name__)
        raise
    else:
        noted.append("left")


async def remote_rows() -> AsyncGenerator[int]:
    try:
        yield 0
        yield 1
    except BaseException as error:
        noted.append(type(error).__name__)
        raise


def drop_in_a_worker(kind: str) -> str:
    portal = bridge.portal()
    if kind == "enter":
        context = portal.enter(remote_connection())
        value = context.__enter__()
        del context
        return str(value)
    iterator = portal.iterate(remote_rows())
    value = next(iterator)
    del iterator
    return str(value)


def misuse_in_a_worker() -> list[str]:
    said = []
    context = bridge.portal().enter(remote_connection())
    for _ in range(2):
        try:
            context.__exit__(None, None, None)
        except RuntimeError as error:
            said.append(str(error))
        if not said[1:]:
            with context:
                pass

    held, iterator = bridge.portal().enter(remote_connection()), bridge.portal().iterate(remote_rows())
    held.__enter__()

    async def on_a_loop() -> None:
        for use in (lambda: held.__exit__(None, None, None), lambda: next(iterator)):
            try:
                use()
            except bridge.WrongThread as error:
                said.append(str(error))

    asyncio.run(on_a_loop())
    held.__exit__(None, None, None)
    return said


@pytest.mark.skipif(sys.platform == "win32", reason="no ProcessExecutor")
@pytest.mark.anyio
@pytest.mark.parametrize("kind", ["enter", "iterate"])
async def test_dropped_in_a_worker_process_it_is_ended_on_the_loop(kind: str) -> None:
    noted.clear()
    assert await bridge.to_process(drop_in_a_worker, kind) == ("connection" if kind == "enter" else "0")
    with anyio.fail_after(PATIENCE):
        while noted != ["GeneratorExit"]:
            await anyio.sleep(0.001)


@pytest.mark.skipif(sys.platform == "win32", reason="no ProcessExecutor")
@pytest.mark.anyio
async def test_misused_in_a_worker_process_it_is_refused() -> None:
    first, second, third, fourth = await bridge.to_process(misuse_in_a_worker)
    assert "not entered, or was left before" in first
    assert "not entered, or was left before" in second
    assert "bridge.to_thread" in third
    assert "bridge.to_thread" in fourth


# -- where the loop cannot make a task -----------------------------------------------------------------------------------


def failing_factory(loop: object, coro: Any, **kwargs: object) -> Any:
    raise LookupError("this factory makes no task")


async def nothing() -> None: ...


NEEDING_A_TASK: dict[str, Callable[[bridge.Portal, Open], object]] = {
    "call": lambda portal, subject: portal.call(nothing),
    "run_coroutine_threadsafe": lambda portal, subject: portal.run_coroutine_threadsafe(nothing()).result(PATIENCE),
    **OPENERS,
}


@pytest.mark.parametrize("way", NEEDING_A_TASK)
def test_the_thread_is_told_why_the_loop_cannot_make_the_task(way: str, loop_factory: Callable[[], Any] | None) -> None:
    subject = Open()
    with bridge.background_loop(loop_factory=loop_factory) as portal:
        set_factory = portal.call(asyncio.get_running_loop).set_task_factory
        portal.call(set_factory, failing_factory)
        try:
            with pytest.raises(LookupError, match="this factory makes no task"):
                NEEDING_A_TASK[way](portal, subject)
            assert not portal._host.waits
        finally:
            portal.call(set_factory, None)
        assert portal.call(nothing) is None  # type: ignore[func-returns-value]
    gc.collect()  # a coroutine that was never awaited would be an error here
    assert subject.opened_in is None


# -- a loop that closes --------------------------------------------------------------------------------------------------


def test_a_loop_says_that_it_is_closed_as_soon_as_it_refuses_calls_and_not_before() -> None:
    refused: list[BaseException] = []

    def call_until_closed(loop: asyncio.AbstractEventLoop) -> None:
        while not loop.is_closed():
            try:
                loop.call_soon_threadsafe(int)
            except RuntimeError as error:
                if not loop.is_closed():
                    refused.append(error)
                return
            time.sleep(0)

    for _ in range(100):
        loop = bridge.new_event_loop()
        thread = threading.Thread(target=call_until_closed, args=(loop,))
        thread.start()
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()
        within(thread)
    assert not refused


def test_what_a_closing_loop_accepts_is_run_or_refused() -> None:
    # Sent between the loop's last round and its end: the caller is told, whichever thread asks.
    for _ in range(50):
        loop = bridge.new_event_loop()
        portal = loop.run_until_complete(portal_of_this_loop())
        outcomes: list[object] = []

        def ask(portal: bridge.Portal = portal, outcomes: list[object] = outcomes) -> None:
            try:
                outcomes.append(portal.call(int))
            except bridge.LoopClosed as error:
                outcomes.append(error)

        threads = [threading.Thread(target=ask) for _ in range(3)]
        for thread in threads:
            thread.start()
        loop.close()
        for thread in threads:
            within(thread)
        assert len(outcomes) == len(threads)


async def portal_of_this_loop() -> bridge.Portal:
    return bridge.portal()


# -- exits ---------------------------------------------------------------------------------------------------------------


def leave(error: BaseException) -> None:
    raise error


async def leave_later(error: BaseException) -> None:
    await anyio.sleep(0)
    raise error


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize("thread", ["a worker", "a thread of the program"])
@pytest.mark.parametrize("fn", [leave, leave_later], ids=["sync", "async"])
@pytest.mark.parametrize(
    "error", [SystemExit(3), KeyboardInterrupt("from a call")], ids=["SystemExit", "KeyboardInterrupt"]
)
def test_an_exit_out_of_a_called_function_ends_the_run(
    backend: Any, thread: str, fn: Callable[[BaseException], Awaitable[None] | None], error: BaseException
) -> None:
    told: list[BaseException] = []

    def in_thread(portal: bridge.Portal) -> None:
        try:
            portal.call(fn, error)  # type: ignore[arg-type]
        except BaseException as reason:
            told.append(reason)

    async def main() -> None:
        portal = bridge.portal()
        if thread == "a worker":
            await bridge.to_thread(in_thread, portal)
        else:
            threads.append(threading.Thread(target=in_thread, args=(portal,)))
            threads[0].start()
        await anyio.sleep_forever()

    threads: list[threading.Thread] = []
    with pytest.raises(type(error)) as raised:
        bridge.run(main, backend=backend)
    for each in threads:
        within(each)
    assert raised.value is error
    assert isinstance(told[0], type(error))


# -- while the interpreter ends ------------------------------------------------------------------------------------------

FINALIZERS = {
    "call": "self.portal.call(nothing)",
    "enter": "self.portal.enter(context()).__enter__()",
    "leave": "self.context.__exit__(None, None, None)",
    "iterate": "next(self.portal.iterate(rows()))",
    "next": "next(self.iterator)",
    "run_coroutine_threadsafe": "self.portal.run_coroutine_threadsafe(nothing()).result()",
    "result": "self.future.result()",
    "scope": "self.scope.__exit__(None, None, None); raise bridge.LoopClosed('as well')",
}

PROGRAM = """
import asyncio, contextlib, sys
from concurrent.futures import CancelledError as cancelled
import bridge

async def nothing(): pass
async def for_ever(): await asyncio.sleep(1000)
async def rows(): yield 1; yield 2

@contextlib.asynccontextmanager
async def context(): yield 1

class Client:
    def __init__(self):
        self.scope = bridge.background_loop(loop_factory=FACTORY)
        self.portal = self.scope.__enter__()
        self.context = self.portal.enter(context())
        self.context.__enter__()
        self.iterator = self.portal.iterate(rows())
        next(self.iterator)
        self.future = self.portal.run_coroutine_threadsafe(for_ever())

    def __del__(self, bridge=bridge, say=print, finalizing=sys.is_finalizing, cancelled=cancelled):
        try:
            USE
        except (bridge.LoopClosed, cancelled) as error:
            say("told", finalizing(), flush=True)

client = Client()
client.cycle = client
sys.stderr = None  # what is never left is reported there
"""


def run(program: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=3 * PATIENCE, check=False
    )


@pytest.mark.parametrize("factory", ["bridge.new_event_loop", "None"])
@pytest.mark.parametrize("use", FINALIZERS)
def test_a_finalizer_that_uses_a_portal_while_the_interpreter_ends_is_told(use: str, factory: str) -> None:
    program = PROGRAM.replace("USE", FINALIZERS[use]).replace("FACTORY", factory)
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=3 * PATIENCE, check=False
    )
    assert run.stdout == "told True\n"


def test_a_generator_that_owns_a_background_loop_holds_up_no_interpreter() -> None:
    program = """
        import bridge

        def numbers():
            with bridge.background_loop() as portal:
                yield portal.call(int)

        generator = numbers()
        print(next(generator), flush=True)
    """
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        capture_output=True,
        text=True,
        timeout=3 * PATIENCE,
        check=False,
    )
    assert run.stdout == "0\n"
    assert "BRG404" not in run.stderr
    assert run.returncode == 0


# -- futures that a signal handler interrupts --------------------------------------------------------------------------


def test_a_future_that_was_interrupted_at_any_bytecode_can_still_be_answered() -> None:
    def counts(code: CodeType, offset: int) -> bool:
        ours = of_bridge(code, offset) or code.co_filename == concurrent.futures._base.__file__
        return ours and where_handlers_run(code, offset)

    with bridge.ThreadExecutor(1) as executor:
        gates: list[Gate] = []

        def use() -> None:
            gate = Gate()
            gates.append(gate)
            future = executor.submit(gate.wait)
            futures.append(future)
            for _ in range(2):
                try:
                    future.result(0.001)
                except concurrent.futures.TimeoutError:
                    pass
            gate.open()
            future.result(PATIENCE)

        futures: list[concurrent.futures.Future[Any]] = []
        for position in interruptions(use, counts=counts):
            gates[-1].open()
            while futures:
                assert futures.pop().result(PATIENCE) is None, str(position)
            assert executor.submit(int).result(PATIENCE) == 0, str(position)

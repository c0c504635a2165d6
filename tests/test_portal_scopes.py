"""Scopes held open from a thread: `portal.enter`, `portal.iterate`, and the portal itself as a context manager.

Each test works on the loop of `anyio_backend` and does its blocking part in a worker of that loop.
"""

from __future__ import annotations

import contextvars
import sys
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from concurrent.futures import Future
from contextlib import asynccontextmanager, closing
from types import TracebackType

import anyio
import anyio.to_thread
import pytest
from anyio.abc import TaskGroup

import bridge
from bridge.threads.calls import Call
from tests.conftest import PATIENCE, Gate, within

pytestmark = pytest.mark.anyio

var: contextvars.ContextVar[str] = contextvars.ContextVar("var", default="unset")


class Recorder:
    """An async context manager that notes what it is told, and where."""

    def __init__(self, *, suppress: bool = False, fail: BaseException | None = None):
        self.suppress = suppress
        self.fail = fail
        self.tasks: list[anyio.TaskInfo] = []
        self.threads: list[int] = []
        self.left_by: list[BaseException | None] = []

    def _note(self) -> None:
        self.tasks.append(anyio.get_current_task())
        self.threads.append(threading.get_ident())

    async def __aenter__(self) -> str:
        await anyio.sleep(0)
        self._note()
        return "entered"

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        with anyio.CancelScope(shield=True):
            await anyio.sleep(0)
        self._note()
        self.left_by.append(error)
        if self.fail is not None:
            raise self.fail
        return self.suppress


# -- enter -------------------------------------------------------------------------------------------------------------


async def test_enter_gives_the_value_and_leaves_in_the_task_that_entered() -> None:
    recorder = Recorder()

    def in_thread() -> str:
        with bridge.portal().enter(recorder) as value:
            assert not recorder.left_by
            return value

    assert await bridge.to_thread(in_thread) == "entered"
    entered, left = recorder.tasks
    assert entered == left
    assert recorder.threads == [threading.get_ident()] * 2
    assert recorder.left_by == [None]


async def test_scopes_that_insist_on_their_task_can_be_entered() -> None:
    def in_thread() -> bool:
        with bridge.portal().enter(bridge.portal().call(anyio.create_task_group)) as tasks:
            done = bridge.portal().call(anyio.Event)
            bridge.portal().call_soon_threadsafe(tasks.start_soon, finish, done)
        return done.is_set()

    async def finish(done: anyio.Event) -> None:
        await anyio.sleep(0)
        done.set()

    assert await bridge.to_thread(in_thread)


async def test_the_entering_threads_context_is_seen_and_stays_with_the_scope() -> None:
    seen: list[str] = []

    @asynccontextmanager
    async def scope() -> AsyncGenerator[None]:
        seen.append(var.get())
        var.set("set on entering")
        yield
        seen.append(var.get())

    def in_thread() -> str:
        var.set("from the thread")
        with bridge.portal().enter(scope()):
            pass
        return var.get()

    assert await bridge.to_thread(in_thread) == "from the thread"
    assert seen == ["from the thread", "set on entering"]


async def test_an_exception_in_the_block_is_shown_to_the_scope_and_goes_on() -> None:
    recorder = Recorder()
    error = ValueError("in the block")

    def in_thread() -> None:
        with bridge.portal().enter(recorder):
            raise error

    with pytest.raises(ValueError, match="in the block") as caught:
        await bridge.to_thread(in_thread)
    assert caught.value is error
    assert recorder.left_by == [error]


async def test_a_scope_may_suppress_the_exception() -> None:
    recorder = Recorder(suppress=True)

    def in_thread() -> str:
        with bridge.portal().enter(recorder):
            fail()
        return "goes on"

    def fail() -> None:
        raise ValueError

    assert await bridge.to_thread(in_thread) == "goes on"


async def test_an_exception_on_leaving_is_raised_with_the_blocks_as_its_context() -> None:
    recorder = Recorder(fail=KeyError("on leaving"))

    def in_thread() -> None:
        with bridge.portal().enter(recorder):
            raise ValueError("in the block")

    with pytest.raises(KeyError) as caught:
        await bridge.to_thread(in_thread)
    assert isinstance(caught.value.__context__, ValueError)


async def test_an_exception_on_entering_is_raised_and_nothing_is_left() -> None:
    class Shut(Recorder):
        async def __aenter__(self) -> str:
            raise KeyError("no entry")

    recorder = Shut()

    def in_thread() -> None:
        with bridge.portal().enter(recorder):
            pytest.fail("was entered")

    with pytest.raises(KeyError, match="no entry"):
        await bridge.to_thread(in_thread)
    assert not recorder.left_by


async def test_entering_again_needs_another_enter() -> None:
    def in_thread() -> None:
        scope = bridge.portal().enter(Recorder())
        with scope:
            with pytest.raises(RuntimeError, match=r"already entered: call portal\.enter\(\.\.\.\) again"):
                scope.__enter__()

    await bridge.to_thread(in_thread)


async def test_two_scopes_may_be_left_in_any_order() -> None:
    def in_thread() -> list[str]:
        first, second = Recorder(), Recorder()
        one, two = bridge.portal().enter(first), bridge.portal().enter(second)
        one.__enter__()
        two.__enter__()
        one.__exit__(None, None, None)
        assert not second.left_by
        two.__exit__(None, None, None)
        return [*map(str, first.left_by), *map(str, second.left_by)]

    assert await bridge.to_thread(in_thread) == ["None", "None"]


async def test_a_job_cancelled_inside_the_block_still_leaves_the_scope(new_gate: type[Gate]) -> None:
    recorder, inside = Recorder(), new_gate()

    async def wait() -> None:
        inside.open()
        await anyio.sleep_forever()

    def in_thread() -> None:
        with bridge.portal().enter(recorder):
            bridge.portal().call(wait)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(bridge.to_thread, in_thread)
        await inside.reached()
        tasks.cancel_scope.cancel()
    (error,) = recorder.left_by
    assert error is not None
    assert type(error).__name__ in ("Cancelled", "CancelledError")
    assert recorder.tasks[0] == recorder.tasks[1]


async def test_a_job_cancelled_while_it_enters_does_not_get_in(new_gate: type[Gate]) -> None:
    entering = new_gate()
    log: list[str] = []

    @asynccontextmanager
    async def slow() -> AsyncGenerator[None]:
        entering.open()
        try:
            await anyio.sleep_forever()
            yield
        finally:
            log.append("entering was cancelled")

    def in_thread() -> None:
        with bridge.portal().enter(slow()):
            log.append("got in")

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(bridge.to_thread, in_thread)
        await entering.reached()
        tasks.cancel_scope.cancel()
    assert log == ["entering was cancelled"]


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_loop_that_ends_leaves_the_scope_in_its_task_and_tells_the_thread(backend: str, new_gate: type[Gate]) -> None:
    recorder, inside, ended = Recorder(), new_gate(), new_gate()
    told: list[BaseException] = []

    def in_thread(portal: bridge.Portal) -> None:
        try:
            with portal.enter(recorder):
                inside.open()
                ended.wait()
        except BaseException as error:
            told.append(error)

    async def main() -> threading.Thread:
        thread = threading.Thread(target=in_thread, args=(bridge.portal(),))
        thread.start()
        await inside.reached()
        return thread

    thread = bridge.run(main, backend=backend)  # type: ignore[arg-type]
    assert recorder.tasks[0] == recorder.tasks[1]
    ended.open()
    within(thread)
    (error,) = told
    assert isinstance(error, bridge.LoopClosed)
    assert len(recorder.left_by) == 1


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_task_that_fails_in_an_entered_task_group_is_raised_on_leaving(backend: str, new_gate: type[Gate]) -> None:
    failed = new_gate()

    async def fail() -> None:
        failed.open()
        raise ZeroDivisionError("in a task of the group")

    def in_thread(portal: bridge.Portal) -> None:
        async def start() -> None:
            tasks.start_soon(fail)

        with portal.enter(task_group()) as tasks:
            portal.call(start)
            failed.wait()
            portal.call(anyio.sleep, 0)  # the group cancels its body, which is this thread's block

    with pytest.raises(ExceptionGroup) as caught:
        bridge.run(in_plain_thread, in_thread, new_gate(), backend=backend)  # type: ignore[arg-type]
    assert caught.group_contains(ZeroDivisionError, match="in a task of the group")


@asynccontextmanager
async def task_group() -> AsyncGenerator[TaskGroup]:
    """A group that is made on the loop, because anyio asks there which loop it is."""
    async with anyio.create_task_group() as tasks:
        yield tasks


async def in_plain_thread(fn: Callable[[bridge.Portal], object], ended: Gate) -> object:
    """What `fn` comes to in a thread that is waited for within PATIENCE, whatever happens to this loop."""
    outcome: Future[object] = Future()

    def work(portal: bridge.Portal) -> None:
        try:
            outcome.set_result(fn(portal))
        except BaseException as error:
            outcome.set_exception(error)
        ended.open()

    threading.Thread(target=work, args=(bridge.portal(),), daemon=True).start()
    await ended.reached()
    return outcome.result(0)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_scope_that_was_cancelled_from_within_is_left_as_any_other(backend: str, new_gate: type[Gate]) -> None:
    @asynccontextmanager
    async def async_cancel_scope() -> AsyncGenerator[anyio.CancelScope]:
        with anyio.CancelScope() as own:
            yield own

    def in_thread(portal: bridge.Portal) -> str:
        with portal.enter(async_cancel_scope()) as own:
            portal.call(own.cancel)
            portal.call(anyio.sleep, 0)
        return "left"

    assert bridge.run(in_plain_thread, in_thread, new_gate(), backend=backend) == "left"  # type: ignore[arg-type]


# -- iterate -----------------------------------------------------------------------------------------------------------


class Counting:
    """Counts up on demand, noting how far it was asked to and how it ended."""

    def __init__(self, stop: int = 1_000_000, fail_at: int = -1):
        self.asked = 0
        self.tasks: set[anyio.TaskInfo] = set()
        self.closed_in: anyio.TaskInfo | None = None
        self._stop = stop
        self._fail_at = fail_at

    async def numbers(self) -> AsyncGenerator[int]:
        try:
            for number in range(self._stop):
                self.asked += 1
                self.tasks.add(anyio.get_current_task())
                await anyio.sleep(0)
                if number == self._fail_at:
                    raise ZeroDivisionError("half-way")
                yield number
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(0)
            self.closed_in = anyio.get_current_task()


async def test_iterate_gives_the_items_in_order_from_one_task() -> None:
    counting = Counting(stop=50)
    assert await bridge.to_thread(lambda: list(bridge.portal().iterate(counting.numbers()))) == list(range(50))
    (task,) = counting.tasks
    assert counting.closed_in == task


async def test_iterate_asks_for_nothing_before_it_is_wanted() -> None:
    counting = Counting()

    def in_thread() -> list[int]:
        iterator = bridge.portal().iterate(counting.numbers())
        asked = [counting.asked]
        for _ in range(3):
            next(iterator)
            asked.append(counting.asked)
        iterator.close()  # type: ignore[attr-defined]
        return asked

    assert await bridge.to_thread(in_thread) == [0, 1, 2, 3]


async def test_leaving_a_for_early_closes_the_generator_in_its_task() -> None:
    counting = Counting()

    def in_thread() -> list[int]:
        taken = []
        with closing(bridge.portal().iterate(counting.numbers())) as iterator:  # type: ignore[type-var]
            for number in iterator:
                taken.append(number)
                if number == 2:
                    break
        assert counting.closed_in is not None
        return taken

    assert await bridge.to_thread(in_thread) == [0, 1, 2]
    assert counting.tasks == {counting.closed_in}


async def test_an_exception_in_the_loop_body_closes_the_generator() -> None:
    counting = Counting()

    def in_thread() -> None:
        with closing(bridge.portal().iterate(counting.numbers())) as iterator:  # type: ignore[type-var]
            for _ in iterator:
                raise KeyError("in the body")

    with pytest.raises(KeyError, match="in the body"):
        await bridge.to_thread(in_thread)
    assert counting.tasks == {counting.closed_in}


async def test_an_exception_in_the_generator_is_raised_after_the_items_before_it() -> None:
    counting = Counting(fail_at=2)
    taken = []

    def in_thread() -> None:
        for number in bridge.portal().iterate(counting.numbers()):
            taken.append(number)  # noqa: PERF402

    with pytest.raises(ZeroDivisionError, match="half-way"):
        await bridge.to_thread(in_thread)
    assert taken == [0, 1]


async def test_an_async_iterable_without_aclose_is_iterated_too() -> None:
    class Letters:
        def __init__(self) -> None:
            self.left = list("cba")

        def __aiter__(self) -> AsyncIterator[str]:
            return self

        async def __anext__(self) -> str:
            if not self.left:
                raise StopAsyncIteration
            return self.left.pop()

    assert await bridge.to_thread(lambda: list(bridge.portal().iterate(Letters()))) == ["a", "b", "c"]


async def test_context_variables_stay_with_the_iteration() -> None:
    async def remembering() -> AsyncGenerator[str]:
        yield var.get()
        var.set("set by the generator")
        yield var.get()
        yield var.get()

    def in_thread() -> tuple[list[str], str]:
        var.set("from the thread")
        return list(bridge.portal().iterate(remembering())), var.get()

    seen, own = await bridge.to_thread(in_thread)
    assert seen == ["from the thread", "set by the generator", "set by the generator"]
    assert own == "from the thread"


async def test_a_job_cancelled_while_it_waits_for_an_item_ends_the_generator(new_gate: type[Gate]) -> None:
    waiting, ended = new_gate(), new_gate()

    async def never() -> AsyncGenerator[int]:
        try:
            yield 1
            waiting.open()
            await anyio.sleep_forever()
        finally:
            ended.open()

    def in_thread() -> None:
        for _ in bridge.portal().iterate(never()):
            pass

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(bridge.to_thread, in_thread)
        await waiting.reached()
        tasks.cancel_scope.cancel()
    assert ended.is_open()


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_loop_that_ends_closes_the_generator_and_tells_the_thread(backend: str, new_gate: type[Gate]) -> None:
    counting, taken, ended = Counting(), new_gate(), new_gate()
    told: list[BaseException] = []

    def in_thread(portal: bridge.Portal) -> None:
        try:
            for _ in portal.iterate(counting.numbers()):
                taken.open()
                ended.wait()
        except BaseException as error:
            told.append(error)

    async def main() -> threading.Thread:
        thread = threading.Thread(target=in_thread, args=(bridge.portal(),))
        thread.start()
        await taken.reached()
        return thread

    thread = bridge.run(main, backend=backend)  # type: ignore[arg-type]
    assert counting.closed_in is not None
    ended.open()
    within(thread)
    (error,) = told
    assert isinstance(error, bridge.LoopClosed)


# -- the portal as a scope ---------------------------------------------------------------------------------------------


async def test_leaving_a_portal_waits_for_what_was_started_through_it() -> None:
    ended: list[int] = []

    async def work(number: int) -> None:
        for _ in range(number):
            await anyio.sleep(0)
        ended.append(number)

    def in_thread() -> list[int]:
        with bridge.portal() as portal:
            for number in range(10):
                portal.run_coroutine_threadsafe(work(number))
        return sorted(ended)

    assert await bridge.to_thread(in_thread) == list(range(10))


async def test_leaving_a_portal_by_an_exception_cancels_what_was_started_through_it(new_gate: type[Gate]) -> None:
    started = new_gate()
    futures: list[Future[None]] = []

    async def forever() -> None:
        started.open()
        await anyio.sleep_forever()

    def in_thread() -> None:
        with bridge.portal() as portal:
            futures.append(portal.run_coroutine_threadsafe(forever()))
            started.wait()
            raise KeyError("in the block")

    with pytest.raises(KeyError, match="in the block"):
        await bridge.to_thread(in_thread)
    assert futures[0].cancelled()


async def test_leaving_a_portal_by_an_exception_waits_for_the_clean_up(new_gate: type[Gate]) -> None:
    started = new_gate()
    log: list[str] = []

    def in_thread() -> None:
        try:
            with bridge.portal() as portal:
                portal.run_coroutine_threadsafe(slow_to_end(started, log))
                started.wait()
                raise KeyError
        except KeyError:
            log.append("left")

    await bridge.to_thread(in_thread)
    assert log == ["cleaned up", "left"]


async def slow_to_end(started: Gate, log: list[str]) -> None:
    """Runs until it is cancelled, and then takes a few rounds of the loop to clean up."""
    started.open()
    try:
        await anyio.sleep_forever()
    finally:
        with anyio.CancelScope(shield=True):
            for _ in range(5):
                await anyio.sleep(0.001)
        log.append("cleaned up")


async def test_a_portal_is_an_async_scope_on_its_own_loop(new_gate: type[Gate]) -> None:
    ended: list[int] = []

    async def work() -> None:
        await anyio.sleep(0)
        ended.append(1)

    async with bridge.portal() as portal:
        future = portal.run_coroutine_threadsafe(work())
        assert not future.done()
    assert ended == [1]
    assert future.done()


async def test_a_cancelled_async_scope_waits_for_the_clean_up_of_what_it_cancels(new_gate: type[Gate]) -> None:
    started = new_gate()
    log: list[str] = []
    with anyio.CancelScope() as cancelled:
        async with bridge.portal() as portal:
            portal.run_coroutine_threadsafe(slow_to_end(started, log))
            await started.reached()
            cancelled.cancel()
            await anyio.sleep(PATIENCE)
    log.append("left")
    assert log == ["cleaned up", "left"]


async def test_cancelled_while_it_leaves_an_async_scope_cancels_what_it_waits_for(new_gate: type[Gate]) -> None:
    started, stop_anyway = new_gate(), new_gate()
    log: list[str] = []

    async def work() -> None:
        started.open()
        try:
            await stop_anyway.reached()
            log.append("was not cancelled")
        except anyio.get_cancelled_exc_class():
            log.append("cancelled")
            raise

    async def scope() -> None:
        async with bridge.portal() as portal:
            portal.run_coroutine_threadsafe(work())

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(scope)
        await started.reached()
        tasks.cancel_scope.cancel()
        with anyio.move_on_after(1, shield=True):  # the time after which the coroutine ends all the same
            while not log:
                await anyio.sleep(0.001)
        stop_anyway.open()
    assert log == ["cancelled"]


async def test_a_portal_cannot_be_entered_twice_at_a_time() -> None:
    with bridge.portal() as portal:
        with pytest.raises(RuntimeError, match=r"already entered: call bridge\.portal\(\) again"):
            portal.__enter__()
    with portal:
        pass


async def test_leaving_a_blocking_scope_on_its_own_loop_is_refused() -> None:
    portal = bridge.portal()
    portal.__enter__()
    future = portal.run_coroutine_threadsafe(anyio.sleep(0))
    with pytest.raises(bridge.WouldDeadlock, match="async with portal"):
        portal.__exit__(None, None, None)
    await anyio.to_thread.run_sync(future.exception, PATIENCE)


# -- refused while a scope is open -------------------------------------------------------------------------------------


def test_a_coroutine_that_was_refused_does_not_keep_its_scope_from_being_left() -> None:
    with bridge.background_loop() as portal:
        pass
    left = threading.Event()

    def leave() -> None:
        with portal, pytest.raises(bridge.LoopClosed):
            portal.run_coroutine_threadsafe(anyio.sleep(0))
        left.set()

    thread = threading.Thread(target=leave, daemon=True)
    thread.start()
    thread.join(PATIENCE / 5)
    assert left.is_set()


def test_a_call_that_was_refused_stays_refused_when_it_is_refused_again() -> None:
    with bridge.background_loop() as portal:
        pass
    call = Call(portal._host, int, (), {})
    call.refuse(bridge.LoopClosed("once"))
    call.refuse(bridge.LoopClosed("twice"))
    assert call.refused
    with pytest.raises(bridge.LoopClosed, match="once"):
        call.unwrap()


# -- the end of a wait for what `with portal` has started ----------------------------------------------------------------


class Started:
    """A coroutine that runs until it is cancelled, and whether it was."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.ended = threading.Event()

    async def run(self) -> None:
        self.begun.set()
        try:
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(0)
            self.ended.set()


SENDERS = {"bridge": bridge.to_thread, "anyio": lambda fn: anyio.to_thread.run_sync(fn, abandon_on_cancel=False)}


@pytest.mark.parametrize("sender", SENDERS)
async def test_a_cancelled_function_does_not_wait_for_what_its_scope_has_started_but_for_its_end(sender: str) -> None:
    started, after = Started(), []

    def work() -> None:
        with bridge.portal() as portal:
            portal.run_coroutine_threadsafe(started.run())
        after.append("the wait came back without an exception")

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(SENDERS[sender], work)
        while not started.begun.is_set():
            await anyio.sleep(0.001)
        tasks.cancel_scope.cancel()
    assert started.ended.is_set()
    assert after == []


@pytest.mark.skipif(sys.platform == "win32", reason="sends a signal to a thread")
async def test_ctrl_c_while_a_scope_is_left_cancels_what_it_has_started() -> None:
    """In a program of its own, where the main thread waits."""
    code = """
import asyncio, os, signal, bridge

async def job(portal):
    while portal._started is not None:
        await asyncio.sleep(0.001)
    os.kill(os.getpid(), signal.SIGINT)
    try:
        await asyncio.sleep(3600)
    finally:
        await asyncio.sleep(0)
        print("cleaned up")

with bridge.background_loop() as loop:
    try:
        with loop as portal:
            portal.run_coroutine_threadsafe(job(portal))
    except KeyboardInterrupt:
        print("interrupted")
"""
    ran = await anyio.run_process([sys.executable, "-c", code], stderr=None, check=True)
    assert ran.stdout.decode().split("\n") == ["cleaned up", "interrupted", ""]

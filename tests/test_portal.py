"""From a thread into a loop: `portal`, `call`, `call_soon_threadsafe`, `run_coroutine_threadsafe`, `syncify`."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import logging
import random
import threading
from collections import Counter
from collections.abc import Callable, Generator
from concurrent.futures import CancelledError, Future
from concurrent.futures import wait as wait_for_futures
from contextlib import contextmanager
from typing import Any, assert_type

import anyio
import anyio.to_thread
import pytest

import bridge
from tests.conftest import PATIENCE, Gate, within

pytestmark = pytest.mark.anyio

var: contextvars.ContextVar[str] = contextvars.ContextVar("var", default="unset")


async def double(number: int, *, plus: int = 0) -> int:
    await anyio.sleep(0)
    return 2 * number + plus


class Odd(BaseException):
    """Not an Exception, and unknown to every loop."""


@contextmanager
def held(portal: bridge.Portal, open_gate: type[Gate]) -> Generator[None]:
    """Keep the loop's thread busy for the time of a block, so that nothing sent meanwhile can start."""
    busy, let_go = open_gate(), open_gate()

    def hold() -> None:
        busy.open()
        let_go.wait()

    portal.call_soon_threadsafe(hold)
    busy.wait()
    try:
        yield
    finally:
        let_go.open()


def all_within(threads: list[threading.Thread]) -> None:
    for thread in threads:
        within(thread)


# -- which loop --------------------------------------------------------------------------------------------------------


async def test_on_the_loop_the_portal_leads_into_that_loop() -> None:
    portal = bridge.portal()
    assert await anyio.to_thread.run_sync(portal.call, threading.get_ident) == threading.get_ident()


async def test_in_a_worker_the_portal_leads_into_the_loop_that_sent_the_work() -> None:
    assert await bridge.to_thread(lambda: bridge.portal().call(threading.get_ident)) == threading.get_ident()


async def test_in_a_job_submitted_on_the_loop_the_portal_leads_into_that_loop() -> None:
    async with bridge.ThreadExecutor(1) as executor:
        future = executor.submit(lambda: bridge.portal().call(threading.get_ident))
        assert await anyio.to_thread.run_sync(future.result, PATIENCE) == threading.get_ident()


def test_in_a_thread_that_no_loop_sent_there_is_no_portal() -> None:
    with pytest.raises(bridge.WrongThread, match=r"bridge\.to_thread\(.*bridge\.background_loop\(\) as portal"):
        bridge.portal()


def test_in_a_job_that_no_loop_sent_there_is_no_portal() -> None:
    with bridge.ThreadExecutor(1) as executor:
        with pytest.raises(bridge.WrongThread):
            executor.submit(bridge.portal).result(PATIENCE)


async def test_a_loop_run_inside_a_worker_has_a_portal_of_its_own() -> None:
    async def inner() -> bool:
        here = threading.get_ident()
        return await anyio.to_thread.run_sync(bridge.portal().call, threading.get_ident) == here

    assert await bridge.to_thread(bridge.run, inner)


async def test_the_repr_says_into_which_loop(loop_name: str) -> None:
    kind = {"bridge": "bridge EventLoop", "asyncio": "asyncio ", "uvloop": "uvloop Loop", "trio": "trio run"}[loop_name]
    assert repr(bridge.portal()).startswith(f"<bridge.Portal into <{kind}")


# -- call --------------------------------------------------------------------------------------------------------------


async def test_calls_a_plain_function_on_the_loop() -> None:
    def join(*parts: str, sep: str) -> tuple[int, str]:
        return threading.get_ident(), sep.join(parts)

    answer = await bridge.to_thread(lambda: bridge.portal().call(join, "a", "b", sep="-"))
    assert answer == (threading.get_ident(), "a-b")


async def test_calls_an_async_function_and_awaits_it() -> None:
    assert await bridge.to_thread(lambda: bridge.portal().call(double, 20, plus=2)) == 42


async def test_awaits_an_awaitable_that_is_not_a_coroutine() -> None:
    class Delayed:
        def __await__(self) -> Generator[Any, None, str]:
            yield from anyio.sleep(0).__await__()
            return "delayed"

    answer: object = await bridge.to_thread(lambda: bridge.portal().call(Delayed))
    assert answer == "delayed"


async def test_awaits_the_future_that_a_plain_function_returns(loop_name: str) -> None:
    if loop_name == "trio":
        pytest.skip("trio has no futures")

    def soon() -> asyncio.Future[str]:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[str] = loop.create_future()
        loop.call_soon(future.set_result, "set later")
        return future

    answer: object = await bridge.to_thread(lambda: bridge.portal().call(soon))
    assert answer == "set later"


async def test_returns_none_and_exceptions_as_values() -> None:
    error = ValueError("a value, not raised")
    nothing: object = await bridge.to_thread(lambda: bridge.portal().call(dict[str, int]().get, "missing"))
    assert nothing is None
    assert await bridge.to_thread(lambda: bridge.portal().call(lambda: error)) is error


@pytest.mark.parametrize("kind", [ValueError, LookupError, Odd, RecursionError])
@pytest.mark.parametrize("is_async", [False, True], ids=["plain", "async"])
async def test_raises_what_the_function_raises(kind: type[BaseException], is_async: bool) -> None:
    def fail() -> None:
        raise kind("on the loop")

    async def fail_later() -> None:
        await anyio.sleep(0)
        raise kind("on the loop")

    def call() -> BaseException:
        with pytest.raises(kind, match="on the loop") as caught:
            bridge.portal().call(fail_later if is_async else fail)
        return caught.value

    error = await anyio.to_thread.run_sync(_in_worker_of(bridge.portal(), call))
    assert type(error) is kind
    assert await bridge.to_thread(lambda: "the loop goes on") == "the loop goes on"


def _in_worker_of(portal: bridge.Portal, fn: Callable[[], Any]) -> Callable[[], Any]:
    """Run `fn` in a worker that `portal`'s loop has sent, and wait for it in a plain thread."""
    return lambda: portal.call(bridge.to_thread, fn)


async def test_stop_iteration_comes_out_of_a_plain_function_as_itself() -> None:
    def call() -> Any:
        with pytest.raises(StopIteration) as caught:
            bridge.portal().call(next, iter(()))
        return caught.value.value

    assert await bridge.to_thread(call) is None


async def test_stop_iteration_out_of_an_async_function_is_pythons_runtime_error() -> None:
    async def stop() -> None:
        raise StopIteration

    def call() -> None:
        with pytest.raises(RuntimeError, match="coroutine raised StopIteration"):
            bridge.portal().call(stop)

    await bridge.to_thread(call)


async def test_the_callers_context_travels_into_the_call_and_does_not_come_back() -> None:
    async def seen() -> str:
        value = var.get()
        var.set("from the loop")
        return value

    def call() -> tuple[str, str]:
        var.set("from the thread")
        return bridge.portal().call(seen), var.get()

    assert await bridge.to_thread(call) == ("from the thread", "from the thread")
    assert var.get() == "unset"


async def test_a_plain_function_sees_the_callers_context_too() -> None:
    def call() -> str:
        var.set("from the thread")
        return bridge.portal().call(var.get)

    assert await bridge.to_thread(call) == "from the thread"


async def test_one_portal_serves_many_plain_threads_at_once() -> None:
    portal = bridge.portal()
    results: list[int] = []

    def many(number: int) -> None:
        results.extend([portal.call(double, 20 * number + step) for step in range(20)])

    threads = [threading.Thread(target=many, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    await anyio.to_thread.run_sync(all_within, threads)
    assert sorted(results) == [2 * number for number in range(320)]


async def test_an_error_does_not_keep_the_arguments_of_the_call_alive() -> None:
    import weakref

    class Big:
        pass

    def fail(argument: object) -> None:
        raise ValueError

    def call() -> Any:
        big = Big()
        seen = weakref.ref(big)
        try:
            bridge.portal().call(fail, big)
        except ValueError:
            pass
        del big
        return seen()

    gc.collect()
    gc.disable()
    try:
        assert await bridge.to_thread(call) is None
    finally:
        gc.enable()


# -- there and back ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("depth", [1, 2, 10])
async def test_loop_thread_loop_thread_completes_with_one_worker(depth: int) -> None:
    async with bridge.ThreadExecutor(1) as executor:

        async def on_loop(left: int) -> int:
            return await executor.run(in_thread, left)

        def in_thread(left: int) -> int:
            return 1 if left == 0 else 1 + bridge.portal().call(on_loop, left - 1)

        with anyio.fail_after(PATIENCE):
            assert await on_loop(depth) == depth + 1


async def test_many_nested_calls_at_once_never_run_more_functions_than_workers() -> None:
    running, most = 0, 0
    lock = threading.Lock()

    @contextmanager
    def counted() -> Generator[None]:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        try:
            yield
        finally:
            with lock:
                running -= 1

    async with bridge.ThreadExecutor(2) as executor:

        async def on_loop(left: int) -> None:
            await executor.run(in_thread, left)

        def in_thread(left: int) -> None:
            with counted():
                pass
            if left:
                bridge.portal().call(on_loop, left - 1)
            with counted():
                pass

        with anyio.fail_after(PATIENCE):
            async with anyio.create_task_group() as tasks:
                for _ in range(10):
                    tasks.start_soon(on_loop, 4)
    assert most <= 2


async def test_waiting_for_a_portal_future_lends_the_slot() -> None:
    async with bridge.ThreadExecutor(1) as executor:

        def in_thread() -> int:
            return bridge.portal().run_coroutine_threadsafe(executor.run(lambda: 7)).result(PATIENCE)

        with anyio.fail_after(PATIENCE):
            assert await executor.run(in_thread) == 7


# -- refused: it would wait for itself ---------------------------------------------------------------------------------


async def test_a_call_into_ones_own_loop_is_refused_and_names_both_ends() -> None:
    portal = bridge.portal()
    with pytest.raises(bridge.WouldDeadlock, match=r"write `await double\(\.\.\.\)`") as caught:
        portal.call(double, 1)
    assert threading.current_thread().name in str(caught.value)
    assert repr(portal)[len("<bridge.Portal into ") : -1] in str(caught.value)
    assert f"{__name__}.double" in str(caught.value)


async def test_the_line_for_a_plain_function_needs_no_await() -> None:
    with pytest.raises(bridge.WouldDeadlock, match=r"write `len\(\.\.\.\)`"):
        bridge.portal().call(len, "abc")


async def test_a_blocking_call_into_another_loop_is_refused_and_names_both_ends() -> None:
    with bridge.background_loop() as portal:
        with pytest.raises(bridge.WrongThread, match=r"await bridge\.to_thread\(") as caught:
            portal.call(double, 1)
        assert threading.current_thread().name in str(caught.value)
        assert repr(portal)[len("<bridge.Portal into ") : -1] in str(caught.value)


async def test_a_refused_call_runs_nothing() -> None:
    ran = []
    with pytest.raises(bridge.WouldDeadlock):
        bridge.portal().call(lambda: ran.append(1))
    await anyio.sleep(0)
    assert not ran


async def test_waiting_for_a_portal_future_on_its_own_loop_is_refused() -> None:
    future = bridge.portal().run_coroutine_threadsafe(double(1))
    with pytest.raises(bridge.WouldDeadlock, match="PortalFuture"):
        future.result(PATIENCE)
    with pytest.raises(bridge.WouldDeadlock, match="PortalFuture"):
        future.exception(PATIENCE)
    assert await anyio.to_thread.run_sync(future.result, PATIENCE) == 2
    assert future.result() == 2  # answered: nothing to wait for


async def test_asking_a_pending_future_without_waiting_is_not_refused() -> None:
    future = bridge.portal().run_coroutine_threadsafe(double(1))
    with pytest.raises(TimeoutError):
        future.result(timeout=0)
    await anyio.to_thread.run_sync(future.result, PATIENCE)


# -- call_soon_threadsafe ----------------------------------------------------------------------------------------------


async def test_callbacks_of_each_thread_run_once_and_in_order() -> None:
    portal = bridge.portal()
    seen: list[tuple[int, int]] = []
    each, threads = 500, 8

    def send(number: int) -> None:
        for step in range(each):
            portal.call_soon_threadsafe(seen.append, (number, step))

    senders = [threading.Thread(target=send, args=(number,)) for number in range(threads)]
    for sender in senders:
        sender.start()
    await anyio.to_thread.run_sync(all_within, senders)
    await anyio.to_thread.run_sync(portal.call, lambda: None)  # what was sent before has run
    assert [step for _, step in seen].count(0) == threads
    for number in range(threads):
        assert [step for n, step in seen if n == number] == list(range(each))


async def test_a_call_comes_after_the_callbacks_sent_before_it() -> None:
    order: list[int] = []

    def send() -> list[int]:
        portal = bridge.portal()
        for number in range(200):
            portal.call_soon_threadsafe(order.append, number)
        return portal.call(order.copy)

    assert await bridge.to_thread(send) == list(range(200))


async def test_call_soon_threadsafe_does_not_wait_and_works_on_the_loop_itself() -> None:
    ran = anyio.Event()
    bridge.portal().call_soon_threadsafe(ran.set)
    assert not ran.is_set()
    with anyio.fail_after(PATIENCE):
        await ran.wait()


async def test_call_soon_threadsafe_passes_arguments_and_context() -> None:
    seen: list[Any] = []

    def note(*args: object) -> None:
        seen.append((args, var.get()))

    def send() -> None:
        var.set("from the thread")
        bridge.portal().call_soon_threadsafe(note, 1, 2)
        bridge.portal().call(lambda: None)

    await bridge.to_thread(send)
    assert seen == [((1, 2), "from the thread")]


async def test_an_exception_in_a_callback_is_reported_and_the_others_run(
    loop_name: str, caplog: pytest.LogCaptureFixture
) -> None:
    ran: list[int] = []
    told: list[dict[str, Any]] = []

    def fail() -> None:
        raise ZeroDivisionError("in a callback")

    def send() -> None:
        portal = bridge.portal()
        portal.call_soon_threadsafe(ran.append, 1)
        portal.call_soon_threadsafe(fail)
        portal.call_soon_threadsafe(ran.append, 2)
        portal.call(lambda: None)

    if loop_name == "trio":  # which has no exception handler: logged
        with caplog.at_level(logging.ERROR, logger="bridge.loop"):
            await bridge.to_thread(send)
        (record,) = caplog.records
        assert record.exc_info is not None
        message, error = record.getMessage(), record.exc_info[1]
    else:
        with exception_handler(told.append):
            await bridge.to_thread(send)
        message, error = told[0]["message"], told[0]["exception"]
    assert ran == [1, 2]
    assert isinstance(error, ZeroDivisionError)
    assert "fail" in message


@contextmanager
def exception_handler(tell: Callable[[dict[str, Any]], object]) -> Generator[None]:
    loop = asyncio.get_running_loop()
    before = loop.get_exception_handler()
    loop.set_exception_handler(lambda loop, context: tell(context))
    try:
        yield
    finally:
        loop.set_exception_handler(before)


# -- run_coroutine_threadsafe ------------------------------------------------------------------------------------------


async def test_the_future_carries_the_result() -> None:
    def send() -> int:
        future = bridge.portal().run_coroutine_threadsafe(double(4))
        assert isinstance(future, Future)
        return future.result(PATIENCE)

    assert await bridge.to_thread(send) == 8


async def test_the_future_carries_the_exception() -> None:
    async def fail() -> None:
        raise KeyError("lost")

    def send() -> BaseException | None:
        return bridge.portal().run_coroutine_threadsafe(fail()).exception(PATIENCE)

    assert repr(await bridge.to_thread(send)) == "KeyError('lost')"


async def test_standard_waiting_functions_take_the_future() -> None:
    def send() -> list[int]:
        futures = [bridge.portal().run_coroutine_threadsafe(double(number)) for number in range(10)]
        done, pending = wait_for_futures(futures, timeout=PATIENCE)
        assert not pending
        return sorted(future.result() for future in done)

    assert await bridge.to_thread(send) == [2 * number for number in range(10)]


async def test_a_timeout_leaves_the_coroutine_running(gate: Gate) -> None:
    async def slow() -> str:
        await gate.reached()
        return "in the end"

    def send() -> str:
        future = bridge.portal().run_coroutine_threadsafe(slow())
        with pytest.raises(TimeoutError):
            future.result(0.001)
        gate.open()
        return future.result(PATIENCE)

    assert await bridge.to_thread(send) == "in the end"


async def test_cancelled_before_it_starts_a_coroutine_never_runs_and_is_closed(new_gate: type[Gate]) -> None:
    ran: list[int] = []

    async def work() -> None:
        ran.append(1)

    def send() -> None:
        portal = bridge.portal()
        with held(portal, new_gate):
            coro = work()
            future = portal.run_coroutine_threadsafe(coro)
            assert future.cancel()
            assert future.cancelled()
        portal.call(lambda: None)
        with pytest.raises(RuntimeError, match="cannot reuse already awaited coroutine"):
            coro.send(None)

    await bridge.to_thread(send)
    assert not ran


async def test_cancelled_while_it_runs_a_coroutine_cleans_up(new_gate: type[Gate]) -> None:
    started, cleaned = new_gate(), new_gate()

    async def work() -> None:
        started.open()
        try:
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(0)
            cleaned.open()

    def send() -> Future[None]:
        future = bridge.portal().run_coroutine_threadsafe(work())
        started.wait()
        assert future.cancel()
        with pytest.raises(CancelledError):
            future.result(PATIENCE)
        cleaned.wait()
        return future

    assert (await bridge.to_thread(send)).cancelled()


async def test_a_finished_future_cannot_be_cancelled() -> None:
    def send() -> tuple[bool, int]:
        future = bridge.portal().run_coroutine_threadsafe(double(1))
        future.result(PATIENCE)
        return future.cancel(), future.result()

    assert await bridge.to_thread(send) == (False, 2)


async def test_a_coroutine_that_ignores_its_cancellation_changes_nothing_for_the_future(
    new_gate: type[Gate], caplog: pytest.LogCaptureFixture
) -> None:
    started, ended = new_gate(), new_gate()

    async def stubborn() -> str:
        started.open()
        try:
            await anyio.sleep_forever()
        except anyio.get_cancelled_exc_class():
            pass
        ended.open()
        return "all the same"

    def send() -> None:
        portal = bridge.portal()
        future = portal.run_coroutine_threadsafe(stubborn())
        started.wait()
        future.cancel()
        ended.wait()
        portal.call(lambda: None)
        assert future.cancelled()

    await bridge.to_thread(send)
    assert not caplog.records


async def test_a_coroutine_that_cancels_itself_cancels_the_future(loop_name: str) -> None:
    if loop_name == "trio":
        pytest.skip("a trio task cannot cancel itself")

    async def give_up() -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.sleep(PATIENCE)

    def send() -> None:
        future = bridge.portal().run_coroutine_threadsafe(give_up())
        with pytest.raises(CancelledError):
            future.result(PATIENCE)
        assert future.cancelled()
        with pytest.raises(CancelledError, match="give_up"):
            bridge.portal().call(give_up)

    await bridge.to_thread(send)


async def test_a_coroutine_that_raises_cancelled_error_cancels_the_future(loop_name: str) -> None:
    if loop_name == "trio":
        pytest.skip("trio.Cancelled cannot be made")

    async def give_up() -> None:
        raise asyncio.CancelledError

    def send() -> bool:
        future = bridge.portal().run_coroutine_threadsafe(give_up())
        wait_for_futures([future], timeout=PATIENCE)
        return future.cancelled()

    assert await bridge.to_thread(send)


async def test_a_done_callback_that_raises_does_not_stop_the_loop(caplog: pytest.LogCaptureFixture) -> None:
    def fail(future: Future[int]) -> None:
        raise ZeroDivisionError

    def send() -> int:
        portal = bridge.portal()
        future = portal.run_coroutine_threadsafe(double(1))
        future.add_done_callback(fail)
        return future.result(PATIENCE) + portal.call(double, 1)

    assert await bridge.to_thread(send) == 4


@pytest.mark.parametrize("seed", range(4))
async def test_races_between_cancel_and_completion_are_all_accounted_for(seed: int) -> None:
    chance = random.Random(seed)
    count = 400
    told: Counter[str] = Counter()
    ended: Counter[str] = Counter()
    counted = threading.Semaphore(0)

    async def work(steps: int) -> int:
        try:
            for _ in range(steps):
                await anyio.sleep(0)
        except BaseException:
            ended["cancelled"] += 1
            raise
        ended["returned"] += 1
        return steps

    def note(future: Future[int]) -> None:
        told["cancelled" if future.cancelled() else "failed" if future.exception() else "returned"] += 1
        counted.release()

    def send() -> None:
        portal = bridge.portal()
        for _ in range(count):
            future = portal.run_coroutine_threadsafe(work(chance.randrange(4)))
            future.add_done_callback(note)
            for _ in range(chance.randrange(3)):
                portal.call_soon_threadsafe(lambda: None)
            if chance.random() < 0.3:
                portal.call(lambda: None)
            accepted = future.cancel()
            assert future.done() or not accepted
            assert accepted == future.cancelled()
        for _ in range(count):
            assert counted.acquire(timeout=PATIENCE), f"of {count} only {told} were answered"
        for _ in range(8):  # cancelled ones end within a few rounds
            portal.call(anyio.sleep, 0)

    await bridge.to_thread(send)
    assert told["failed"] == 0
    assert told["returned"] + told["cancelled"] == count
    assert ended["returned"] >= told["returned"]
    assert ended["returned"] + ended["cancelled"] <= count


# -- the awaiting side gives up ----------------------------------------------------------------------------------------


async def test_cancelling_the_await_of_a_job_cancels_its_portal_call_and_the_worker_is_told(
    loop_name: str, new_gate: type[Gate]
) -> None:
    started = new_gate()
    log: list[str] = []

    async def forever() -> None:
        started.open()
        try:
            await anyio.sleep_forever()
        finally:
            log.append("coroutine cancelled")

    def job() -> None:
        try:
            bridge.portal().call(forever)
        except BaseException as error:
            log.append(type(error).__name__)
            log.append(bridge.portal().call(clean_up, "with another call"))
            raise

    async def clean_up(how: str) -> str:
        await anyio.sleep(0)
        return f"cleaned up {how}"

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(bridge.to_thread, job)
        await started.reached()
        tasks.cancel_scope.cancel()
    kind = "Cancelled" if loop_name == "trio" else "CancelledError"
    assert log == ["coroutine cancelled", kind, "cleaned up with another call"]


async def test_a_job_that_was_cancelled_before_its_portal_call_is_told_instead_of_calling(new_gate: type[Gate]) -> None:
    started, go_on = new_gate(), new_gate()
    log: list[str] = []

    def job() -> None:
        started.open()
        go_on.wait()
        try:
            bridge.portal().call(log.append, "called")
        except BaseException:
            log.append("told")
            bridge.portal().call(log.append, "clean-up")
            raise

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(bridge.to_thread, job)
        await started.reached()
        tasks.cancel_scope.cancel()
        with anyio.CancelScope(shield=True):
            await anyio.sleep(0)  # the cancellation reaches the await, which tells the job
            for _ in range(3):
                await anyio.sleep(0)
        go_on.open()
    assert log == ["told", "clean-up"]


async def test_a_coroutine_cancelled_by_somebody_else_is_an_error_of_the_call_only() -> None:
    async def cancelled() -> str:
        with anyio.CancelScope() as scope:
            scope.cancel()
            await anyio.sleep_forever()
        return "its own business"

    assert await bridge.to_thread(lambda: bridge.portal().call(cancelled)) == "its own business"


# -- syncify -----------------------------------------------------------------------------------------------------------


@bridge.syncify
async def doubled(number: int, *, plus: int = 0) -> int:
    """Twice the number."""
    return await double(number, plus=plus)


async def test_syncify_makes_a_blocking_function_of_an_async_one() -> None:
    def in_thread() -> int:
        result = doubled(3, plus=1)
        assert_type(result, int)
        return result

    assert await bridge.to_thread(in_thread) == 7


def test_syncify_keeps_name_doc_and_signature() -> None:
    import inspect

    assert doubled.__name__ == "doubled"
    assert doubled.__doc__ == "Twice the number."
    assert str(inspect.signature(doubled)) == "(number: 'int', *, plus: 'int' = 0) -> 'int'"
    assert not inspect.iscoroutinefunction(doubled)


def test_syncify_needs_an_async_function() -> None:
    with pytest.raises(TypeError, match=r"an async function, and builtins\.len is not one: call it as it is"):
        bridge.syncify(len)  # type: ignore[arg-type]


async def test_a_syncified_function_is_refused_on_a_loop() -> None:
    with pytest.raises(bridge.WrongThread, match=r"`await doubled\.__wrapped__\(\.\.\.\)`"):
        doubled(1)


def test_a_syncified_function_needs_a_loop_that_sent_the_thread() -> None:
    with pytest.raises(bridge.WrongThread, match=r"bridge\.background_loop\(\)"):
        doubled(1)


async def test_a_syncified_method_is_bound() -> None:
    class Doubler:
        plus = 5

        @bridge.syncify
        async def double(self, number: int) -> int:
            return await double(number, plus=self.plus)

    assert await bridge.to_thread(Doubler().double, 1) == 7

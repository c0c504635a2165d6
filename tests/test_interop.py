"""The worker threads of anyio, trio and asgiref lead back into their loop; and in bridge's, their own ways back work."""

from __future__ import annotations

import asyncio
import contextvars
import os
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import anyio
import anyio.from_thread
import anyio.to_thread
import pytest
import trio.to_thread
from asgiref.sync import SyncToAsync, async_to_sync, sync_to_async

import bridge
from tests.conftest import LOOPS, PATIENCE, Gate, within

Send = Callable[[Callable[[], Any]], Awaitable[Any]]

#: How people get into a thread without bridge.
THEIRS: dict[str, Send] = {
    "anyio": anyio.to_thread.run_sync,
    "anyio-abandoning": partial(anyio.to_thread.run_sync, abandon_on_cancel=True),
    "trio": trio.to_thread.run_sync,
    "trio-abandoning": partial(trio.to_thread.run_sync, abandon_on_cancel=True),
    "asgiref": lambda fn: sync_to_async(fn)(),
    "asgiref-insensitive": lambda fn: sync_to_async(fn, thread_sensitive=False)(),
}


@pytest.fixture(autouse=True, scope="module")
def asgirefs_thread() -> None:
    """Which stays for as long as the process."""
    SyncToAsync.single_thread_executor.submit(int).result(PATIENCE)


PLACES = [
    (loop, library)
    for loop in LOOPS
    for library in THEIRS
    if not library.startswith("asgiref" if loop == "trio" else "trio")
]


def on_each_loop(places: list[tuple[str, str]]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(
        ("anyio_backend", "send"),
        [(LOOPS[loop], THEIRS[library]) for loop, library in places],
        ids=[f"{loop}-{library}" for loop, library in places],
    )


#: In the threads of each library, on each loop that it runs on.
in_their_threads = on_each_loop(PLACES)
#: Without asgiref, which does not tell a thread that nobody waits for it any more.
in_threads_with_cancellation = on_each_loop([place for place in PLACES if not place[1].startswith("asgiref")])


async def seven() -> int:
    await anyio.sleep(0)
    return 7


async def numbers() -> AsyncIterator[int]:
    yield 1
    yield 2


@asynccontextmanager
async def entered() -> AsyncIterator[int]:
    yield threading.get_ident()


class Interruptible:
    """Waits on the loop until it is cancelled."""

    def __init__(self) -> None:
        self.begun = Gate()
        self.ended = Gate()

    async def wait(self) -> None:
        self.begun.open()
        try:
            await anyio.sleep(2 * PATIENCE)
        finally:
            self.ended.open()


# -- their threads -------------------------------------------------------------------------------------------------------


@pytest.mark.anyio
@in_their_threads
async def test_the_portal_leads_into_the_loop_that_sent_the_work(send: Send) -> None:
    def work() -> tuple[Any, ...]:
        portal = bridge.portal()
        soon: list[int] = []
        portal.call_soon_threadsafe(lambda: soon.append(threading.get_ident()))
        with portal.enter(entered()) as value:
            return (
                portal.call(threading.get_ident),
                portal.call(seven),
                portal.run_coroutine_threadsafe(seven()).result(PATIENCE),
                value,
                list(portal.iterate(numbers())),
                bridge.syncify(seven)(),
                *soon,
            )

    here = threading.get_ident()
    assert await send(work) == (here, 7, 7, here, [1, 2], 7, here)


@pytest.mark.anyio
@in_their_threads
async def test_it_is_the_same_loop_for_all_of_its_threads(send: Send) -> None:
    hosts = set()
    for _ in range(2):
        async with anyio.create_task_group() as group:
            for _ in range(5):

                async def one() -> None:
                    hosts.add(await send(lambda: bridge.portal()._host))

                group.start_soon(one)
    hosts.add(bridge.portal()._host)
    assert len(hosts) == 1


@pytest.mark.anyio
@in_their_threads
async def test_context_variables_travel_there_and_into_the_loop(send: Send) -> None:
    var: contextvars.ContextVar[str] = contextvars.ContextVar("var")
    var.set("from the loop")

    async def seen() -> str:
        return var.get()

    def work() -> tuple[str, str]:
        before = bridge.portal().call(seen)
        var.set("from the thread")
        return before, bridge.portal().call(seen)

    assert await send(work) == ("from the loop", "from the thread")


@pytest.mark.anyio
@in_their_threads
async def test_a_call_into_the_own_loop_is_refused_there(send: Send) -> None:
    def again() -> int:
        return bridge.portal().call(seven)

    def work() -> int:
        return bridge.portal().call(again)

    with pytest.raises(bridge.WouldDeadlock, match="the very loop"):
        await send(work)


@pytest.mark.anyio
@in_their_threads
@pytest.mark.parametrize("way", ["call", "enter", "iterate"])
async def test_a_call_ends_with_the_work_that_makes_it(send: Send, way: str) -> None:
    waits = Interruptible()

    @asynccontextmanager
    async def entering() -> AsyncIterator[None]:
        await waits.wait()
        yield

    async def iterating() -> AsyncIterator[None]:
        await waits.wait()
        yield

    def work() -> None:
        portal = bridge.portal()
        if way == "call":
            portal.call(waits.wait)
        elif way == "enter":
            with portal.enter(entering()):
                pass
        else:
            list(portal.iterate(iterating()))

    await cancelled_at(waits.begun, send, work)
    await waits.ended.reached()


async def cancelled_at(begun: Gate, send: Send, work: Callable[[], None]) -> None:
    """Send it, cancel that, and wait until it has ended."""

    async def sends() -> None:
        await send(work)

    if asyncio._get_running_loop() is None:
        with anyio.fail_after(PATIENCE):
            async with anyio.create_task_group() as group:
                group.start_soon(sends)
                await begun.reached()
                group.cancel_scope.cancel()
        return
    scope = anyio.CancelScope()

    async def in_scope() -> None:
        with scope:
            await sends()

    # asgiref knows of no scopes, only of tasks that are cancelled
    asgirefs = send in (THEIRS["asgiref"], THEIRS["asgiref-insensitive"])
    task = asyncio.create_task(sends() if asgirefs else in_scope())
    await begun.reached()
    if asgirefs:
        task.cancel()
    else:
        scope.cancel()
    with anyio.fail_after(PATIENCE):
        await asyncio.wait([task])


@pytest.mark.anyio
@in_threads_with_cancellation
async def test_short_calls_end_with_the_work_that_makes_them(send: Send) -> None:
    """None of them lasts long enough to be cancelled itself."""
    begun, ended = Gate(), Gate()

    def work() -> None:
        try:
            while True:
                bridge.portal().call(abs, -1)
                begun.open()
        finally:
            ended.open()

    await cancelled_at(begun, send, work)
    await ended.reached()


@pytest.mark.anyio
@in_threads_with_cancellation
async def test_what_was_entered_is_left_when_the_work_is_cancelled(send: Send) -> None:
    begun, left = Gate(), Gate()

    @asynccontextmanager
    async def resource() -> AsyncIterator[None]:
        try:
            yield
        finally:
            await seven()
            left.open()

    def work() -> None:
        with bridge.portal().enter(resource()):
            begun.open()
            while True:
                bridge.check_cancelled()

    await cancelled_at(begun, send, work)
    await left.reached()


@pytest.mark.anyio
@in_threads_with_cancellation
async def test_check_cancelled_does_there_what_the_library_does(send: Send) -> None:
    begun = Gate()
    raised: list[type] = []
    kind = anyio.get_cancelled_exc_class()

    def work() -> None:
        bridge.check_cancelled()
        begun.open()
        try:
            while True:
                bridge.check_cancelled()
        except BaseException as error:
            raised.append(type(error))
            raise

    await cancelled_at(begun, send, work)
    while not raised:  # the thread may have been abandoned
        await anyio.sleep(0.001)
    assert raised == [kind]


def test_a_thread_that_asgiref_has_used_is_its_loops_for_that_long(loop_factory: Any) -> None:
    with ThreadPoolExecutor(1) as pool:

        async def main() -> Any:
            in_its_work = await sync_to_async(bridge.portal, thread_sensitive=False, executor=pool)()
            with pytest.raises(bridge.WrongThread):
                await asyncio.get_running_loop().run_in_executor(pool, bridge.portal)
            return in_its_work

        bridge.run(main, loop_factory=loop_factory)


def test_outside_of_any_loops_thread_there_is_no_portal_and_nothing_to_cancel(loop_factory: Any) -> None:
    async def main() -> Any:
        return await sync_to_async(lambda: bridge.portal().call(seven))()

    def work() -> None:
        assert async_to_sync(main)() == 7  # which leaves a loop of its own behind, in the thread-locals of this thread
        with pytest.raises(bridge.WrongThread):
            bridge.portal()
        bridge.check_cancelled()

    thread = ThreadPoolExecutor(1)
    thread.submit(work).result(PATIENCE)
    thread.shutdown()


@pytest.mark.parametrize("loop", list(LOOPS))
def test_a_thread_that_was_left_behind_is_told_that_its_loop_has_ended(loop: str) -> None:
    begun, go = Gate(), threading.Event()
    told: list[BaseException] = []
    done = Gate()

    def work() -> None:
        begun.open()
        assert go.wait(PATIENCE)
        try:
            bridge.portal().call(seven)
        except BaseException as error:
            told.append(error)
        finally:
            done.open()

    async def main() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(partial(anyio.to_thread.run_sync, work, abandon_on_cancel=True))
            await begun.reached()
            group.cancel_scope.cancel()

    backend, options = LOOPS[loop]
    anyio.run(main, backend=backend, backend_options=options)
    go.set()
    done.wait()
    assert [type(error) for error in told] in ([bridge.LoopClosed], [anyio_cancelled(loop)])


def anyio_cancelled(loop: str) -> type[BaseException]:
    """What a cancelled thread is told before anything else."""
    return trio.Cancelled if loop == "trio" else asyncio.CancelledError


# -- ours ----------------------------------------------------------------------------------------------------------------


async def in_the_lane(fn: Callable[[], Any]) -> Any:
    return await bridge.to_thread(fn)


async def in_an_executor(fn: Callable[[], Any]) -> Any:
    async with bridge.ThreadExecutor(1) as executor:
        return await executor.run(fn)


async def submitted(fn: Callable[[], Any]) -> Any:
    async with bridge.ThreadExecutor(1) as executor:
        future = executor.submit(fn)
        return await anyio.to_thread.run_sync(future.result, PATIENCE)


async def mapped(fn: Callable[[], Any]) -> Any:
    values = [value async for value in bridge.map(lambda _: fn(), [0])]
    return values.pop()


async def streamed(fn: Callable[[], Any]) -> Any:
    def gen() -> Iterator[Any]:
        yield fn()

    values = [value async for value in bridge.stream(gen)]
    return values.pop()


async def in_a_foreign_pool(fn: Callable[[], Any]) -> Any:
    with ThreadPoolExecutor(1) as pool:
        async with bridge.ForeignExecutor(pool) as executor:
            value = await executor.run(fn)
        with pytest.raises(RuntimeError):  # in the same thread
            await anyio.to_thread.run_sync(pool.submit(anyio.from_thread.run, seven).result, PATIENCE)
    return value


OURS = [in_the_lane, in_an_executor, submitted, mapped, streamed, in_a_foreign_pool]


@pytest.fixture(params=OURS, ids=[each.__name__ for each in OURS])
def send_ours(request: pytest.FixtureRequest) -> Send:
    return request.param  # type: ignore[no-any-return]


@pytest.mark.anyio
async def test_anyios_way_back_leads_into_the_loop_that_sent_the_work(send_ours: Send) -> None:
    async def own(value: int) -> tuple[int, int]:
        await anyio.sleep(0)
        return value, threading.get_ident()

    def work() -> Any:
        anyio.from_thread.check_cancelled()
        return anyio.from_thread.run(own, 7), anyio.from_thread.run_sync(threading.get_ident)

    here = threading.get_ident()
    assert await send_ours(work) == ((7, here), here)


@pytest.mark.anyio
async def test_what_a_function_returns_is_not_awaited_on_anyios_way_back() -> None:
    coro = await bridge.to_thread(anyio.from_thread.run_sync, seven)
    assert await coro == 7


@pytest.mark.anyio
async def test_errors_come_on_anyios_way_back() -> None:
    async def fails() -> None:
        raise LookupError("nothing here")

    with pytest.raises(LookupError, match="nothing here"):
        await bridge.to_thread(anyio.from_thread.run, fails)
    with pytest.raises(ZeroDivisionError):
        await bridge.to_thread(anyio.from_thread.run_sync, lambda: 1 // 0)


@pytest.mark.anyio
async def test_a_thread_that_waits_on_anyios_way_lends_its_place() -> None:
    async with bridge.ThreadExecutor(1) as executor:

        async def nested() -> int:
            return await executor.run(abs, -1)

        with anyio.fail_after(PATIENCE):
            assert await executor.run(anyio.from_thread.run, nested) == 1


@pytest.mark.anyio
async def test_a_call_on_anyios_way_back_ends_with_its_work(gate: Gate) -> None:
    waits = Interruptible()
    await cancelled_at(waits.begun, bridge.to_thread, lambda: anyio.from_thread.run(waits.wait))
    assert waits.ended.is_open()


@pytest.mark.anyio
async def test_anyios_check_sees_the_cancellation_of_our_work(gate: Gate) -> None:
    def work() -> None:
        gate.open()
        while True:
            anyio.from_thread.check_cancelled()

    await cancelled_at(gate, bridge.to_thread, work)


def test_in_work_that_no_loop_has_sent_anyios_way_leads_nowhere() -> None:
    with bridge.ThreadExecutor(1) as executor:
        with pytest.raises(RuntimeError, match=r"no loop has sent.*bridge\.to_thread"):
            executor.submit(anyio.from_thread.run, seven).result(PATIENCE)
        assert executor.submit(anyio.from_thread.check_cancelled).result(PATIENCE) is None


def test_each_loop_finds_itself_in_threads_that_several_loops_use(loop_factory: Any) -> None:
    def work() -> tuple[int, int, int]:
        return (
            anyio.from_thread.run_sync(threading.get_ident),
            async_to_sync(ident)(),
            bridge.portal().call(threading.get_ident),
        )

    async def ident() -> int:
        return threading.get_ident()

    with bridge.ThreadExecutor(1) as executor:

        async def main() -> None:
            for _ in range(20):
                assert await executor.run(work) == (threading.get_ident(),) * 3

        threads = [threading.Thread(target=bridge.run, args=(main,), kwargs={"loop_factory": loop_factory}) for _ in "ab"]
        for thread in threads:
            thread.start()
        for thread in threads:
            within(thread)


@pytest.mark.anyio
async def test_asgirefs_way_back_leads_into_the_loop_that_sent_the_work(send_ours: Send, loop_name: str) -> None:
    async def own(value: int) -> tuple[int, int]:
        await asyncio.sleep(0)
        return value, threading.get_ident()

    value, ident = await send_ours(lambda: async_to_sync(own)(7))
    assert value == 7
    assert (ident == threading.get_ident()) is (loop_name != "trio")  # where asgiref can only have a loop of its own


@pytest.mark.anyio
async def test_what_asgiref_sends_back_comes_into_the_same_thread() -> None:
    async def back() -> int:
        return await sync_to_async(threading.get_ident)()

    def work() -> tuple[int, list[int]]:
        return threading.get_ident(), [async_to_sync(back)() for _ in range(3)]

    for _ in range(3):
        here, there = await bridge.to_thread(work)
        assert there == [here] * 3


@pytest.mark.anyio
async def test_a_call_on_asgirefs_way_back_ends_with_its_work(loop_name: str) -> None:
    if loop_name == "trio":
        pytest.skip("asgiref runs asyncio")
    waits = Interruptible()
    await cancelled_at(waits.begun, bridge.to_thread, lambda: async_to_sync(waits.wait)())
    assert waits.ended.is_open()


IMPORTED_LATER = """
import asyncio, sys, threading

import bridge


def work():
    from asgiref.sync import async_to_sync

    async def own():
        return threading.get_ident()

    return async_to_sync(own)()


async def main():
    async with bridge.ThreadExecutor(1) as executor:
        await executor.run(abs, -1)
        assert "asgiref" not in sys.modules
        import asgiref.sync

        print(await executor.run(work) == threading.get_ident())


bridge.run(main)
"""


def test_asgiref_may_be_imported_after_the_thread_has_started() -> None:
    ran = subprocess.run(
        [sys.executable, "-c", IMPORTED_LATER],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert (ran.stdout.strip(), ran.stderr) == ("True", "")

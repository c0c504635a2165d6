"""bridge's own loop: asyncio in every respect, with a door that many threads can use at once."""

from __future__ import annotations

import asyncio
import contextvars
import os
import selectors
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import anyio
import pytest

import bridge
from bridge.loop import EventLoop, event_loop
from bridge.loop.ready import BATCH
from bridge.loop.sleeper import UNREAD, EpollSleeper, Sleeper
from tests.conftest import PATIENCE, Gate, within

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there the loop is a stock one")


def selector_loop() -> EventLoop:
    return EventLoop(selectors.SelectSelector())


def stock_path_loop() -> EventLoop:
    """As on a Python whose private details are not the ones we know."""
    loop = EventLoop.__new__(EventLoop)
    known, event_loop._details_are_known = event_loop._details_are_known, lambda loop: False
    try:
        loop.__init__()  # type: ignore[misc]
    finally:
        event_loop._details_are_known = known
    return loop


@pytest.fixture(params=[bridge.new_event_loop, selector_loop, stock_path_loop])
def factory(request: pytest.FixtureRequest) -> Callable[[], EventLoop]:
    """Each way in which the loop can be built."""
    return request.param


@pytest.fixture
def loop(factory: Callable[[], EventLoop]) -> Iterator[EventLoop]:
    loop = factory()
    yield loop
    loop.close()


class Wakes:
    """Counts the bytes written to a loop's self-pipe."""

    def __init__(self, loop: Any, monkeypatch: pytest.MonkeyPatch):
        self.count = 0
        write = loop._write_to_self

        def counted() -> None:
            self.count += 1
            write()

        monkeypatch.setattr(loop, "_write_to_self", counted)


def until(loop: EventLoop, condition: Callable[[], bool]) -> None:
    async def watch() -> None:
        async with asyncio.timeout(PATIENCE):
            while not condition():
                await asyncio.sleep(0.001)

    loop.run_until_complete(watch())


# -- the kind of loop it is ------------------------------------------------------------------------------------------


def test_it_is_coalescing_here_and_stock_where_details_are_unknown() -> None:
    for make, kind in ((bridge.new_event_loop, EpollSleeper), (selector_loop, Sleeper)):
        loop = make()
        assert type(loop._selector) is (kind if sys.platform == "linux" else Sleeper)
        assert loop._bridge_door is not None
        loop.close()
    loop = stock_path_loop()
    assert isinstance(loop._selector, selectors.BaseSelector)
    assert loop._bridge_door is None
    loop.close()


def test_it_runs_in_asyncio_runner_and_in_anyio(factory: Callable[[], EventLoop]) -> None:
    async def which() -> str:
        await bridge.to_thread(len, "")
        return type(asyncio.get_running_loop()).__name__

    with asyncio.Runner(loop_factory=factory) as runner:
        assert runner.run(which()) == "EventLoop"
    assert anyio.run(which, backend_options={"loop_factory": factory}) == "EventLoop"


# -- the door --------------------------------------------------------------------------------------------------------


def test_callbacks_of_each_thread_run_once_and_in_order(loop: EventLoop) -> None:
    ran: list[tuple[int, int]] = []

    def send(thread: int) -> None:
        for number in range(500):
            loop.call_soon_threadsafe(ran.append, (thread, number))

    threads = [threading.Thread(target=send, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    until(loop, lambda: len(ran) == 4000)
    for thread in threads:
        within(thread)
    for n in range(8):
        assert [number for thread, number in ran if thread == n] == list(range(500))


def test_a_burst_wakes_a_sleeping_loop_once_for_each_sleep(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = bridge.new_event_loop()
    wakes = Wakes(loop, monkeypatch)
    for nap in (1, 2, 3):
        loop._nap = nap  # as the sleeper does before it polls
        for _ in range(100):
            loop.call_soon_threadsafe(int)
        assert wakes.count == nap
    loop._nap = 0
    loop.call_soon(loop.stop)
    loop.run_forever()
    loop.close()


def test_a_loop_that_is_awake_is_not_woken(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = bridge.new_event_loop()
    wakes = Wakes(loop, monkeypatch)

    def busy() -> None:
        thread = threading.Thread(target=lambda: [loop.call_soon_threadsafe(len, "") for _ in range(50)])
        thread.start()
        within(thread)
        loop.call_soon(loop.stop)

    loop.call_soon(busy)
    loop.run_forever()
    assert wakes.count == 0
    loop.close()


def test_wake_up_bytes_left_unread_never_fill_the_pipe(loop: EventLoop) -> None:
    # Far more single wake-ups than the pipe holds bytes; each must end a sleep without a time limit.
    turns = 0

    async def main() -> None:
        nonlocal turns
        for _ in range(UNREAD * 20):
            await bridge.to_thread(int)
            turns += 1

    loop.run_until_complete(asyncio.wait_for(main(), 60))
    assert turns == UNREAD * 20


def test_io_goes_on_while_threads_flood_the_door(loop_factory: Callable[[], Any] | None) -> None:
    stop = threading.Event()

    async def main() -> None:
        portal = bridge.portal()

        def flood() -> None:
            while not stop.is_set():
                portal.call_soon_threadsafe(int)

        threads = [threading.Thread(target=flood) for _ in range(4)]
        for thread in threads:
            thread.start()
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        theirs.setblocking(False)
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(PATIENCE):
                for _ in range(20):
                    await loop.sock_sendall(ours, b"x")
                    assert await loop.sock_recv(theirs, 1) == b"x"
        finally:
            stop.set()
            for thread in threads:
                within(thread)
            ours.close()
            theirs.close()

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(main())


def test_one_round_takes_a_bounded_batch_of_what_has_arrived() -> None:
    loop = bridge.new_event_loop()
    ran: list[int] = []
    for number in range(BATCH + 10):
        loop.call_soon_threadsafe(ran.append, number)
    loop.stop()
    loop.run_forever()  # one round
    assert ran == list(range(BATCH))
    loop.stop()
    loop.run_forever()
    assert ran == list(range(BATCH + 10))
    loop.close()


def test_a_signal_handler_may_use_the_door(loop: EventLoop) -> None:
    ran: list[int] = []
    previous = signal.signal(signal.SIGUSR1, lambda *_: loop.call_soon_threadsafe(ran.append, 1))
    try:
        killer = threading.Timer(0.02, os.kill, (os.getpid(), signal.SIGUSR1))
        killer.start()
        until(loop, lambda: bool(ran))
        within(killer)
    finally:
        signal.signal(signal.SIGUSR1, previous)


def test_a_signal_handler_of_the_loop_is_called_each_time(loop: EventLoop) -> None:
    came = 0

    def count() -> None:
        nonlocal came
        came += 1

    loop.add_signal_handler(signal.SIGUSR1, count)
    for number in range(3):
        os.kill(os.getpid(), signal.SIGUSR1)
        until(loop, lambda: came == number + 1)  # noqa: B023 - called at once
    assert loop.remove_signal_handler(signal.SIGUSR1)


def test_timers_do_not_fire_early(loop: EventLoop) -> None:
    async def main() -> None:
        for delay in (0.0004, 0.001, 0.0123):
            due = loop.time() + delay
            await asyncio.sleep(delay)
            assert loop.time() >= due - loop._clock_resolution

    loop.run_until_complete(main())


# -- the end ---------------------------------------------------------------------------------------------------------


def test_a_closed_loop_says_so_to_those_who_come_late(factory: Callable[[], EventLoop]) -> None:
    loop = factory()
    loop.close()
    with pytest.raises(bridge.LoopClosed, match="Event loop is closed"):
        loop.call_soon_threadsafe(int)
    with pytest.raises(RuntimeError, match="Event loop is closed"):
        loop.call_soon(int)
    loop.close()  # harmless


# -- its threads -----------------------------------------------------------------------------------------------------


def test_run_in_executor_uses_bridges_threads_with_context(loop: EventLoop) -> None:
    async def main() -> str:
        return await loop.run_in_executor(None, lambda: threading.current_thread().name)

    assert loop.run_until_complete(main()).startswith("bridge-thread")


def test_a_default_executor_of_the_users_is_respected(loop: EventLoop) -> None:
    with ThreadPoolExecutor(1, thread_name_prefix="mine") as mine:
        loop.set_default_executor(mine)

        async def main() -> str:
            return await loop.run_in_executor(None, lambda: threading.current_thread().name)

        assert loop.run_until_complete(main()).startswith("mine")


def test_run_in_executor_carries_errors_and_stop_iteration(loop: EventLoop) -> None:
    async def main() -> None:
        with pytest.raises(ZeroDivisionError):
            await loop.run_in_executor(None, lambda: 1 / 0)
        with pytest.raises(RuntimeError, match="StopIteration"):
            await loop.run_in_executor(None, next, iter(()))

    loop.run_until_complete(main())


def test_a_cancelled_run_in_executor_is_withdrawn_if_it_has_not_begun(loop: EventLoop) -> None:
    gate = Gate()
    ran: list[int] = []

    async def main() -> None:
        pool = event_loop.host_of(loop).pool()
        blocking = [loop.run_in_executor(None, gate.wait) for _ in range(pool.max_workers)]
        waiting = loop.run_in_executor(None, ran.append, 1)
        waiting.cancel()
        await asyncio.sleep(0)
        gate.open()
        await asyncio.gather(*blocking)

    loop.run_until_complete(main())
    loop.run_until_complete(loop.shutdown_default_executor())
    assert ran == []


def test_shutting_down_the_default_executor_waits_for_what_runs(loop: EventLoop) -> None:
    gate, began = Gate(), Gate()
    ended: list[int] = []

    def slow() -> None:
        began.open()
        gate.wait()
        ended.append(1)

    async def main() -> None:
        task = loop.run_in_executor(None, slow)
        await began.reached()
        shutdown = asyncio.ensure_future(loop.shutdown_default_executor())
        await asyncio.sleep(0)
        assert not shutdown.done()
        gate.open()
        await shutdown
        assert ended == [1]
        await task
        with pytest.raises(RuntimeError, match="shutdown"):
            loop.run_in_executor(None, int)

    loop.run_until_complete(main())


# -- tasks of every kind can await a job -----------------------------------------------------------------------------


def test_pure_python_tasks_can_await_an_offload(loop: EventLoop) -> None:
    async def main() -> int:
        result: int = await asyncio.tasks._PyTask(bridge.to_thread(abs, -3), loop=loop)  # type: ignore[attr-defined]
        waiting = asyncio.tasks._PyTask(bridge.to_thread(Gate().wait), loop=loop)  # type: ignore[attr-defined]
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        return result

    assert loop.run_until_complete(main()) == 3


@pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks came with 3.12")
def test_eager_tasks_can_await_an_offload_and_portal_calls_use_the_task_factory(loop: EventLoop) -> None:
    async def main() -> None:
        loop.set_task_factory(asyncio.eager_task_factory)
        assert await asyncio.gather(*(bridge.to_thread(abs, -n) for n in range(20))) == list(range(20))

        async def named() -> str:
            await asyncio.sleep(0)
            return type(asyncio.current_task()).__name__

        assert await bridge.to_thread(lambda: bridge.portal().call(named)) == "Task"

    loop.run_until_complete(main())


def test_a_task_factory_is_given_what_create_task_was_as_in_asyncio(loop: EventLoop) -> None:
    given: list[set[str]] = []

    def factory(loop: Any, coro: Any, **kwargs: Any) -> Any:
        given.append(set(kwargs))
        return asyncio.Task(coro, loop=loop, **kwargs)

    async def main() -> list[set[str]]:
        given.clear()
        running = asyncio.get_running_loop()
        running.set_task_factory(factory)
        await running.create_task(asyncio.sleep(0))
        await running.create_task(asyncio.sleep(0), name="task", context=contextvars.copy_context())
        running.set_task_factory(None)
        return list(given)

    ours = loop.run_until_complete(main())
    with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
        assert ours == runner.run(main())


def test_debug_mode_works_as_in_asyncio(loop: EventLoop) -> None:
    loop.set_debug(True)

    async def main() -> int:
        return await bridge.to_thread(lambda: bridge.portal().call(abs, -2))

    assert loop.run_until_complete(main()) == 2

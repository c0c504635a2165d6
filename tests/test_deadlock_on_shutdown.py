"""Blocking shutdowns that could never end are refused, with both ends named, and everybody goes on."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any

import anyio
import pytest

import bridge
from bridge.loop.hosts import current_host
from tests.conftest import PATIENCE, Gate, within

pytestmark = pytest.mark.anyio


async def on_the_loop() -> str:
    return "never reached"


@asynccontextmanager
async def manager() -> AsyncIterator[None]:
    yield


async def items() -> AsyncIterator[int]:
    yield 1


def call() -> None:
    bridge.portal().call(on_the_loop)


def enter() -> None:
    with bridge.portal().enter(manager()):
        pass


def iterate() -> None:
    list(bridge.portal().iterate(items()))


@pytest.mark.parametrize("crossing", [call, enter, iterate])
async def test_a_call_made_while_the_loops_thread_waits_for_the_executor_is_refused(
    crossing: Callable[[], None], new_gate: type[Gate]
) -> None:
    gate, errors = new_gate(), []

    def job() -> None:
        gate.wait()
        try:
            crossing()
        except bridge.WouldDeadlock as error:
            errors.append(str(error))

    executor = bridge.ThreadExecutor(1, name="files")
    open_once_closing(executor, gate)
    with rescued(), executor:
        executor.submit(job)
    (message,) = errors
    assert "job" in message
    assert "'files-1'" in message
    assert "shutting down 'files'" in message
    assert "async with" in message


@contextmanager
def rescued() -> Iterator[None]:
    """Should the loop's thread hang, answer those who wait for it, so that the test fails and does not hang."""
    host = current_host()
    timer = threading.Timer(PATIENCE, host.strand, ["rescued by the test"])
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()


def open_once_closing(executor: bridge.ThreadExecutor, gate: Gate) -> None:
    """Let the job go on when the loop's thread is (about to be) blocked."""
    pool = executor._pool

    def watch() -> None:
        pause = threading.Event()
        for _ in range(int(PATIENCE / 0.001)):
            if pool.closing:
                break
            pause.wait(0.001)
        pause.wait(0.01)  # on either side of the mark the call must be refused; mostly it is set by now
        gate.open()

    threading.Thread(target=watch).start()


async def test_a_call_that_waits_already_when_the_loops_thread_blocks_is_refused(new_gate: type[Gate]) -> None:
    called, errors = new_gate(), []

    async def slow() -> None:
        called.open()
        await anyio.sleep(PATIENCE)

    def job() -> None:
        try:
            bridge.portal().call(slow)
        except bridge.WouldDeadlock as error:
            errors.append(str(error))

    with rescued(), bridge.ThreadExecutor(1, name="files") as executor:
        executor.submit(job)
        await called.reached()
    assert len(errors) == 1
    assert "shutting down 'files'" in errors[0]


async def test_a_stream_that_waits_for_room_is_let_go(new_gate: type[Gate]) -> None:
    closed = new_gate()

    def numbers() -> Iterator[int]:
        try:
            yield from range(1000)
        finally:
            closed.open()

    executor = bridge.ThreadExecutor(1)
    stream = executor.stream(numbers, in_flight=2)
    assert await anext(stream) == 0
    with rescued():
        executor.shutdown()
    assert closed.is_open()
    with suppress(bridge.WouldDeadlock):  # how the rest of the iteration ends, if somebody asks
        await stream.aclose()


async def test_a_job_that_needs_no_loop_is_waited_for(gate: Gate) -> None:
    threading.Timer(0.01, gate.open).start()
    done: list[int] = []
    with bridge.ThreadExecutor(1) as executor:
        executor.submit(gate.wait)
        executor.submit(done.append, 1)
    assert done == [1]


async def test_after_a_refusal_the_loop_serves_other_executors_again(new_gate: type[Gate]) -> None:
    gate = new_gate()

    def job() -> None:
        gate.wait()
        with pytest.raises(bridge.WouldDeadlock):
            call()

    executor = bridge.ThreadExecutor(1)
    open_once_closing(executor, gate)
    with rescued(), executor:
        future = executor.submit(job)
    future.result(0)
    with anyio.fail_after(PATIENCE):
        assert await bridge.to_thread(lambda: bridge.portal().call(on_the_loop)) == "never reached"


async def test_async_with_is_the_cure(new_gate: type[Gate]) -> None:
    with anyio.fail_after(PATIENCE):
        async with bridge.ThreadExecutor(1) as executor:
            futures = [executor.submit(crossing) for crossing in (call, enter, iterate)]
        assert [future.result(0) for future in futures] == [None] * 3


def test_shutting_down_and_waiting_inside_ones_own_worker_is_refused() -> None:
    with bridge.ThreadExecutor(1, name="files") as executor:

        def suicide() -> None:
            executor.shutdown(wait=True)

        error = executor.submit(suicide).exception(PATIENCE)
        assert isinstance(error, bridge.WouldDeadlock)
        assert "'files'" in str(error)
        assert "suicide" in str(error)
        assert "shutdown(wait=False)" in str(error)


def test_leaving_a_with_block_inside_ones_own_worker_is_refused() -> None:
    executor = bridge.ThreadExecutor(1)

    def job() -> Any:
        with executor:
            pass

    assert isinstance(executor.submit(job).exception(PATIENCE), bridge.WouldDeadlock)
    executor.shutdown()


def test_shutting_down_without_waiting_inside_ones_own_worker_is_allowed() -> None:
    executor = bridge.ThreadExecutor(1)
    assert executor.submit(executor.shutdown, wait=False).result(PATIENCE) is None
    with pytest.raises(bridge.ExecutorClosed):
        executor.submit(int)
    executor.shutdown()


def test_a_worker_may_shut_down_another_executor(gate: Gate) -> None:
    inner = bridge.ThreadExecutor(1)
    with bridge.ThreadExecutor(1) as outer:
        inner.submit(gate.wait)
        closing = outer.submit(inner.shutdown)
        gate.open()
        assert closing.result(PATIENCE) is None


def test_two_threads_may_shut_down_the_same_executor(gate: Gate) -> None:
    executor = bridge.ThreadExecutor(1)
    executor.submit(gate.wait)
    threads = [threading.Thread(target=executor.shutdown) for _ in range(2)]
    for thread in threads:
        thread.start()
    gate.open()
    for thread in threads:
        within(thread)

"""Types of the public API, checked by mypy and pyright, never run. A line that must be an error carries an ignore, and an
ignore that is not needed is an error itself."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Iterator
from concurrent.futures import Future
from contextlib import asynccontextmanager
from typing import Any, assert_type

import bridge


def area(width: float, *, height: int = 1) -> float:
    return width * height


async def fetch(url: str, *, retries: int = 0) -> bytes:
    return url.encode() * retries


def numbers(stop: int) -> Iterator[int]:
    yield from range(stop)


async def anumbers() -> AsyncIterator[int]:
    yield 1


@asynccontextmanager
async def connection() -> AsyncIterator[str]:
    yield "connection"


# -- out of the loop -----------------------------------------------------------------------------------------------------


async def check_to_thread() -> None:
    assert_type(await bridge.to_thread(area, 1.0), float)
    assert_type(await bridge.to_thread(area, 1.0, height=2), float)
    assert_type(await bridge.to_thread(lambda: "text"), str)
    await bridge.to_thread(area)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    await bridge.to_thread(area, "wide")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await bridge.to_thread(area, 1.0, depth=2)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


@bridge.offload
def bare(width: float, *, height: int = 1) -> float:
    return width * height


@bridge.offload(to="db", timeout=3, cancel="abandon")
def with_policy(key: str) -> list[int]:
    return [len(key)]


class Reader:
    @bridge.offload
    def read(self, size: int) -> bytes:
        return bytes(size)


async def check_offload() -> None:
    coroutine = assert_type(bare(1.0, height=2), Coroutine[Any, Any, float])
    assert_type(await coroutine, float)
    assert_type(await bare(1.0), float)
    assert_type(await with_policy("key"), list[int])
    assert_type(await bridge.offload(to=bridge.ThreadExecutor(1))(area)(1.0), float)
    await bare("wide")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await with_policy()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    bridge.offload(cancel="ignore")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
    bridge.offload(timeout="3")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]


async def check_map_and_stream() -> None:
    assert_type(bridge.map(area, [1.0]), AsyncGenerator[float, None])
    async for result in bridge.map(len, anumbers(), to="db", ordered=False, in_flight=3):
        assert_type(result, int)
    assert_type(bridge.map(bare, [1.0]), AsyncGenerator[float, None])
    assert_type(bridge.map(fetch, ["url"], to="process", timeout=3), AsyncGenerator[bytes, None])
    assert_type(bridge.map(area, [1.0], errors="raise"), AsyncGenerator[float, None])
    assert_type(bridge.map(area, [1.0], errors="return", timeout=3), AsyncGenerator[float | Exception, None])
    assert_type(bridge.map(bare, [1.0], errors="return"), AsyncGenerator[float | Exception, None])
    async for outcome in bridge.map(len, anumbers(), errors="return", ordered=False):
        assert_type(outcome, int | Exception)
    assert_type(bridge.stream(numbers, 3, to="db"), AsyncGenerator[int, None])
    async for item in bridge.stream(numbers, 3):
        assert_type(item, int)
    bridge.map(area, 5)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]
    bridge.map(area, [1.0], errors="ignore")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]
    bridge.map(area, [1.0], timeout="3")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]
    bridge.stream(area, 1.0)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


async def check_executor(executor: bridge.ThreadExecutor) -> None:
    assert_type(await executor.run(area, 1.0, height=2), float)
    assert_type(executor.submit(area, 1.0), Future[float])
    assert_type(executor.statistics(), bridge.ExecutorStatistics)
    assert_type(executor.statistics().run_time.p99, float)
    async for result in executor.amap(area, [1.0]):
        assert_type(result, float)
    assert_type(executor.amap(bare, [1.0]), AsyncGenerator[float, None])
    async for outcome in executor.amap(area, [1.0], errors="return", timeout=3):
        assert_type(outcome, float | Exception)
    async for item in executor.stream(numbers, 3):
        assert_type(item, int)
    async with executor as same:
        assert_type(same, bridge.ThreadExecutor)
    with executor as same:
        assert_type(same, bridge.ThreadExecutor)
    await executor.run(area)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    executor.submit(area, "wide")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    assert_type(bridge.ThreadExecutor(4, max_lent=100).max_lent, int)
    assert_type(bridge.ProcessExecutor(4, max_lent=0).max_lent, int)
    bridge.ThreadExecutor(4, max_lent=1.5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    bridge.ThreadExecutor("4")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


# -- into the loop -------------------------------------------------------------------------------------------------------


@bridge.syncify
async def fetch_sync(url: str, *, retries: int = 0) -> bytes:
    return await fetch(url, retries=retries)


def check_portal() -> None:
    portal = bridge.portal()
    assert_type(portal, bridge.Portal)
    assert_type(portal.call(fetch, "url", retries=2), bytes)
    assert_type(portal.call(area, 1.0), float)
    assert_type(portal.call(bare, 1.0), float)
    assert_type(portal.run_coroutine_threadsafe(fetch("url")), Future[bytes])
    portal.call_soon_threadsafe(print, "text")
    with portal.enter(connection()) as value:
        assert_type(value, str)
    for item in portal.iterate(anumbers()):
        assert_type(item, int)
    portal.call(fetch, 5)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]
    portal.run_coroutine_threadsafe(fetch)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    portal.enter(area)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def check_syncify() -> None:
    assert_type(fetch_sync("url", retries=1), bytes)
    fetch_sync(5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    bridge.syncify(area)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def check_background_loop() -> None:
    with bridge.background_loop(loop_factory=bridge.new_event_loop, name="loop") as portal:
        assert_type(portal, bridge.Portal)


# -- the program ---------------------------------------------------------------------------------------------------------


async def main(name: str, number: int) -> dict[str, int]:
    return {name: number}


def check_run() -> None:
    assert_type(bridge.run(main, "a", 1), dict[str, int])
    assert_type(bridge.run(main, "a", 1, backend="trio", debug=True, shutdown_timeout=1), dict[str, int])
    bridge.run(main, "a", 1, executors={"db": bridge.ThreadExecutor(1)}, loop_factory=None)
    bridge.run(main, "a")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    bridge.run(area, 1.0)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    bridge.run(main("a", 1))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    bridge.run(main, "a", 1, backend="curio")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


async def check_lanes() -> None:
    async with bridge.lanes(db=bridge.ThreadExecutor(1)) as block:
        assert_type(block, bridge.lanes)
    bridge.lanes(db=5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def check_check_cancelled() -> None:
    check: Callable[[], None] = bridge.check_cancelled
    check()

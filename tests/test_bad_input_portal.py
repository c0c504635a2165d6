"""What portals, `syncify` and `background_loop` cannot take: a typed error that says so, and nothing left running."""

from __future__ import annotations

import concurrent.futures
import contextlib
import threading
from collections.abc import Callable
from typing import Any

import pytest

import bridge
from tests.conftest import PATIENCE

pytestmark = pytest.mark.anyio


async def fetch(number: int = 0) -> int:
    return number


async def refused(use: Callable[[bridge.Portal], object], kind: type[Exception], match: str) -> None:
    """`use` raises in a worker that holds the portal, and nobody is left waiting for the loop."""
    portal = bridge.portal()

    def in_thread() -> None:
        with pytest.raises(kind, match=match):
            use(portal)

    await bridge.to_thread(in_thread)
    assert not portal._host.waits


def is_closed(coro: Any) -> bool:
    try:
        coro.send(None)
    except RuntimeError as error:
        return "cannot reuse already awaited coroutine" in str(error)
    except StopIteration:
        pass
    return False


async def test_call_with_a_coroutine_instead_of_its_function() -> None:
    coro = fetch(1)
    await refused(
        lambda portal: portal.call(coro),  # type: ignore[call-overload]
        TypeError,
        r"write portal\.call\(fetch, \.\.\.\) instead of portal\.call\(fetch\(\.\.\.\)\)",
    )
    assert is_closed(coro)


async def test_call_with_a_coroutine_on_the_loops_own_thread_closes_it_too() -> None:
    coro: Any = fetch(1)
    with pytest.raises(TypeError, match=r"needs the function, not the coroutine"):
        bridge.portal().call(coro)
    assert is_closed(coro)


@pytest.mark.parametrize("nonsense", [None, 7, "fetch"])
async def test_call_with_something_that_cannot_be_called(nonsense: Any) -> None:
    await refused(lambda portal: portal.call(nonsense), TypeError, r"portal\.call needs a function, not")


async def test_call_with_the_wrong_arguments_raises_what_calling_would() -> None:
    await refused(lambda portal: portal.call(fetch, 1, 2, 3), TypeError, r"fetch\(\) takes")  # type: ignore[call-overload]


async def test_call_soon_threadsafe_with_a_coroutine_function() -> None:
    await refused(
        lambda portal: portal.call_soon_threadsafe(fetch),
        TypeError,
        r"fetch is a coroutine function.*Write portal\.run_coroutine_threadsafe\(fetch\(\.\.\.\)\), or portal\.call",
    )


@pytest.mark.parametrize("nonsense", [None, 7, "fetch"])
async def test_call_soon_threadsafe_with_something_that_cannot_be_called(nonsense: Any) -> None:
    await refused(lambda portal: portal.call_soon_threadsafe(nonsense), TypeError, "needs a function, not|not callable")


async def test_call_soon_threadsafe_with_a_coroutine() -> None:
    coro = fetch()
    try:
        await refused(
            lambda portal: portal.call_soon_threadsafe(coro),  # type: ignore[arg-type]
            TypeError,
            r"run_coroutine_threadsafe|needs a function",
        )
    finally:
        coro.close()


async def test_run_coroutine_threadsafe_with_the_function_instead_of_the_coroutine() -> None:
    await refused(
        lambda portal: portal.run_coroutine_threadsafe(fetch),  # type: ignore[arg-type]
        TypeError,
        r"needs a coroutine, not <function fetch.*Write portal\.run_coroutine_threadsafe\(fn\(\.\.\.\)\), with the call",
    )


async def test_enter_with_something_that_is_no_async_context_manager() -> None:
    await refused(
        lambda portal: portal.enter(contextlib.suppress(KeyError)),  # type: ignore[arg-type]
        TypeError,
        r"portal\.enter needs an async context manager, not <contextlib\.suppress",
    )


async def test_iterate_with_something_that_is_no_async_iterable() -> None:
    await refused(
        lambda portal: portal.iterate([1, 2]),  # type: ignore[arg-type]
        TypeError,
        r"portal\.iterate needs an async iterable, not \[1, 2\]",
    )


async def test_enter_on_the_loops_own_thread_shows_the_async_line() -> None:
    scope = bridge.portal().enter(contextlib.nullcontext())
    with pytest.raises(bridge.WouldDeadlock, match=r"On the loop, write `async with \.\.\.`"):
        scope.__enter__()


async def test_iterate_on_the_loops_own_thread_shows_the_async_line() -> None:
    async def one() -> Any:
        yield 1

    with pytest.raises(bridge.WouldDeadlock, match=r"On the loop, write `async for \.\.\.`"):
        next(iter(bridge.portal().iterate(one())))


async def test_a_foreign_loops_portal_is_refused_for_every_way_of_waiting() -> None:
    async def one() -> Any:
        yield 1

    async with bridge.background_loop() as foreign:
        with pytest.raises(bridge.WrongThread, match=r"await bridge\.to_thread\("):
            foreign.call(fetch)
        with pytest.raises(bridge.WrongThread, match=r"await bridge\.to_thread\("):
            foreign.enter(contextlib.nullcontext()).__enter__()
        with pytest.raises(bridge.WrongThread, match=r"await bridge\.to_thread\("):
            next(iter(foreign.iterate(one())))
        # What does not wait is no harm to this loop.
        assert await bridge.to_thread(foreign.run_coroutine_threadsafe(fetch(5)).result, PATIENCE) == 5


async def test_a_foreign_portal_can_be_used_from_this_loops_workers() -> None:
    async with bridge.background_loop() as foreign:
        assert await bridge.to_thread(foreign.call, threading.get_ident) != threading.get_ident()


async def test_the_portal_of_no_loop_in_a_plain_thread() -> None:
    def in_plain_thread() -> None:
        with pytest.raises(bridge.WrongThread, match=r"Send the work with bridge\.to_thread\("):
            bridge.portal()

    with concurrent.futures.ThreadPoolExecutor(1) as thread:
        thread.submit(in_plain_thread).result(PATIENCE)


@pytest.mark.parametrize("nonsense", [None, 7, "fetch", print])
def test_syncify_with_something_that_is_no_async_function(nonsense: Any) -> None:
    with pytest.raises(TypeError, match="syncify needs an async function"):
        bridge.syncify(nonsense)


def test_syncify_with_a_coroutine_closes_it() -> None:
    coro: Any = fetch()
    with pytest.raises(TypeError, match="syncify needs an async function"):
        bridge.syncify(coro)
    assert is_closed(coro)


def test_portal_takes_no_arguments() -> None:
    with pytest.raises(TypeError):
        bridge.portal(None)  # type: ignore[call-arg]


def test_a_background_loop_that_is_no_loop_is_refused_and_leaves_no_thread() -> None:
    before = threading.active_count()
    with pytest.raises((TypeError, AttributeError)):
        with bridge.background_loop(loop_factory=object):  # type: ignore[arg-type]
            pytest.fail("was entered")
    for thread in threading.enumerate():
        if thread.name == "bridge-loop":
            thread.join(PATIENCE)
    assert threading.active_count() <= before


@pytest.mark.parametrize("nonsense", [-1.0, "soon", None])
def test_a_shutdown_timeout_that_is_no_time_is_refused_at_once(nonsense: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="shutdown_timeout"):
        bridge.background_loop(shutdown_timeout=nonsense)


def test_a_background_loop_left_without_having_been_entered() -> None:
    with pytest.raises(RuntimeError, match="not entered"):
        bridge.background_loop().__exit__(None, None, None)

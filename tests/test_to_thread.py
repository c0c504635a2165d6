"""The first crossing: a blocking function, awaited, on every loop."""

from __future__ import annotations

import contextvars
import threading
from typing import Any

import anyio
import pytest

import bridge
from tests.conftest import Gate

pytestmark = pytest.mark.anyio


async def test_returns_what_the_function_returns() -> None:
    def add(a: int, *, b: int) -> int:
        return a + b

    assert await bridge.to_thread(add, 1, b=2) == 3


async def test_runs_in_another_thread() -> None:
    assert await bridge.to_thread(threading.get_ident) != threading.get_ident()


async def test_raises_what_the_function_raises() -> None:
    with pytest.raises(ZeroDivisionError):
        await bridge.to_thread(lambda: 1 / 0)


async def test_stop_iteration_arrives_as_an_error_that_an_await_can_raise() -> None:
    with pytest.raises(RuntimeError, match="next raised StopIteration") as caught:
        await bridge.to_thread(next, iter(()))
    assert isinstance(caught.value.__cause__, StopIteration)


async def test_context_variables_travel_and_do_not_come_back() -> None:
    var: contextvars.ContextVar[str] = contextvars.ContextVar("var")
    var.set("from the loop")

    def seen() -> str:
        value = var.get()
        var.set("from the thread")
        return value

    assert await bridge.to_thread(seen) == "from the loop"
    assert var.get() == "from the loop"


async def test_a_coroutine_function_is_refused_and_nothing_runs() -> None:
    ran = []

    async def fetch() -> None:
        ran.append(1)

    with pytest.raises(TypeError, match=r"fetch is a coroutine function.*await fetch\(\.\.\.\)"):
        await bridge.to_thread(fetch)
    assert not ran


async def test_a_plain_function_may_return_a_coroutine() -> None:
    async def fetch() -> str:
        return "fetched"

    assert await (await bridge.to_thread(lambda: fetch())) == "fetched"


def test_outside_any_loop_it_says_how_to_start_one() -> None:
    coro = bridge.to_thread(len, "abc")
    with pytest.raises(bridge.WrongThread, match=r"bridge\.run\(main\)"):
        coro.send(None)


async def test_many_at_once_all_come_back(new_gate: type[Gate]) -> None:
    results: list[int] = []

    async def one(number: int) -> None:
        results.append(await bridge.to_thread(lambda: number))

    async with anyio.create_task_group() as tasks:
        for number in range(500):
            tasks.start_soon(one, number)
    assert sorted(results) == list(range(500))


async def test_blocking_functions_do_not_wait_for_each_other(new_gate: type[Gate]) -> None:
    # Each of 20 functions waits until all 20 have begun: only that many threads at once can do it.
    everybody = threading.Barrier(20, timeout=10)

    async with anyio.create_task_group() as tasks:
        for _ in range(20):
            tasks.start_soon(bridge.to_thread, everybody.wait)


async def test_an_error_does_not_keep_its_arguments_alive() -> None:
    import gc
    import weakref

    class Big:
        pass

    big = Big()
    seen = weakref.ref(big)

    def fail(argument: Any) -> None:
        raise ValueError

    gc.collect()
    gc.disable()
    try:
        try:
            await bridge.to_thread(fail, big)
        except ValueError:
            pass
        del big
        assert seen() is None
    finally:
        gc.enable()

"""The `offload` decorator: what it keeps of a function, where it sends it, and what it refuses."""

from __future__ import annotations

import functools
import inspect
import threading
from typing import Any

import pytest

import bridge

pytestmark = pytest.mark.anyio


def where() -> str:
    return threading.current_thread().name


async def fetch() -> None:
    raise AssertionError("ran")


async def fetch_all() -> Any:
    yield 1


# -- what it makes -------------------------------------------------------------------------------------------------------


async def test_name_doc_signature_and_the_function_itself_are_kept() -> None:
    @bridge.offload(timeout=60)
    def area(width: float, *, height: float = 2.0) -> float:
        """Width times height."""
        return width * height

    assert area.__name__ == "area"
    assert area.__doc__ == "Width times height."
    assert list(inspect.signature(area).parameters) == ["width", "height"]
    assert area.__wrapped__(3.0) == 6.0  # type: ignore[attr-defined]
    assert inspect.iscoroutinefunction(area)
    assert await area(3.0, height=4.0) == 12.0


async def test_with_and_without_parentheses() -> None:
    assert await bridge.offload(divmod)(7, 2) == (3, 1)
    assert await bridge.offload()(divmod)(7, 2) == (3, 1)


async def test_a_method_gets_its_instance() -> None:
    class Reader:
        def __init__(self, name: str):
            self.name = name

        @bridge.offload
        def read(self, suffix: str) -> str:
            return self.name + suffix

    assert await Reader("file").read(".txt") == "file.txt"
    assert await bridge.offload("file".upper)() == "FILE"


async def test_partials_classes_and_callable_objects_can_be_offloaded() -> None:
    class Doubler:
        def __call__(self, number: int) -> int:
            return 2 * number

    assert await bridge.offload(functools.partial(divmod, 7))(2) == (3, 1)
    assert await bridge.offload(Doubler())(4) == 8
    assert await bridge.offload(int)("5") == 5


async def test_the_same_function_can_be_awaited_many_times_at_once() -> None:
    everybody = threading.Barrier(5, timeout=10)
    offloaded = bridge.offload(everybody.wait)
    import anyio

    async with anyio.create_task_group() as tasks:
        for _ in range(5):
            tasks.start_soon(offloaded)


# -- where it runs -------------------------------------------------------------------------------------------------------


async def test_by_default_it_runs_in_the_lane_thread() -> None:
    assert (await bridge.offload(where)()).startswith("bridge-thread-")
    async with bridge.lanes(thread=bridge.ThreadExecutor(1, name="mine")):
        assert await bridge.offload(where)() == "mine-1"
        assert await bridge.to_thread(where) == "mine-1"


async def test_a_lane_is_looked_up_at_each_call() -> None:
    offloaded = bridge.offload(to="db")(where)
    for name in ("one", "other"):
        async with bridge.lanes(db=bridge.ThreadExecutor(1, name=name)):
            assert await offloaded() == f"{name}-1"


async def test_an_executor_can_be_named_directly() -> None:
    async with bridge.ThreadExecutor(1, name="direct") as executor:
        assert await bridge.offload(to=executor)(where)() == "direct-1"


# -- bad input -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("async_fn", [fetch, fetch_all])
def test_an_async_function_is_refused_at_the_decoration(async_fn: Any) -> None:
    name = async_fn.__name__
    for decorate in (bridge.offload, bridge.offload(timeout=1)):
        with pytest.raises(TypeError, match=rf"{name} is an async function.*`await {name}\(\.\.\.\)`"):
            decorate(async_fn)


@pytest.mark.parametrize("async_fn", [fetch, fetch_all])
def test_map_refuses_an_async_function_at_the_call(async_fn: Any) -> None:
    with pytest.raises(TypeError, match=f"{async_fn.__name__} is an async function"):
        bridge.map(async_fn, [1])


async def test_an_async_function_behind_a_partial_is_refused_too() -> None:
    with pytest.raises(TypeError, match=r"fetch is a(n async| coroutine) function"):
        await bridge.offload(functools.partial(fetch))()
    with pytest.raises(TypeError, match="fetch is a coroutine function"):
        await bridge.to_thread(functools.partial(fetch))


@pytest.mark.parametrize("thing", ["a string", 5, [1, 2]])
def test_what_is_not_a_function_is_refused(thing: Any) -> None:
    for decorate in (bridge.offload, bridge.offload(timeout=1)):
        with pytest.raises(TypeError, match="a function is needed, not"):
            decorate(thing)
    with pytest.raises(TypeError, match="a function is needed, not"):
        bridge.map(thing, [1])


@pytest.mark.parametrize("to", [5, 1.5, threading.Thread, ["thread"], None])
async def test_a_place_that_is_none_is_refused(to: Any) -> None:
    with pytest.raises(TypeError, match="to= takes the name of a lane or an Executor"):
        bridge.offload(to=to)
    with pytest.raises(TypeError, match="to= takes the name of a lane or an Executor"):
        async for _ in bridge.map(int, ["1"], to=to):
            pass
    with pytest.raises(TypeError, match="to= takes the name of a lane or an Executor"):
        async for _ in bridge.stream(range, 3, to=to):
            pass


async def test_an_unknown_lane_is_refused_with_those_that_there_are() -> None:
    async with bridge.lanes(db=bridge.ThreadExecutor(1), files=bridge.ThreadExecutor(1)):
        for use in (
            bridge.offload(to="dp")(where),
            lambda: anext(bridge.map(int, ["1"], to="dp")),
            lambda: anext(bridge.stream(range, 3, to="dp")),
        ):
            with pytest.raises(bridge.UnknownLane, match=r"no lane 'dp'.*it has: db, files, process, thread\.") as caught:
                await use()
            assert 'executors={"dp": bridge.ThreadExecutor(1)}' in str(caught.value)
            assert isinstance(caught.value, LookupError)


@pytest.mark.parametrize("timeout", [0, -1, -0.5, float("-inf"), float("nan")])
def test_a_timeout_that_is_not_positive_is_refused(timeout: float) -> None:
    with pytest.raises(ValueError, match="timeout= must be positive, in seconds"):
        bridge.offload(timeout=timeout)


@pytest.mark.parametrize("timeout", ["5", True, [1], object()])
def test_a_timeout_that_is_no_number_is_refused(timeout: Any) -> None:
    with pytest.raises(TypeError, match="timeout= is in seconds, or None"):
        bridge.offload(timeout=timeout)


@pytest.mark.parametrize("cancel", ["ignore", "", 5, True])
def test_a_cancel_mode_that_does_not_exist_is_refused_with_those_that_do(cancel: Any) -> None:
    with pytest.raises(ValueError, match="cancel= is 'wait', 'abandon' or 'kill', not"):
        bridge.offload(cancel=cancel)


async def test_a_closed_executor_is_refused_by_name() -> None:
    executor = bridge.ThreadExecutor(1, name="gone")
    offloaded = bridge.offload(to=executor)(where)
    executor.shutdown()
    with pytest.raises(bridge.ExecutorClosed, match="'gone' was shut down and takes no more work"):
        await offloaded()


def test_outside_any_loop_it_says_how_to_start_one() -> None:
    coro = bridge.offload(where)()
    with pytest.raises(bridge.WrongThread, match=r"bridge\.run\(main\)"):
        coro.send(None)


async def test_wrong_arguments_are_the_functions_own_type_error() -> None:
    with pytest.raises(TypeError, match="unexpected keyword argument 'nonsense'"):
        await bridge.offload(where)(nonsense=1)  # type: ignore[call-arg]

"""The `offload` decorator: what it keeps of a function, where it sends it, and what it refuses."""

from __future__ import annotations

import functools
import gc
import inspect
import threading
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

import bridge
from tests.conftest import events_of

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


@pytest.mark.parametrize(("async_fn", "instead"), [(fetch, "await"), (fetch_all, "async for item in")])
def test_an_async_function_is_refused_at_the_decoration(async_fn: Any, instead: str) -> None:
    name = async_fn.__name__
    for decorate in (bridge.offload, bridge.offload(timeout=1)):
        with pytest.raises(TypeError, match=rf"{name} is an async function.*`{instead} {name}\(\.\.\.\)`"):
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


def numbers() -> Any:
    yield 1


def given() -> None:
    """What is not a function, most often because it has been called already."""


async def run_in_an_executor(thing: Any) -> Any:
    async with bridge.ThreadExecutor(1) as executor:
        return await executor.run(thing)


SENDERS: dict[str, Callable[[Any], Any]] = {
    "to_thread": bridge.to_thread,
    "to_process": bridge.to_process,
    "offload": lambda thing: bridge.offload(timeout=1)(thing)(),
    "map": lambda thing: anext(bridge.map(thing, [1])),
    "stream": lambda thing: anext(bridge.stream(thing)),
    "run": run_in_an_executor,
    "submit": lambda thing: bridge.ThreadExecutor(1).submit(thing),
    "Executor.map": lambda thing: bridge.ThreadExecutor(1).map(thing, [1]),
    "amap": lambda thing: anext(bridge.ThreadExecutor(1).amap(thing, [1])),
}

CALLED: dict[str, tuple[Callable[[], Any], str]] = {
    "a result": (lambda: 5, r"5\. Hand over the function and its arguments, `fn, \.\.\.`, and not .*`fn\(\.\.\.\)`"),
    "nothing": (given, r"None\. Hand over the function"),
    "a coroutine": (
        fetch,
        r"has made\. Write `await fetch\(\.\.\.\)`.*to_process\(fetch, ",
    ),
    "an async generator": (fetch_all, r"has made\. Write `async for item in fetch_all\(\.\.\.\)`"),
    "a generator": (numbers, r"the generator that numbers\(\.\.\.\) has made\. .*`bridge\.stream\(numbers, \.\.\.\)`"),
}


@pytest.mark.parametrize("what", CALLED)
@pytest.mark.parametrize("sender", SENDERS)
async def test_what_was_called_already_is_refused_with_what_to_write(sender: str, what: str) -> None:
    """A coroutine is closed, so that nothing else is reported about it."""
    make, message = CALLED[what]
    with events_of("BRG201", "BRG202") as events, warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always", RuntimeWarning)
        with pytest.raises(TypeError, match=f"a function is needed, not .*{message}"):
            await SENDERS[sender](make())
        gc.collect()
    assert not events
    assert [each for each in warned if each.category is RuntimeWarning] == []


async def test_a_place_that_is_given_as_the_function_is_written_as_an_option() -> None:
    with pytest.raises(TypeError, match=r'write @bridge\.offload\(to="process"\) above the function'):
        bridge.offload("process")  # type: ignore[call-overload]
    with ThreadPoolExecutor(1) as pool, pytest.raises(TypeError, match=r"write @bridge\.offload\(to=executor\)"):
        bridge.offload(pool)  # type: ignore[call-overload]


@pytest.mark.parametrize("option", ["to", "timeout", "cancel"])
@pytest.mark.parametrize("sender", ["to_thread", "to_process", "run"])
async def test_an_option_among_the_arguments_is_written_as_one_of_offload(sender: str, option: str) -> None:
    async with bridge.ThreadExecutor(1) as executor:
        send: Any = executor.run if sender == "run" else getattr(bridge, sender)
        with pytest.raises(TypeError, match=f"unexpected keyword argument '{option}'") as caught:
            await send(where, **{option: 5})
        notes = "\n".join(caught.value.__notes__)
        assert f"Write `await bridge.offload({option}=...)(where)(...)`" in notes
        with pytest.raises(TypeError) as other:
            await send(where, timed=5)
        assert not any("bridge.offload" in note for note in getattr(other.value, "__notes__", ()))


async def test_an_executor_of_others_is_wrapped() -> None:
    with ThreadPoolExecutor(1) as pool:
        for use in (
            lambda: bridge.offload(to=pool),  # type: ignore[call-overload]
            lambda: bridge.map(where, [1], to=pool),  # type: ignore[call-overload]
        ):
            with pytest.raises(TypeError, match=r"to=bridge\.ForeignExecutor\(ThreadPoolExecutor\(\.\.\.\)\)\."):
                use()
        with pytest.raises(TypeError, match=r"to=bridge\.ForeignExecutor\(ThreadPoolExecutor\(\.\.\.\)\)\."):
            await anext(bridge.stream(numbers, to=pool))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("kind", "made"),
    [
        (ThreadPoolExecutor, r"bridge\.ForeignExecutor\(ThreadPoolExecutor\(\)\)"),
        (bridge.ThreadExecutor, r"bridge\.ThreadExecutor\(\)"),
    ],
)
async def test_the_class_of_an_executor_is_no_place(kind: Any, made: str) -> None:
    with pytest.raises(TypeError, match=rf"Create an instance, .*: to={made}\."):
        bridge.offload(to=kind)


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
    with pytest.raises(ValueError, match="timeout= is in seconds and must be positive"):
        bridge.offload(timeout=timeout)


@pytest.mark.parametrize("timeout", ["5", True, [1], object()])
def test_a_timeout_that_is_no_number_is_refused(timeout: Any) -> None:
    with pytest.raises(TypeError, match=r"timeout= is in seconds, not .*: write timeout=30\.0, or None"):
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

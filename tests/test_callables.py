"""Callables that are not functions: async ones are recognised in every shape, at every way in; odd ones fail alone."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import functools
import gc
import os
import warnings
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

import anyio
import callable_targets as targets
import pytest
from callable_targets import ANSWER, ASYNC, FETCHED, ODD

import bridge
from tests.conftest import LOOPS, PATIENCE

pytestmark = pytest.mark.anyio


@contextmanager
def every(table: dict[str, Callable[[], Any]]) -> Iterator[Iterator[Any]]:
    """Give the objects of a table, one by one. A failure says which it was; none may leave an unawaited coroutine."""
    reached: list[str] = []

    def each() -> Iterator[Any]:
        for name, make in table.items():
            reached.append(name)
            yield make()

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            yield each()
        except BaseException as error:
            error.add_note(f"with: {reached[-1]}")
            raise
        gc.collect()
    assert [str(each.message) for each in caught] == []


# -- what must not be async ----------------------------------------------------------------------------------------------


async def to_thread(fn: Any) -> Any:
    return await bridge.to_thread(fn)


async def run_on_an_executor(fn: Any) -> Any:
    async with bridge.ThreadExecutor(1) as executor:
        return await executor.run(fn)


async def submit_to_an_executor(fn: Any) -> Any:
    with bridge.ThreadExecutor(1) as executor:
        return executor.submit(fn).result(PATIENCE)


async def offload(fn: Any) -> Any:
    return await bridge.offload(fn)()


async def map_in_threads(fn: Any) -> Any:
    async with bridge.ThreadExecutor(1) as executor:
        return [each async for each in executor.amap(fn, [0])].pop()


async def foreign_threads(fn: Any) -> Any:
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        async with bridge.ForeignExecutor(pool) as executor:
            return await executor.run(fn)


THREADS = [to_thread, run_on_an_executor, submit_to_an_executor, offload, map_in_threads, foreign_threads]
every_way = pytest.mark.parametrize("way", THREADS, ids=[way.__name__ for way in THREADS])
Way = Callable[[Any], Awaitable[Any]]


@every_way
async def test_an_async_callable_is_refused_by_threads(way: Way) -> None:
    with every(ASYNC) as fns:
        for fn in fns:
            with anyio.fail_after(PATIENCE):
                with pytest.raises(TypeError, match=r"is an? (coroutine|async) function.*Write `await \w+\(\.\.\.\)`"):
                    await way(fn)
                assert await way(targets.answer) == ANSWER


@every_way
async def test_an_async_generator_function_is_refused_by_threads(way: Way) -> None:
    with pytest.raises(TypeError, match=r"fetch_all is an async .*`async for item in fetch_all\(\.\.\.\)`"):
        await way(functools.partial(targets.fetch_all))


@every_way
async def test_a_decorator_that_returns_the_coroutine_is_found_by_its_result(way: Way) -> None:
    with every({"wraps": lambda: targets.wrapped, "partial": lambda: functools.partial(targets.wrapped)}) as fns:
        for fn in fns:
            with pytest.raises(TypeError, match=r"fetch is a coroutine function.*`await fetch\(\.\.\.\)`"):
                await way(fn)


@pytest.mark.parametrize("name", ["offload", "map", "stream"])
def test_an_async_callable_is_refused_before_anything_is_called(name: str) -> None:
    refuse: Any = {"offload": bridge.offload, "map": lambda fn: bridge.map(fn, [1]), "stream": bridge.stream}[name]
    with every(ASYNC) as fns:
        for fn in fns:
            with pytest.raises(TypeError, match=r"is an async function.*Write `await \w+\(\.\.\.\)`"):
                refuse(fn)


def test_a_foreign_process_pool_refuses_async_callables() -> None:
    with concurrent.futures.ProcessPoolExecutor(1) as pool, bridge.ForeignExecutor(pool) as executor, every(ASYNC) as fns:
        for fn in fns:
            with pytest.raises(TypeError, match=r"is a coroutine function: .* would only create the coroutine"):
                executor.submit(fn)


async def test_an_async_callable_is_no_callback() -> None:
    portal = bridge.portal()
    expected = pytest.raises(TypeError, match=r"Write portal\.run_coroutine_threadsafe\(\w+\(\.\.\.\)\)")
    with every(ASYNC) as fns:
        for fn in fns:
            with expected:
                portal.call_soon_threadsafe(fn)
            with expected:
                await bridge.to_thread(portal.call_soon_threadsafe, fn)


async def test_an_async_generator_function_is_no_callback() -> None:
    with pytest.raises(TypeError, match=r"Write portal\.iterate\(fetch_all\(\.\.\.\)\)"):
        bridge.portal().call_soon_threadsafe(targets.fetch_all)


# -- what must be async --------------------------------------------------------------------------------------------------


OPTIONS = {
    name: {"backend": "trio"} if backend == "trio" else {"loop_factory": options.get("loop_factory")}
    for name, (backend, options) in LOOPS.items()
}
backends = pytest.mark.parametrize("options", OPTIONS.values(), ids=list(OPTIONS))


@backends
def test_run_takes_every_async_callable(options: Any) -> None:
    with every(ASYNC) as fns:
        for fn in fns:
            assert bridge.run(fn, **options) == FETCHED


@backends
def test_run_takes_a_plain_function_that_returns_a_coroutine(options: Any) -> None:
    for fn in (targets.from_lambda, targets.wrapped, lambda: targets.AsyncCall()()):
        assert bridge.run(fn, **options) == FETCHED


@backends
def test_run_refuses_what_cannot_be_awaited(options: Any) -> None:
    with every(ODD) as fns:
        for fn in fns:
            with pytest.raises(
                TypeError, match=r"write `async def \w+\(\.\.\.\)`.* returned 42, which cannot be awaited"
            ):
                bridge.run(fn, **options)


def test_run_refuses_an_async_generator_function_with_the_right_line() -> None:
    with pytest.raises(TypeError, match=r"write `async for item in fetch_all\(\.\.\.\)` in an async function"):
        bridge.run(targets.fetch_all)  # type: ignore[arg-type]


async def test_syncify_takes_every_async_callable() -> None:
    with every(ASYNC) as fns:
        for fn in fns:
            synchronous = bridge.syncify(fn)
            assert await bridge.to_thread(synchronous) == FETCHED
            with pytest.raises(TypeError, match="needs an async function"):  # it is none any more, whatever it is made of
                bridge.syncify(synchronous)


def test_syncify_refuses_what_is_not_async() -> None:
    with every(ODD) as fns:
        for fn in fns:
            with pytest.raises(TypeError, match="is not one: call it as it is"):
                bridge.syncify(fn)


def test_syncify_says_what_to_do_about_decorators_and_generators() -> None:
    with pytest.raises(TypeError, match=r"mark the plain one with inspect\.markcoroutinefunction"):
        bridge.syncify(targets.wrapped)
    with pytest.raises(TypeError, match=r"write `for item in bridge\.portal\(\)\.iterate\(fetch_all\(\.\.\.\)\)`"):
        bridge.syncify(targets.fetch_all)  # type: ignore[arg-type]


# -- what may be either --------------------------------------------------------------------------------------------------


async def test_a_portal_calls_every_async_callable() -> None:
    with every(ASYNC) as fns:
        for fn in fns:
            assert await bridge.to_thread(bridge.portal().call, fn) == FETCHED


async def test_a_portal_calls_every_odd_callable() -> None:
    with every(ODD) as fns:
        for fn in fns:
            with anyio.fail_after(PATIENCE):
                assert await bridge.to_thread(bridge.portal().call, fn) == ANSWER


async def test_the_portal_of_this_loop_refuses_every_callable_alike() -> None:
    with every(ASYNC | ODD) as fns:
        for fn in fns:
            with pytest.raises(bridge.WouldDeadlock):
                bridge.portal().call(fn)


@every_way
async def test_threads_run_every_odd_callable(way: Way) -> None:
    with every(ODD) as fns:
        for fn in fns:
            with anyio.fail_after(PATIENCE):
                assert await way(fn) == ANSWER


# -- worker processes ----------------------------------------------------------------------------------------------------


async def run_in_a_process(executor: bridge.ProcessExecutor, fn: Any) -> Any:
    return await executor.run(fn)


async def submit_to_a_process(executor: bridge.ProcessExecutor, fn: Any) -> Any:
    return await anyio.to_thread.run_sync(executor.submit(fn).result, PATIENCE)


async def offload_to_a_process(executor: bridge.ProcessExecutor, fn: Any) -> Any:
    return await bridge.offload(to=executor)(fn)()


async def map_in_processes(executor: bridge.ProcessExecutor, fn: Any) -> Any:
    return [each async for each in executor.amap(fn, [0])].pop()


async def from_a_worker(executor: bridge.ProcessExecutor, fn: Any) -> Any:
    """A plain function in a worker process gets it, and has the loop call it."""
    return await executor.run(targets.on_the_portal, fn)


PROCESSES = [run_in_a_process, submit_to_a_process, offload_to_a_process, map_in_processes, from_a_worker]
every_process_way = pytest.mark.parametrize("way", PROCESSES, ids=[way.__name__ for way in PROCESSES])
ProcessWay = Callable[[bridge.ProcessExecutor, Any], Awaitable[Any]]


@every_process_way
async def test_processes_run_every_async_callable(way: ProcessWay) -> None:
    """In the worker, on a loop of its own; or on this loop, through a portal. No Mock can be pickled."""
    with every({name: make for name, make in ASYNC.items() if name not in targets.CANNOT_TRAVEL}) as fns:
        async with bridge.ProcessExecutor(1) as executor:
            for fn in fns:
                with anyio.fail_after(PATIENCE):
                    assert await way(executor, fn) == FETCHED


@every_process_way
async def test_an_odd_callable_fails_alone_in_processes(way: ProcessWay) -> None:
    """If it cannot be pickled; and the call behind it is served, by the same worker."""
    with every(ODD) as fns:
        async with bridge.ProcessExecutor(1) as executor:
            pid = await executor.run(os.getpid)
            for name, fn in zip(ODD, fns, strict=True):
                cannot = pytest.raises((Exception, targets.Strange))
                with anyio.fail_after(PATIENCE):
                    with cannot if name in targets.CANNOT_TRAVEL else contextlib.nullcontext():
                        assert await way(executor, fn) == ANSWER
                    assert await executor.run(os.getpid) == pid


async def test_odd_callables_in_the_queue_hold_up_nothing() -> None:
    async with bridge.ProcessExecutor(1) as executor:
        futures = {}
        for name, make in ODD.items():
            futures[name] = executor.submit(make()), executor.submit(targets.add, len(futures))
        for number, (name, (odd, plain)) in enumerate(futures.items()):
            assert await anyio.to_thread.run_sync(plain.result, PATIENCE) == number + 1, name
            error = await anyio.to_thread.run_sync(odd.exception, PATIENCE)
            assert (error is not None) == (name in targets.CANNOT_TRAVEL), name


async def test_what_a_worker_is_to_iterate_must_not_be_async() -> None:
    """Also where nothing about the function says that it is."""
    with every(
        {"threads": lambda: bridge.ThreadExecutor(1), "processes": lambda: bridge.ProcessExecutor(1)}
    ) as executors:
        for executor in executors:
            async with executor:
                for fn in (targets.from_lambda, targets.fetch, targets.fetch_all):
                    with pytest.raises(
                        TypeError, match=rf"{fn.__name__} returned an? .*: a worker iterates with a plain"
                    ):
                        async for _ in executor.stream(fn):
                            pass
                assert await executor.run(targets.answer) == ANSWER


def test_an_async_initializer_is_refused() -> None:
    with every(ASYNC) as fns:
        for fn in fns:
            with pytest.raises(TypeError, match=r"is a coroutine function: an initializer is called, not awaited"):
                bridge.ProcessExecutor(1, initializer=fn)


async def test_an_initializer_that_returns_a_coroutine_fails() -> None:
    async with bridge.ProcessExecutor(1, initializer=targets.from_lambda) as executor:
        with pytest.raises(bridge.WorkerDied) as caught:
            await executor.run(targets.answer)
    assert "from_lambda returned a coroutine, and nothing here awaits it" in str(caught.value)


# -- callbacks -----------------------------------------------------------------------------------------------------------


class Fails(targets.AnswersAll):
    """A callback that raises, and whose attributes are of no use to who wants to say so."""

    def __call__(self, *_: object) -> int:
        raise targets.Strange("deliberate")


async def send_from_the_loop(portal: bridge.Portal, callback: Any) -> None:
    portal.call_soon_threadsafe(callback)


async def send_from_a_thread(portal: bridge.Portal, callback: Any) -> None:
    await bridge.to_thread(portal.call_soon_threadsafe, callback)


async def callbacks_are_called(send: Any, said: Callable[[], list[str]]) -> None:
    """Send callbacks that cannot do, one after the other; each is reported, and the loop goes on."""
    portal = bridge.portal()
    for callback, expected in (
        (targets.from_lambda, "from_lambda returned a coroutine, and nothing here awaits it: a callback is called, not"),
        (targets.wrapped, "fetch returned a coroutine"),
        (lambda: targets.fetch_all(), "returned an async generator"),
        (Fails(), "deliberate"),
        (functools.partial(Fails()), "deliberate"),
    ):
        before = len(said())
        called = anyio.Event()
        await send(portal, callback)
        await send(portal, called.set)
        with anyio.fail_after(PATIENCE):
            await called.wait()
        (text,) = said()[before:]
        assert expected in text


def errors_in(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    return lambda: [str(record.exc_info[1]) for record in caplog.records if record.exc_info]


@pytest.mark.parametrize("send", [send_from_the_loop, send_from_a_thread], ids=["from the loop", "from a thread"])
@backends
def test_a_callback_that_returns_a_coroutine_or_is_odd_is_reported(options: Any, send: Any, caplog: Any) -> None:
    with every({}):
        bridge.run(callbacks_are_called, send, errors_in(caplog), **options)


@pytest.mark.parametrize("options", [{"loop_factory": None}, {}], ids=["asyncio", "bridge"])
def test_a_callback_is_reported_in_debug_mode_too(options: Any, caplog: Any) -> None:
    with every({}):
        bridge.run(callbacks_are_called, send_from_a_thread, errors_in(caplog), debug=True, **options)
    assert any("test_callables.py" in record.getMessage() for record in caplog.records)


@backends
def test_a_callback_of_a_worker_process_is_reported(options: Any, caplog: Any) -> None:
    async def main() -> None:
        async with bridge.ProcessExecutor(1) as executor:
            with anyio.fail_after(PATIENCE):
                await executor.run(targets.send_callbacks, [targets.from_lambda, targets.wrapped, targets.answer])
                assert await executor.run(targets.on_the_portal, targets.answer) == ANSWER

    with every({}):
        bridge.run(main, **options)
    texts = errors_in(caplog)()
    assert ["returned a coroutine, and nothing here awaits it" in text for text in texts] == [True, True]


@backends
def test_every_odd_callable_is_called_as_a_callback(options: Any, caplog: Any) -> None:
    async def main() -> None:
        portal = bridge.portal()
        for fn in fns:
            portal.call_soon_threadsafe(fn)
            await bridge.to_thread(portal.call_soon_threadsafe, fn)
        assert await bridge.to_thread(portal.call, targets.answer) == ANSWER

    with every(ODD) as fns:
        bridge.run(main, **options)
    assert errors_in(caplog)() == []


# -- what else takes callables ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("debug", [False, True], ids=["plain", "debug"])
def test_timers_take_every_odd_callable(debug: bool, caplog: Any) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        for fn in fns:
            loop.call_soon(fn)
            loop.call_later(0, fn)
            loop.call_later(1000, fn).cancel()
        await asyncio.sleep(0.001)

    with every(ODD) as fns:
        bridge.run(main, debug=debug)
    assert errors_in(caplog)() == []


async def test_futures_call_back_every_odd_callable() -> None:
    portal = bridge.portal()
    with every(ODD) as fns:
        async with bridge.ThreadExecutor(1) as executor:
            for fn in fns:
                submitted = executor.submit(targets.answer)
                submitted.add_done_callback(fn)
                started = await bridge.to_thread(lambda: portal.run_coroutine_threadsafe(targets.fetch()))
                started.add_done_callback(fn)
                assert await anyio.to_thread.run_sync(submitted.result, PATIENCE) == ANSWER
                assert await anyio.to_thread.run_sync(started.result, PATIENCE) == FETCHED


def test_a_listener_must_not_be_async() -> None:
    with every(ASYNC) as fns:
        for fn in fns:
            with pytest.raises(TypeError, match="is a coroutine function: on_event calls it in a thread"):
                bridge.on_event(fn)


def test_every_odd_callable_can_listen() -> None:
    with every(ODD) as fns:
        for fn in fns:
            with bridge.on_event(fn):
                pass


class OddCoroutine(Coroutine[Any, Any, str]):
    """What asyncio takes for a coroutine by its class, and nothing else about it is like one."""

    def __init__(self) -> None:
        self.inner = targets.fetch()

    def __getattr__(self, name: str) -> Any:
        raise targets.Strange(name)

    def send(self, value: Any) -> Any:
        return self.inner.send(value)

    def throw(self, *error: Any) -> Any:
        return self.inner.throw(*error)

    def close(self) -> None:
        self.inner.close()

    def __await__(self) -> Any:
        return self.inner.__await__()


@backends
def test_the_loop_runs_a_coroutine_without_a_name(options: Any) -> None:
    async def main() -> None:
        portal = bridge.portal()
        assert await bridge.to_thread(portal.call, OddCoroutine) == FETCHED
        if options.get("backend") != "trio":
            loop = asyncio.get_running_loop()
            future = await bridge.to_thread(asyncio.run_coroutine_threadsafe, OddCoroutine(), loop)
            assert await asyncio.wrap_future(future) == FETCHED

    bridge.run(main, **options)


async def test_odd_errors_reach_the_caller_and_nobody_else() -> None:
    """In whatever form; and the next call goes on."""
    portal = bridge.portal()
    async with bridge.ThreadExecutor(1) as executor:
        ways: list[Callable[[int], Awaitable[Any]]] = [
            lambda number: executor.run(targets.fail, number),
            lambda number: executor.run(portal.call, targets.fail, number),
            lambda number: anyio.to_thread.run_sync(executor.submit(targets.fail, number).result, PATIENCE),
        ]
        for way in ways:
            for number in range(len(targets.ODD_ERRORS)):
                with anyio.fail_after(PATIENCE):
                    with pytest.raises((RuntimeError, *targets.ODD_ERRORS)):
                        await way(number)
                    assert await executor.run(portal.call, targets.answer) == ANSWER


async def test_an_odd_result_of_a_portal_call_is_no_trouble_of_the_loop() -> None:
    portal = bridge.portal()
    with anyio.fail_after(PATIENCE):
        with pytest.raises(RuntimeError, match="__await__"):
            await bridge.to_thread(portal.call, targets.OddResult)
        assert await bridge.to_thread(portal.call, targets.answer) == ANSWER

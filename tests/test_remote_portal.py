"""The portal of a worker process, both sides of it in this one process: calls, callbacks, futures."""

# ruff: noqa: F811 - fixtures are imported by name
from __future__ import annotations

import asyncio
import contextvars
import gc
import logging
import os
import pickle
import threading
from concurrent.futures import CancelledError, as_completed
from concurrent.futures import wait as wait_for_futures
from types import SimpleNamespace
from typing import Any, Self

import anyio
import pytest

import bridge
from bridge.executors.process.worker.portal import portal_here
from bridge.loop.hosts import current_host
from bridge.threads.here import here
from tests.conftest import PATIENCE, Gate
from tests.played_worker import (  # noqa: F401
    Large,
    Recorder,
    Result,
    Unopenable,
    Unpicklable,
    Worker,
    anyio_backend,
    loop_name,
    numbers,
    on_home,
    place,
    played,
    until,
    worker,
)

pytestmark = pytest.mark.anyio

var: contextvars.ContextVar[str] = contextvars.ContextVar("var", default="unset")


class Odd(BaseException):
    """Not an Exception."""


# -- which loop ----------------------------------------------------------------------------------------------------------


async def test_the_portal_leads_into_the_loop_that_sent_the_job(worker: Worker) -> None:
    async def where() -> int:
        await anyio.sleep(0)
        return threading.get_ident()

    def job() -> list[int]:
        return [bridge.portal().call(threading.get_ident), bridge.portal().call(where)]

    assert await worker.run(job) == [threading.get_ident()] * 2


async def test_it_is_a_portal_and_says_where_it_leads(worker: Worker) -> None:
    def job() -> tuple[bool, str, bool]:
        portal = bridge.portal()
        return isinstance(portal, bridge.Portal), repr(portal), portal_here() is portal

    is_one, text, is_it = await worker.run(job)
    assert is_one
    assert is_it
    assert text == f"<bridge.Portal into a loop of process {os.getppid()}>"


async def test_it_cannot_be_sent_anywhere(worker: Worker) -> None:
    with pytest.raises(TypeError, match=r"call bridge\.portal\(\) where you need one"):
        await worker.run(lambda: pickle.dumps(bridge.portal()))


def test_outside_a_worker_there_is_no_way_back() -> None:
    with pytest.raises(bridge.WrongThread):
        portal_here()


async def test_a_job_from_a_thread_without_a_loop_is_told_what_to_write(worker: Worker) -> None:
    worker.origin = None
    for ask in (
        lambda: bridge.portal().call(int),
        lambda: bridge.portal().run_coroutine_threadsafe(anyio.sleep(0)).result(PATIENCE),
        lambda: bridge.portal().enter(Recorder([])).__enter__(),
        lambda: next(bridge.portal().iterate(numbers([]))),
    ):
        with pytest.raises(bridge.WrongThread, match=r"await executor\.run.*bridge\.background_loop\(\) as portal"):
            await worker.run(ask)


async def test_each_job_calls_into_the_loop_of_its_own_origin(worker: Worker) -> None:
    async with bridge.background_loop() as other:
        there = await anyio.to_thread.run_sync(other.call, current_host)
        first = await worker.run(lambda: bridge.portal().call(threading.get_ident))
        worker.origin = there
        second = await worker.run(lambda: bridge.portal().call(threading.get_ident))
        expected = await anyio.to_thread.run_sync(other.call, threading.get_ident)
    assert (first, second) == (threading.get_ident(), expected)


async def test_a_thread_that_outlives_its_job_still_calls_into_that_jobs_loop(worker: Worker, gate: Gate) -> None:
    found: list[int] = []

    def outlive(portal: bridge.Portal) -> None:
        gate.wait()
        found.append(portal.call(threading.get_ident))

    def job() -> threading.Thread:
        portal = bridge.portal()
        portal.call(int)
        thread = threading.Thread(target=outlive, args=(portal,))
        thread.start()
        return thread

    thread = await worker.run(job)
    worker.member.in_flight.clear()
    async with bridge.background_loop() as other:
        worker.origin = await anyio.to_thread.run_sync(other.call, current_host)
        await worker.run(lambda: bridge.portal().call(int))
        gate.open()
        await anyio.to_thread.run_sync(thread.join, PATIENCE)
    assert found == [threading.get_ident()]


# -- call ----------------------------------------------------------------------------------------------------------------


async def test_what_is_called_is_never_called_under_the_crews_turn(worker: Worker, place: tuple[str, bool]) -> None:
    if not place[1]:
        pytest.skip("it is called in another thread than the crew's")
    turns: list[bool] = []

    async def note() -> None:
        turns.append(worker.crew.in_turn)

    def job() -> None:
        portal = bridge.portal()
        portal.call(note)
        portal.call_soon_threadsafe(lambda: turns.append(worker.crew.in_turn))
        portal.run_coroutine_threadsafe(note()).result(PATIENCE)

    await worker.run(job)
    assert turns == [False] * 3


async def test_call_passes_arguments_and_returns_what_comes_of_it(worker: Worker) -> None:
    def join(*parts: str, sep: str) -> str:
        return sep.join(parts)

    async def slowly(*parts: str, sep: str) -> str:
        await anyio.sleep(0)
        return sep.join(parts)

    def job() -> list[Any]:
        return [bridge.portal().call(fn, "a", "b", sep="-") for fn in (join, slowly)]

    assert await worker.run(job) == ["a-b", "a-b"]


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize("kind", [ValueError, StopAsyncIteration, Odd, RecursionError])
async def test_call_raises_what_the_function_raises_and_shows_where(
    worker: Worker, kind: type[BaseException], is_async: bool
) -> None:
    def at_fault() -> None:
        raise kind("on the loop")

    async def at_fault_later() -> None:
        await anyio.sleep(0)
        raise kind("on the loop")

    def job() -> tuple[str, str]:
        try:
            bridge.portal().call(at_fault_later if is_async else at_fault)
        except kind as error:
            return str(error), str(error.__cause__)
        raise AssertionError("nothing was raised")

    text, cause = await worker.run(job)
    assert text == "on the loop"
    assert ("at_fault_later" if is_async else "at_fault") in cause


async def test_call_runs_in_the_context_of_the_job_and_does_not_change_it(worker: Worker) -> None:
    var.set("of the job")

    async def change() -> str:
        before = var.get()
        var.set("changed")
        await anyio.sleep(0)
        return before + ", " + var.get()

    def job() -> list[str]:
        return [bridge.portal().call(change), bridge.portal().call(change), bridge.portal().call(var.get)]

    started = worker.start(job)
    var.set("of the loop, later")
    assert await started.get() == ["of the job, changed"] * 2 + ["of the job"]
    assert var.get() == "of the loop, later"


async def test_a_coroutine_that_is_cancelled_by_somebody_else_is_an_error_of_the_call_only(
    worker: Worker, loop_name: str
) -> None:
    if loop_name == "trio":
        pytest.skip("a trio task cannot cancel itself")

    async def cancelled() -> None:
        asyncio.current_task().cancel()  # type: ignore[union-attr]
        await anyio.sleep_forever()

    def job() -> str:
        try:
            bridge.portal().call(cancelled)
        except CancelledError as error:
            return f"{type(error).__module__}, {bridge.portal().call(str, 'still there')}"
        return "nothing"

    assert await worker.run(job) == "concurrent.futures._base, still there"


async def test_a_coroutine_in_place_of_the_function_is_named_in_the_error(worker: Worker) -> None:
    with pytest.raises(TypeError, match=r"write portal\.call\(sleep, \.\.\.\)"):
        await worker.run(lambda: bridge.portal().call(anyio.sleep(0)))
    with pytest.raises(TypeError, match="needs a function"):
        await worker.run(lambda: bridge.portal().call(3))
    with pytest.raises(TypeError, match="is a coroutine function"):
        await worker.run(lambda: bridge.portal().call_soon_threadsafe(anyio.sleep, 0))


async def test_a_thread_of_the_worker_that_runs_a_loop_is_refused(worker: Worker) -> None:
    def job() -> list[str]:
        portal = bridge.portal()

        async def on_a_loop() -> list[str]:
            said = []
            enter = portal.enter(Recorder([])).__enter__
            for ask in (lambda: portal.call(int), lambda: portal.iterate(numbers([])), enter):
                try:
                    ask()
                except bridge.WrongThread as error:
                    said.append(str(error))
            return said

        return asyncio.run(on_a_loop())

    said = await worker.run(job)
    assert len(said) == 3
    assert all("await bridge.to_thread" in text for text in said)


async def test_syncify_runs_the_function_at_home(worker: Worker) -> None:
    async def where(number: int) -> tuple[int, int]:
        await anyio.sleep(0)
        return number, threading.get_ident()

    assert await worker.run(bridge.syncify(where), 7) == (7, threading.get_ident())


@bridge.syncify
async def decorated() -> int:
    await anyio.sleep(0)
    return threading.get_ident()


def test_the_function_behind_a_decorated_one_is_pickled_by_the_name_that_leads_to_it() -> None:
    from bridge.portals import _Original

    original = decorated.__wrapped__  # type: ignore[attr-defined]
    assert pickle.loads(pickle.dumps(_Original(decorated, original))) is original
    aside = bridge.syncify(undecorated)
    assert pickle.loads(pickle.dumps(_Original(aside, undecorated))) is undecorated


async def undecorated() -> None: ...


async def test_many_threads_of_the_worker_call_at_once(worker: Worker) -> None:
    async def double(number: int) -> int:
        await anyio.sleep(0.0001 * (number % 3))
        return 2 * number

    def job() -> dict[int, int]:
        portal = bridge.portal()
        found: dict[int, int] = {}

        def calls(first: int) -> None:
            for number in range(first, first + 25):
                found[number] = portal.call(double, number)

        threads = [threading.Thread(target=calls, args=(25 * n,)) for n in range(5)]
        for thread in threads:
            thread.start()
        for number in range(1000, 1025):
            found[number] = portal.call(double, number)
        for thread in threads:
            thread.join(PATIENCE)
        return found

    assert await worker.run(job) == {n: 2 * n for n in [*range(125), *range(1000, 1025)]}


# -- a loop that ends, a place that is lent ------------------------------------------------------------------------------


async def test_a_loop_that_has_closed_answers_loop_closed(worker: Worker, caplog: pytest.LogCaptureFixture) -> None:
    async with bridge.background_loop() as other:
        worker.origin = await anyio.to_thread.run_sync(other.call, current_host)
    done: list[int] = []
    for ask in (
        lambda: bridge.portal().call(done.append, 1),
        lambda: bridge.portal().run_coroutine_threadsafe(anyio.sleep(0)).result(PATIENCE),
        lambda: bridge.portal().enter(Recorder([])).__enter__(),
        lambda: next(bridge.portal().iterate(numbers([]))),
    ):
        with pytest.raises(bridge.LoopClosed):
            await worker.run(ask)
    with caplog.at_level(logging.ERROR):
        await worker.run(lambda: bridge.portal().call_soon_threadsafe(done.append, 2))
        await until(lambda: caplog.records)
    assert "sent by worker process 4711, was not called" in caplog.text
    assert not done


async def test_a_loop_that_closes_while_a_call_waits_answers_it(worker: Worker, gate: Gate) -> None:
    background = bridge.background_loop(shutdown_timeout=0.1)
    other = await anyio.to_thread.run_sync(background.__enter__)
    worker.origin = await anyio.to_thread.run_sync(other.call, current_host)

    async def never() -> None:
        gate.open()
        await anyio.sleep_forever()

    result = worker.start(lambda: bridge.portal().call(never))
    await gate.reached()
    await anyio.to_thread.run_sync(background.__exit__, KeyError, KeyError(), None)
    with pytest.raises((bridge.LoopClosed, CancelledError)):
        await result.get()


async def test_a_loop_that_is_being_closed_begins_nothing_any_more(worker: Worker, loop_name: str) -> None:
    if loop_name == "trio":
        pytest.skip("trio has no such time")
    host: Any = current_host()
    host.ending = True
    with pytest.raises(bridge.LoopClosed, match="about to be closed"):
        await worker.run(lambda: bridge.portal().run_coroutine_threadsafe(undecorated()).result(PATIENCE))
    host.ending = False
    gc.collect()  # a coroutine that is never awaited would warn now


async def test_the_job_lends_its_place_while_it_waits_and_takes_it_back_before_it_goes_on(worker: Worker) -> None:
    roster = worker.roster

    async def meanwhile() -> list[str]:
        await anyio.sleep(0)
        roster.taken = True
        return list(roster.log)

    result = worker.start(lambda: bridge.portal().call(meanwhile))
    await until(lambda: roster._returner is not None)
    assert not result.done.is_open()
    on_home(worker.crew.host, roster.give_back)
    on_home(worker.crew.host, worker.crew.post, lambda: None)
    assert await result.get() == ["lent"]
    assert roster.log == ["lent", "reclaimed"]


async def test_a_thread_beside_the_job_lends_nothing(worker: Worker) -> None:
    def job() -> None:
        portal = bridge.portal()
        thread = threading.Thread(target=portal.call, args=(int,))
        thread.start()
        thread.join(PATIENCE)
        portal.call_soon_threadsafe(int)
        portal.run_coroutine_threadsafe(anyio.sleep(0))

    await worker.run(job)
    await until(lambda: worker.at_rest)
    assert not worker.roster.log


async def test_waiting_for_a_future_lends_the_place(worker: Worker, gate: Gate) -> None:
    async def slowly() -> str:
        await gate.reached()
        return "done"

    result = worker.start(lambda: bridge.portal().run_coroutine_threadsafe(slowly()).result(PATIENCE))
    await until(lambda: worker.roster.log == ["lent"])
    worker.roster.taken = True
    gate.open()
    await until(lambda: worker.roster._returner is not None)
    assert not result.done.is_open()
    on_home(worker.crew.host, worker.roster.give_back)
    on_home(worker.crew.host, worker.crew.post, lambda: None)
    assert await result.get() == "done"
    assert worker.roster.log == ["lent", "reclaimed"]


@pytest.mark.parametrize("with_future", [False, True])
async def test_a_wait_for_a_loop_that_waits_for_this_executor_is_refused(
    worker: Worker, gate: Gate, with_future: bool
) -> None:
    if worker.crew.host is worker.origin:
        pytest.skip("then the crew would have moved elsewhere")

    def job() -> None:
        gate.wait()
        if with_future:
            bridge.portal().run_coroutine_threadsafe(undecorated()).result(PATIENCE)
        else:
            bridge.portal().call(int)

    result = worker.start(job)
    with current_host().standing_still(worker.crew, "waiting for its end"):  # type: ignore[arg-type]
        gate.open()
        result.done.wait()
    with pytest.raises(bridge.WouldDeadlock, match=r"job in thread 'worker process 4711' calls into"):
        await result.get()


# -- cancellation --------------------------------------------------------------------------------------------------------


async def test_a_job_cancelled_while_it_calls_has_the_coroutine_cancelled_and_is_told(
    worker: Worker, new_gate: type[Gate]
) -> None:
    begun, cleaned = new_gate(), new_gate()

    async def never() -> None:
        try:
            begun.open()
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(0)
            cleaned.open()

    def job() -> str:
        try:
            bridge.portal().call(never)
        except CancelledError as error:
            assert cleaned.is_open()
            return f"{error}; {bridge.portal().call(str, 'once')}"
        return "nothing"

    result = worker.start(job)
    await begun.reached()
    worker.cancel(result)
    assert await result.get() == "the job is cancelled; once"


async def test_a_job_that_was_cancelled_before_it_calls_is_told_instead(worker: Worker, gate: Gate) -> None:
    called: list[int] = []

    def job() -> str:
        gate.wait()
        try:
            bridge.portal().call(called.append, 1)
        except CancelledError as error:
            return str(error)
        return "nothing"

    result = worker.start(job)
    worker.cancel(result)
    gate.open()
    assert await result.get() == "the job is cancelled"
    assert not called


async def test_a_call_that_meets_the_cancellation_on_its_way_is_not_begun(worker: Worker, gate: Gate) -> None:
    called: list[int] = []

    def job() -> str:
        gate.wait()
        try:
            bridge.portal().call(called.append, 1)
        except CancelledError as error:
            return str(error)
        return "nothing"

    result = worker.start(job)
    result.job.cancelling = lambda: None  # the parent knows, the worker not yet
    gate.open()
    assert "cancelled before" in await result.get()
    assert not called


async def test_a_call_of_a_cancelled_jobs_clean_up_is_left_alone(worker: Worker, new_gate: type[Gate]) -> None:
    begun, go_on = new_gate(), new_gate()

    async def slowly() -> str:
        begun.open()
        await go_on.reached()
        return "cleaned up"

    def job() -> str:
        assert here.worker is not None
        here.worker.job.told = True  # type: ignore[union-attr]
        return bridge.portal().call(slowly)  # type: ignore[no-any-return]

    result = worker.start(job)
    await begun.reached()
    worker.cancel(result)
    go_on.open()
    assert await result.get() == "cleaned up"


async def test_what_a_signal_handler_raises_cancels_the_call_and_waits_for_its_clean_up(
    worker: Worker, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    cleaned: list[bool] = []

    async def never() -> None:
        try:
            gate.open()
            await anyio.sleep_forever()
        finally:
            cleaned.append(True)

    real, interrupted = worker.line.wait, []

    def wait(lock: Any) -> None:
        if not interrupted:
            interrupted.append(True)
            gate.wait()
            raise Odd("from a handler")
        real(lock)

    monkeypatch.setattr(worker.line, "wait", wait)

    def job() -> list[bool]:
        with pytest.raises(Odd):
            bridge.portal().call(never)
        return list(cleaned)

    assert await worker.run(job) == [True]


async def test_a_call_interrupted_before_it_was_sent_does_not_wait_for_ever(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, interrupted = worker.line.send, []

    def send(*args: Any) -> None:
        if not interrupted:
            interrupted.append(True)
            raise Odd("from a handler")
        real(*args)

    monkeypatch.setattr(worker.line, "send", send)
    with pytest.raises(Odd):
        await worker.run(lambda: bridge.portal().call(int))


# -- pickling ------------------------------------------------------------------------------------------------------------


async def test_arguments_that_cannot_be_pickled_are_the_callers_error(worker: Worker) -> None:
    def job() -> list[str]:
        portal = bridge.portal()
        said = []
        for ask in (
            lambda: portal.call(id, Unpicklable()),
            lambda: portal.call_soon_threadsafe(id, Unpicklable()),
            lambda: portal.enter(Unpicklable.__new__(UnpicklableContext)).__enter__(),
            lambda: next(portal.iterate(UnpicklableItems())),
        ):
            try:
                ask()
            except pickle.PicklingError as error:
                said.append(str(error))
        return said

    assert await worker.run(job) == ["cannot pickle it"] * 4
    assert not worker.line.waiting
    assert await worker.run(lambda: bridge.portal().call(str, "still there")) == "still there"


class UnpicklableContext(Unpicklable):
    async def __aenter__(self) -> None: ...

    async def __aexit__(self, *exc: object) -> None: ...


class UnpicklableItems(Unpicklable):
    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> int:
        raise StopAsyncIteration


async def test_an_answer_that_cannot_be_pickled_is_raised_in_the_worker_and_says_what_it_was(worker: Worker) -> None:
    async def later() -> Unpicklable:
        await anyio.sleep(0)
        return Unpicklable()

    def job() -> list[str]:
        said = []
        for fn in (Unpicklable, later):
            try:
                bridge.portal().call(fn)
            except pickle.PicklingError as error:
                said.append(f"{error} {error.__notes__[0]}")
        return [*said, bridge.portal().call(str, "still there")]

    text = "cannot pickle it It is what a portal call was to return to a worker process."
    assert await worker.run(job) == [text, text, "still there"]


async def test_what_cannot_be_rebuilt_is_the_callers_error_on_either_side(
    worker: Worker, caplog: pytest.LogCaptureFixture
) -> None:
    called: list[Any] = []

    def job() -> list[str]:
        portal = bridge.portal()
        said = []
        for fn, args in ((called.append, (Unopenable(),)), (Unopenable, ())):
            try:
                portal.call(fn, *args)
            except pickle.UnpicklingError as error:
                said.append(str(error))
        portal.call_soon_threadsafe(called.append, Unopenable())
        return [*said, portal.call(str, "still there")]

    with caplog.at_level(logging.ERROR):
        assert await worker.run(job) == ["cannot rebuild it", "cannot rebuild it", "still there"]
    assert not called
    assert "a callback, sent by worker process 4711, was not called" in caplog.text


async def test_a_large_request_is_unpickled_aside_and_the_ones_behind_it_wait(worker: Worker, gate: Gate) -> None:
    seen: list[Any] = []
    worker.crew.hold_asides = gate

    def note(item: Any) -> None:
        seen.append(item.value if isinstance(item, Large) else item)

    def job() -> None:
        portal = bridge.portal()
        portal.call_soon_threadsafe(note, 1)
        portal.call_soon_threadsafe(note, Large(2))
        portal.call_soon_threadsafe(note, 3)
        portal.call_soon_threadsafe(note, Large(4))
        portal.call(note, 5)

    result = worker.start(job)
    await until(lambda: worker.crew.asides)
    await until(lambda: len(worker.crew.calls._held) == 3)
    await until(lambda: seen)
    assert seen == [1]
    gate.open()
    await result.get()
    assert seen == [1, 2, 3, 4, 5]


async def test_a_large_answer_is_pickled_aside(worker: Worker) -> None:
    def job() -> str:
        return bridge.portal().call(Large, "much").value  # type: ignore[no-any-return]

    assert await worker.run(job) == "much"
    assert worker.crew.asides


async def test_a_request_that_is_cancelled_while_it_is_unpickled_is_not_begun(worker: Worker, gate: Gate) -> None:
    worker.crew.hold_asides = gate
    called: list[Any] = []

    async def note(item: Large) -> None:
        called.append(item)

    def job() -> bool:
        future = bridge.portal().run_coroutine_threadsafe(note(Large()))
        return future.cancel()

    monkey = worker.member.unpacker
    monkey.is_large = lambda parcel: True  # type: ignore[method-assign]
    assert await worker.run(job)
    await until(lambda: worker.crew.calls._unpacking is not None and worker.crew.calls._unpacking.cancelled)
    gate.open()
    await until(lambda: not worker.line.waiting)
    assert not called


# -- call_soon_threadsafe ------------------------------------------------------------------------------------------------


async def test_callbacks_run_once_in_order_and_before_a_call_that_comes_later(worker: Worker) -> None:
    seen: list[tuple[int, int]] = []

    def note(number: int) -> None:
        seen.append((number, threading.get_ident()))

    def job() -> int:
        portal = bridge.portal()
        for number in range(300):
            portal.call_soon_threadsafe(note, number)
        return portal.call(len, seen)  # type: ignore[no-any-return]

    assert await worker.run(job) == 300
    assert seen == [(number, threading.get_ident()) for number in range(300)]


async def test_a_callback_that_raises_is_reported_and_the_others_run(
    worker: Worker, loop_name: str, caplog: pytest.LogCaptureFixture
) -> None:
    seen: list[int] = []
    told: list[Any] = []

    def note(number: int) -> None:
        seen.append(number)
        if number == 1:
            raise ZeroDivisionError("deliberate")

    def job() -> None:
        for number in range(3):
            bridge.portal().call_soon_threadsafe(note, number)
        bridge.portal().call(int)

    if loop_name == "trio":  # which has no exception handler: logged
        with caplog.at_level(logging.ERROR, logger="bridge.loop"):
            await worker.run(job)
        told = [record.exc_info[1] for record in caplog.records if record.exc_info]
    else:
        loop = asyncio.get_running_loop()
        before = loop.get_exception_handler()
        loop.set_exception_handler(lambda loop, context: told.append(context["exception"]))
        await worker.run(job)
        loop.set_exception_handler(before)
    assert seen == [0, 1, 2]
    assert [str(error) for error in told] == ["deliberate"]


# -- futures -------------------------------------------------------------------------------------------------------------


async def test_futures_carry_results_and_errors(worker: Worker) -> None:
    async def half(number: int) -> int:
        await anyio.sleep(0.0001 * (5 - number))
        if number % 2:
            raise ValueError(f"{number} is odd")
        return number // 2

    def job() -> tuple[list[str], set[int], bool]:
        portal = bridge.portal()
        futures = {portal.run_coroutine_threadsafe(half(number)): number for number in range(6)}
        finished = {futures[future] for future in as_completed(futures, PATIENCE)}
        said = [str(future.exception() or future.result()) for future in futures]
        return said, finished, not wait_for_futures(futures, 0).not_done

    said, finished, done = await worker.run(job)
    assert said == ["0", "1 is odd", "1", "3 is odd", "2", "5 is odd"]
    assert finished == set(range(6))
    assert done


async def test_a_done_callback_is_called_and_may_not_wait_for_the_portal(worker: Worker, new_gate: type[Gate]) -> None:
    said: list[Any] = []
    called, go_on = new_gate(), new_gate()

    async def after(gate: Gate) -> int:
        await gate.reached()
        return 42

    def job() -> None:
        portal = bridge.portal()
        first, second = (portal.run_coroutine_threadsafe(after(gate)) for gate in (go_on, called))

        def callback(done: Any) -> None:
            said.append(done.result())
            for ask in (lambda: portal.call(int), lambda: second.result(PATIENCE)):
                try:
                    ask()
                except bridge.WouldDeadlock as error:
                    said.append(type(error).__name__)
            portal.call_soon_threadsafe(called.open)

        first.add_done_callback(callback)
        go_on.open()
        second.result(PATIENCE)

    await worker.run(job)
    assert said == [42, "WouldDeadlock", "WouldDeadlock"]


async def test_cancelling_a_future_cancels_its_coroutine(worker: Worker, new_gate: type[Gate]) -> None:
    begun, ended = new_gate(), new_gate()

    async def never() -> None:
        try:
            begun.open()
            await anyio.sleep_forever()
        finally:
            ended.open()

    def job() -> tuple[bool, bool, bool]:
        future = bridge.portal().run_coroutine_threadsafe(never())
        begun.wait()
        answer = future.cancel(), future.cancel(), future.cancelled()
        assert wait_for_futures([future], PATIENCE).done
        return answer

    assert await worker.run(job) == (True, True, True)
    await ended.reached()


async def test_a_finished_future_cannot_be_cancelled(worker: Worker) -> None:
    async def answer() -> int:
        return 42

    def job() -> tuple[int, bool]:
        future = bridge.portal().run_coroutine_threadsafe(answer())
        return future.result(PATIENCE), future.cancel()

    assert await worker.run(job) == (42, False)


async def test_a_future_that_is_waited_for_with_a_limit_goes_on(worker: Worker, gate: Gate) -> None:
    async def slowly() -> str:
        await gate.reached()
        return "done"

    def job() -> str:
        future = bridge.portal().run_coroutine_threadsafe(slowly())
        with pytest.raises(TimeoutError):
            future.result(0.001)
        with pytest.raises(TimeoutError):
            future.result(0)
        gate.open()
        return future.result(PATIENCE)

    assert await worker.run(job) == "done"


async def test_run_coroutine_threadsafe_needs_a_coroutine_that_can_travel(worker: Worker) -> None:
    async def never(_: Any) -> None: ...

    def job() -> None:
        with pytest.raises(TypeError, match=r"run_coroutine_threadsafe\(fn\(\.\.\.\)\), with the call"):
            bridge.portal().run_coroutine_threadsafe(never)  # type: ignore[arg-type]
        packer = worker.line.packer
        worker.line.packer = SimpleNamespace(pack=lambda coro: packer.pack((coro, Unpicklable())))
        with pytest.raises(pickle.PicklingError):
            bridge.portal().run_coroutine_threadsafe(never(None))
        worker.line.packer = packer

    await worker.run(job)
    gc.collect()  # a coroutine that is never awaited would warn now

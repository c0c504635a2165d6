"""Calls of a loop from a thread that does not run it (BRG301): told and handed over; in debug mode refused."""

from __future__ import annotations

import asyncio
import gc
import inspect
import linecache
import logging
import random
import sys
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from threading import Thread, get_ident
from typing import Any

import pytest

import bridge
from bridge.diagnostics.events import Event
from bridge.diagnostics.places import Place
from bridge.loop import wrong_thread

from .conftest import PATIENCE, events_of, logged, within

SEED = 20240301


@pytest.fixture
def events() -> Iterator[list[Event]]:
    """What was reported of wrong threads."""
    with events_of("BRG301") as events:
        yield events


def run(main: Callable[[], Coroutine[Any, Any, Any]], *, debug: bool = False, diagnostics: bool = True) -> Any:
    async def in_time() -> Any:
        async with asyncio.timeout(PATIENCE):
            return await main()

    with asyncio.Runner(loop_factory=lambda: bridge.new_event_loop(diagnostics=diagnostics), debug=debug) as runner:
        return runner.run(in_time())


async def elsewhere(function: Callable[[], Any]) -> Any:
    """What `function` returns, or the exception it raises, in a thread of its own, while the loop is free."""
    outcome: list[Any] = []
    loop, done = asyncio.get_running_loop(), asyncio.Event()

    def call() -> None:
        try:
            outcome.append(function())
        except Exception as error:
            outcome.append(error)
        loop.call_soon_threadsafe(done.set)

    thread = Thread(target=call)
    thread.start()
    await done.wait()
    thread.join()
    return outcome[0]


async def asleep() -> None:
    """Long enough that everybody who was about to wait does so."""
    for _ in range(5):
        await asyncio.sleep(0)


def line_of(place: Place | None) -> str:
    assert place is not None
    assert place.file == __file__
    return linecache.getline(place.file, place.line).strip()


# -- what is called: a loop and a note of who has run -> the call in the thread, and what the loop's side waits for ----

Calls = tuple[Callable[[], Any], Callable[[], Coroutine[Any, Any, Any]]]


def by_call_soon(ran: list[int]) -> Calls:
    loop, done = asyncio.get_running_loop(), asyncio.Event()
    return lambda: loop.call_soon(note, ran, done), done.wait


def by_call_later(ran: list[int]) -> Calls:
    loop, done = asyncio.get_running_loop(), asyncio.Event()
    return lambda: loop.call_later(0.0, note, ran, done), done.wait


def by_call_at(ran: list[int]) -> Calls:
    loop, done = asyncio.get_running_loop(), asyncio.Event()
    return lambda: loop.call_at(loop.time(), note, ran, done), done.wait


def by_create_task(ran: list[int]) -> Calls:
    loop, done = asyncio.get_running_loop(), asyncio.Event()

    async def work() -> None:
        note(ran, done)

    return lambda: loop.create_task(work()), done.wait


def by_set_result(ran: list[int]) -> Calls:
    future = asyncio.get_running_loop().create_future()
    return lambda: future.set_result(1), partial(waits_for, future, ran)


def by_set_exception(ran: list[int]) -> Calls:
    future = asyncio.get_running_loop().create_future()
    return lambda: future.set_exception(KeyError(1)), partial(waits_for, future, ran)


def by_cancel_of_a_future(ran: list[int]) -> Calls:
    future = asyncio.get_running_loop().create_future()
    return lambda: future.cancel(), partial(waits_for, future, ran)


def by_cancel_of_a_task(ran: list[int]) -> Calls:
    task = asyncio.get_running_loop().create_task(asyncio.sleep(PATIENCE))
    return lambda: task.cancel(), partial(waits_for, task, ran)


def by_event_set(ran: list[int]) -> Calls:
    event = asyncio.Event()
    return lambda: event.set(), partial(waits_for, asyncio.ensure_future(event.wait()), ran)


def by_put_nowait(ran: list[int]) -> Calls:
    queue: asyncio.Queue[int] = asyncio.Queue()
    return lambda: queue.put_nowait(1), partial(waits_for, asyncio.ensure_future(queue.get()), ran)


def by_release(ran: list[int]) -> Calls:
    semaphore = asyncio.Semaphore(0)
    return lambda: semaphore.release(), partial(waits_for, asyncio.ensure_future(semaphore.acquire()), ran)


async def waits_for(future: asyncio.Future[Any], ran: list[int]) -> None:
    await asyncio.wait([future])
    ran.append(get_ident())
    if not future.cancelled():
        future.exception()


def note(ran: list[int], done: asyncio.Event) -> None:
    ran.append(get_ident())
    done.set()


OF_THE_LOOP = {
    "loop.call_soon": by_call_soon,
    "loop.call_later": by_call_later,
    "loop.call_at": by_call_at,
    "loop.create_task": by_create_task,
}
OF_FUTURES = {
    "future.set_result": by_set_result,
    "future.set_exception": by_set_exception,
    "future.cancel": by_cancel_of_a_future,
    "task.cancel": by_cancel_of_a_task,
}
OF_ASYNCIO = {
    "asyncio.Event.set": by_event_set,
    "asyncio.Queue.put_nowait": by_put_nowait,
    "asyncio.Semaphore.release": by_release,
}
CALLS = {**OF_THE_LOOP, **OF_FUTURES, **OF_ASYNCIO}


# -- in production -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", CALLS)
def test_a_call_is_handed_over_and_told(method: str, events: list[Event]) -> None:
    ran: list[int] = []

    async def main() -> None:
        call, wait = CALLS[method](ran)
        waiting = asyncio.create_task(wait())
        await asleep()
        outcome = await elsewhere(call)
        assert not isinstance(outcome, Exception)
        await waiting

    run(main)
    assert ran == [get_ident()]
    [event] = events
    assert event.headline.startswith(f"{method} was called in thread 'Thread-")
    assert event.attributes["bridge.method"] == method
    assert method.rpartition(".")[2] in line_of(event.place)
    assert event.details[0] == "the loop runs in thread 'MainThread'; it was handed over to the loop's thread"


@pytest.mark.parametrize("seed", range(SEED, SEED + 5))
def test_one_call_wakes_up_all_that_wait(seed: int, events: list[Event]) -> None:
    chance = random.Random(seed)

    async def main() -> None:
        event, condition = asyncio.Event(), asyncio.Condition()

        async def notified() -> bool:
            async with condition:
                return await condition.wait()

        for _ in range(30):
            waiting = [asyncio.create_task(event.wait()) for _ in range(chance.randrange(1, 20))]
            await asleep()
            assert await elsewhere(event.set) is None
            assert all(await asyncio.gather(*waiting))
            event.clear()
            waiting = [asyncio.create_task(notified()) for _ in range(chance.randrange(1, 20))]
            await asleep()
            async with condition:
                assert await elsewhere(condition.notify_all) is None
            assert all(await asyncio.gather(*waiting))
        assert not event._waiters  # type: ignore[attr-defined]
        assert not condition._waiters  # type: ignore[attr-defined]

    run(main)
    assert len(events) == 60  # one for each call


def test_a_line_is_logged_once_and_told_each_time(events: list[Event], caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        await elsewhere(lambda: [loop.call_soon(int) for _ in range(5)])

    run(main)
    assert len(events) == 5
    assert len(logged(caplog, "bridge.threads.BRG301")) == 1


def test_a_handle_can_be_cancelled(events: list[Event]) -> None:
    ran: list[int] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        handle = await elsewhere(lambda: loop.call_later(0.01, ran.append, 1))
        handle.cancel()
        await asyncio.sleep(0.02)

    run(main)
    assert ran == []
    assert len(events) == 1


def test_the_loop_stops(events: list[Event]) -> None:
    loop = bridge.new_event_loop(diagnostics=True)
    thread = Thread(target=lambda: loop.stop())
    loop.call_soon(thread.start)
    loop.run_forever()
    thread.join()
    loop.close()
    assert [event.attributes["bridge.method"] for event in events] == ["loop.stop"]


def test_a_task_factory_is_not_asked_in_the_wrong_thread(events: list[Event]) -> None:
    asked: list[int] = []

    def factory(loop: Any, coro: Any, **options: Any) -> asyncio.Task[Any]:
        asked.append(get_ident())
        return asyncio.Task(coro, loop=loop, **options)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_task_factory(factory)
        assert await (await elsewhere(lambda: loop.create_task(asyncio.sleep(0, 7)))) == 7
        loop.set_task_factory(None)

    run(main)
    assert asked == []
    assert len(events) == 1


def test_what_goes_wrong_with_the_report_does_not_reach_the_caller(
    events: list[Event], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(site: object) -> None:
        raise RecursionError("too deep to say")

    monkeypatch.setattr(wrong_thread, "place_of", fail)
    caplog.set_level(logging.DEBUG, "bridge")

    async def main() -> None:
        loop, done = asyncio.get_running_loop(), asyncio.Event()
        assert isinstance(await elsewhere(lambda: loop.call_soon(done.set)), asyncio.Handle)
        await done.wait()

    run(main)
    assert events == []
    assert "a call from a wrong thread could not be reported" in caplog.text
    with pytest.raises(bridge.WrongThread, match=r"^Non-thread-safe operation"):
        wrong_thread.refuse(bridge, told=True)


def test_the_right_thread_is_never_told(events: list[Event]) -> None:
    async def main() -> None:
        for make in CALLS.values():
            call, wait = make([])
            waiting = asyncio.create_task(wait())
            await asleep()
            call()
            await waiting

    run(main)
    run(main, debug=True)
    assert events == []


def test_with_diagnostics_off_it_is_asyncios_own(events: list[Event]) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(await elsewhere(lambda: loop.call_soon(int)), asyncio.Handle)

    run(main, diagnostics=False)
    assert events == []


# -- in debug mode -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", {**OF_THE_LOOP, **OF_FUTURES})
def test_in_debug_mode_a_call_is_refused_before_anything_changes(method: str, events: list[Event]) -> None:
    ran: list[int] = []

    async def main() -> None:
        loop: Any = asyncio.get_running_loop()
        call, wait = CALLS[method](ran)
        waiting = asyncio.create_task(wait())
        await asleep()
        for _ in range(2):
            error = await elsewhere(call)
            assert isinstance(error, bridge.WrongThread)
            assert f"{method} was called in thread" in str(error)
            assert "call_soon_threadsafe" in str(error) or "run_coroutine_threadsafe" in str(error)
        await asleep()
        assert ran == []
        assert not waiting.done()
        loop.call_soon(call)
        await waiting

    run(main, debug=True)
    gc.collect()  # a coroutine never awaited would be an error
    assert ran == [get_ident()]
    assert len(events) == 2
    assert events[0].details[0].endswith("it was refused, and nothing has changed")


@pytest.mark.parametrize("method", OF_ASYNCIO)
def test_in_debug_mode_asyncios_own_objects_leave_no_waiter_behind(method: str, events: list[Event]) -> None:
    ran: list[int] = []

    async def main() -> None:
        call, wait = CALLS[method](ran)
        waiting = asyncio.create_task(wait())
        await asleep()
        assert isinstance(await elsewhere(call), bridge.WrongThread)
        await waiting

    run(main, debug=True)
    assert ran == [get_ident()]
    assert "those who waited for it are woken up by the loop" in events[0].details[0]


def test_in_debug_mode_every_waiter_of_an_event_is_woken_up(events: list[Event]) -> None:
    async def main() -> None:
        event = asyncio.Event()
        waiting = [asyncio.create_task(event.wait()) for _ in range(5)]
        await asleep()
        waiting[2].cancel()
        assert isinstance(await elsewhere(event.set), bridge.WrongThread)
        results = await asyncio.gather(*waiting, return_exceptions=True)
        assert [result is True for result in results] == [True, True, False, True, True]

    run(main, debug=True)


def test_in_debug_mode_a_condition_wakes_up_as_many_as_it_was_told(events: list[Event]) -> None:
    async def main() -> None:
        condition = asyncio.Condition()
        woken: list[int] = []

        async def wait(number: int) -> None:
            async with condition:
                await condition.wait()
                woken.append(number)

        waiting = [asyncio.create_task(wait(number)) for number in range(4)]
        await asleep()
        async with condition:
            assert isinstance(await elsewhere(lambda: condition.notify(3)), bridge.WrongThread)
        await asyncio.wait(waiting[:3])
        await asleep()
        assert woken == [0, 1, 2]
        async with condition:
            condition.notify_all()
        await waiting[3]

    run(main, debug=True)


@pytest.mark.skipif(sys.version_info < (3, 13), reason="Queue.shutdown is new in 3.13")
@pytest.mark.parametrize("immediate", [False, True])
def test_in_debug_mode_a_queue_that_is_shut_down_lets_everybody_go(immediate: bool, events: list[Event]) -> None:
    async def main() -> None:
        queue: Any = asyncio.Queue(maxsize=1)
        queue.put_nowait(0)
        waiting = [asyncio.create_task(queue.put(number)) for number in range(3)]
        if immediate:
            waiting.append(asyncio.create_task(queue.join()))
        await asleep()
        assert isinstance(await elsewhere(lambda: queue.shutdown(immediate)), bridge.WrongThread)
        results = await asyncio.gather(*waiting, return_exceptions=True)
        assert [type(each).__name__ for each in results[:3]] == ["QueueShutDown"] * 3

    run(main, debug=True)


def test_in_debug_mode_none_of_those_gathered_is_cancelled(events: list[Event]) -> None:
    async def main() -> None:
        gathered = asyncio.gather(*(asyncio.sleep(0.01, number) for number in range(3)))
        await asleep()
        assert isinstance(await elsewhere(gathered.cancel), bridge.WrongThread)
        assert await gathered == [0, 1, 2]

    run(main, debug=True)


def test_in_debug_mode_a_future_made_elsewhere_keeps_its_callbacks(events: list[Event]) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[int] = asyncio.Future(loop=loop)
        done: list[Any] = []
        future.add_done_callback(done.append)
        future.add_done_callback(done.append)
        waiting = asyncio.ensure_future(waits_for(future, []))
        await asleep()
        assert await elsewhere(lambda: future.set_result(3)) is None
        await waiting
        assert done == [future, future]

    run(main, debug=True)
    assert len(events) == 3
    assert all(event.headline.startswith("future.set_result was called") for event in events)


def test_in_debug_mode_with_diagnostics_off_it_is_refused_without_an_event(events: list[Event]) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(await elsewhere(lambda: loop.call_soon(int)), bridge.WrongThread)

    run(main, debug=True, diagnostics=False)
    assert events == []


def test_in_debug_mode_callbacks_are_checked_as_asyncio_does() -> None:
    async def coroutine_function() -> None: ...

    async def main() -> None:
        loop = asyncio.get_running_loop()
        wrong: list[Any] = [coroutine_function, loop.create_future(), asyncio.current_task(), 1]
        if sys.version_info >= (3, 12):
            wrong.append(inspect.markcoroutinefunction(lambda: None))
        for each in wrong:
            for schedule in (loop.call_soon, partial(loop.call_later, 0), loop.call_soon_threadsafe):
                with pytest.raises(TypeError):
                    schedule(each)

    run(main, debug=True)


# -- every call is accounted for ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(SEED, SEED + 3))
def test_of_many_calls_from_many_threads_each_arrives_once(seed: int, events: list[Event]) -> None:
    chance = random.Random(seed)
    threads, each = 4, 120
    kinds = [[chance.choice(("soon", "later", "task", "result")) for _ in range(each)] for _ in range(threads)]
    arrived: Counter[int] = Counter()
    wrong: list[int] = []
    home = get_ident()

    def arrive(number: int) -> None:
        arrived[number] += 1
        if get_ident() != home:
            wrong.append(number)

    async def task(number: int) -> None:
        await asyncio.sleep(0)
        arrive(number)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        futures = {number: loop.create_future() for number in range(threads * each)}
        for number, future in futures.items():
            future.add_done_callback(lambda _, number=number: arrive(number))

        def call(thread: int) -> None:
            for index, kind in enumerate(kinds[thread]):
                number = thread * each + index
                if kind == "soon":
                    loop.call_soon(arrive, number)
                elif kind == "later":
                    loop.call_later(0.001, arrive, number)
                elif kind == "task":
                    loop.create_task(task(number))
                else:
                    futures[number].set_result(None)

        callers = [Thread(target=call, args=(thread,)) for thread in range(threads)]
        for caller in callers:
            caller.start()
        while len(arrived) < threads * each:
            await asyncio.sleep(0.001)
        for caller in callers:
            caller.join()

    run(main)
    assert arrived == Counter(range(threads * each))
    assert wrong == []
    assert len(events) == threads * each


@pytest.mark.parametrize("seed", range(SEED, SEED + 3))
def test_of_many_refused_calls_none_arrives_and_no_waiter_hangs(seed: int, events: list[Event]) -> None:
    chance = random.Random(seed)
    rounds = [chance.choice((*OF_THE_LOOP, *OF_FUTURES)) for _ in range(60)]
    waits = [chance.choice(tuple(OF_ASYNCIO)) for _ in range(60)]
    ran: list[int] = []
    refused: list[Any] = []

    async def main() -> None:
        calls = [CALLS[method](ran) for method in rounds]
        woken = [OF_ASYNCIO[method](ran) for method in waits]
        waiting = [asyncio.create_task(wait()) for _, wait in calls]
        answered = [asyncio.create_task(wait()) for _, wait in woken]
        await asleep()

        def refuse_all() -> None:
            for call, _ in (*calls, *woken):
                try:
                    call()
                except bridge.WrongThread as error:
                    refused.append(error)

        await elsewhere(refuse_all)
        await asyncio.gather(*answered)
        await asleep()
        assert not any(task.done() for task in waiting)
        for call, _ in calls:
            call()
        await asyncio.gather(*waiting)

    run(main, debug=True)
    assert len(refused) == len(events) == 120
    assert ran == [get_ident()] * 120


# -- a thread that knows no loop ---------------------------------------------------------------------------------------


def way_back() -> str:
    with pytest.raises(bridge.WrongThread) as caught:
        bridge.portal()
    return str(caught.value)


@bridge.syncify
async def on_the_loop() -> str:
    return "there"


def synchronous_way_back() -> str:
    with pytest.raises(bridge.WrongThread) as caught:
        on_the_loop()
    return str(caught.value)


@pytest.mark.parametrize("ask", [way_back, synchronous_way_back])
def test_in_a_pool_of_the_program_there_is_no_portal_and_the_way_to_one_is_told(
    ask: Callable[[], str], loop_factory: Any
) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        with ThreadPoolExecutor(1) as pool:
            said = await loop.run_in_executor(pool, ask)
            assert said.startswith("bridge.portal() was called in a thread of a ThreadPoolExecutor, which does not know")
            assert "bridge.to_thread(...)" in said
            # What it says works.
            portal = bridge.portal()
            assert await loop.run_in_executor(pool, portal.call, on_the_loop.__wrapped__) == "there"  # type: ignore[attr-defined]
            assert "bridge.ForeignExecutor(pool).run(...)" in said
            assert await bridge.ForeignExecutor(pool).run(on_the_loop) == "there"
        assert await bridge.to_thread(on_the_loop) == "there"

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(main())


def test_in_a_thread_of_the_program_it_is_said_which_ones_know_a_loop() -> None:
    said: list[str] = []
    thread = Thread(target=lambda: said.append(way_back()))
    thread.start()
    within(thread)
    assert said[0].startswith("bridge.portal() was called in a thread that knows no loop. Threads of bridge")
    assert "`with bridge.background_loop() as portal`" in said[0]

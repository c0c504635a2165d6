"""Waits that cannot end (BRG302): found by what the threads wait for, told once, and ended where bridge can."""

from __future__ import annotations

import asyncio
import concurrent.futures
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest

import bridge
from bridge.diagnostics.events import Event
from bridge.diagnostics.stacks import Stack
from bridge.loop.watch import circles
from bridge.loop.watch.circles import CircleWatch
from bridge.threads.deadlock import Deadlock, Participant
from bridge.threads.wait_graph import find_deadlock

from .conftest import PATIENCE, Gate, events_of


class LoopInThread:
    """A loop that nobody watches, in a thread; each test ends what blocks it."""

    def __init__(self) -> None:
        self.loop = bridge.new_event_loop(diagnostics=False)
        self.outcome: list[Any] = []
        self.portal: Any = None
        self._ended = Gate()
        started = Gate()
        self.thread = threading.Thread(target=self._run, args=(started,))
        self.thread.start()
        started.wait()

    @property
    def ident(self) -> int:
        assert self.thread.ident is not None
        return self.thread.ident

    def _run(self, started: Gate) -> None:
        async def main() -> None:
            self.portal = bridge.portal()
            started.open()
            stop = asyncio.Event()
            self.stop = lambda: self.loop.call_soon_threadsafe(stop.set)
            started.open()
            await stop.wait()

        with asyncio.Runner(loop_factory=lambda: self.loop) as runner:
            runner.run(main())

    def blocks_in(self, function: Callable[[], Any]) -> None:
        """Call `function` in a callback of the loop."""

        def callback() -> None:
            try:
                self.outcome.append(function())
            except BaseException as error:
                self.outcome.append(error)
            self._ended.open()

        self.loop.call_soon_threadsafe(callback)

    def ended(self) -> Any:
        self._ended.wait()
        return self.outcome[0]


@pytest.fixture
def loop() -> Iterator[LoopInThread]:
    running = LoopInThread()
    yield running
    running.stop()
    running.thread.join(PATIENCE)
    assert not running.thread.is_alive()


other_loop = loop


def look(ident: int) -> Deadlock | None:
    try:
        return find_deadlock(ident, sys._current_frames())
    except RuntimeError:  # something has changed meanwhile, so look again
        return None


def found(ident: int) -> Deadlock:
    """The circle that thread `ident` is part of, as soon as there is one."""
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        circle = look(ident)
        if circle is not None:
            return circle
        time.sleep(0.001)
    raise AssertionError("no circle was found")


def waits_in(ident: int, name: str) -> None:
    """Return when thread `ident` has come to a function of that name."""
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        frame = sys._current_frames().get(ident)
        while frame is not None:
            if frame.f_code.co_name == name:
                return
            frame = frame.f_back
        time.sleep(0.001)
    raise AssertionError(f"nobody has come to {name}")


def idents(circle: Deadlock) -> list[int]:
    return [each.ident for each in circle.participants]


async def greet() -> str:
    return "hello"


# -- one loop ----------------------------------------------------------------------------------------------------------


def test_a_loop_that_waits_for_its_own_coroutine(loop: LoopInThread) -> None:
    futures: list[Future[str]] = []

    def wait() -> str:
        futures.append(asyncio.run_coroutine_threadsafe(greet(), loop.loop))
        return futures[0].result()

    loop.blocks_in(wait)
    circle = found(loop.ident)
    assert idents(circle) == [loop.ident]
    assert circle.participants[0].what == f"greet on the loop of thread {loop.thread.name!r}"
    assert "waits for itself: for greet" in circle.event.headline
    assert circle.event.advice == "await asyncio.wrap_future(futures[0])"
    assert circle.answer() is False  # the future is not bridge's
    futures[0].cancel()
    assert isinstance(loop.ended(), concurrent.futures.CancelledError)


def test_a_loop_that_waits_for_a_thread_that_calls_it(loop: LoopInThread) -> None:
    with ThreadPoolExecutor(1) as pool:
        loop.blocks_in(lambda: pool.submit(lambda: loop.portal.call(greet)).result())
        assert found(loop.ident).answer() is True
        assert isinstance(loop.ended(), bridge.WouldDeadlock)


def test_a_loop_whose_time_will_be_up_is_none(loop: LoopInThread) -> None:
    with ThreadPoolExecutor(1) as pool:
        loop.blocks_in(lambda: pool.submit(lambda: loop.portal.call(greet)).result(0.2))
        while not loop.outcome:
            assert look(loop.ident) is None
            time.sleep(0.001)
        assert isinstance(loop.ended(), TimeoutError)


def test_a_loop_that_waits_for_a_worker_that_calls_it_is_told_of_both(loop: LoopInThread) -> None:
    with bridge.ThreadExecutor(1) as pool:

        def work() -> str:
            return loop.portal.call(greet)

        loop.blocks_in(lambda: pool.submit(work).result())
        circle = found(loop.ident)
        assert len(circle.participants) == 2
        event = circle.event
        assert event.code == "BRG302"
        assert event.place is not None
        assert event.place.file == __file__
        assert event.attributes["bridge.threads"] == 2
        text = "\n".join(event.details)
        assert "pool.submit(work).result()" in text
        assert "return loop.portal.call(greet)" in text
        assert "?" not in event.headline
        assert circle.answer() is True
        assert isinstance(loop.ended(), bridge.WouldDeadlock)


def test_a_loop_that_waits_for_what_is_queued_behind_a_thread_that_calls_it(loop: LoopInThread) -> None:
    with bridge.ThreadExecutor(1) as pool:
        firsts: list[Future[str]] = []

        def wait() -> str:
            call = partial(asyncio.run_coroutine_threadsafe, loop=loop.loop)
            firsts.append(pool.submit(lambda: call(greet()).result()))
            return pool.submit(str).result()

        loop.blocks_in(wait)
        circle = found(loop.ident)
        assert "which is queued in" in circle.participants[0].what
        assert circle.answer() is True
        loop.ended()
        assert firsts[0].result(PATIENCE) == "hello"


def test_a_loop_that_waits_for_the_first_of_two(loop: LoopInThread) -> None:
    free = Gate()
    with ThreadPoolExecutor(2) as pool:

        def wait() -> Any:
            both = [pool.submit(lambda: loop.portal.call(greet)), pool.submit(free.wait)]
            return concurrent.futures.wait(both, return_when=concurrent.futures.FIRST_COMPLETED)

        loop.blocks_in(wait)
        waits_in(loop.ident, "wait")
        for _ in range(20):
            assert look(loop.ident) is None  # the second may still end
            time.sleep(0.001)
        free.open()
        loop.ended()


def test_a_loop_that_joins_a_thread_that_calls_it(loop: LoopInThread) -> None:
    caller = threading.Thread(target=lambda: outcome.append(_error_of(lambda: loop.portal.call(greet))))
    outcome: list[Any] = []
    loop.blocks_in(lambda: (caller.start(), caller.join()))
    circle = found(loop.ident)
    assert circle.participants[0].what == f"the end of thread {caller.name!r}"
    assert circle.answer() is True
    loop.ended()
    assert isinstance(outcome[0], bridge.WouldDeadlock)


def _error_of(function: Callable[[], Any]) -> BaseException | None:
    try:
        function()
    except Exception as error:
        return error
    return None


# -- two loops ---------------------------------------------------------------------------------------------------------


def test_two_loops_that_wait_for_each_other(loop: LoopInThread, other_loop: LoopInThread) -> None:
    both_begun = threading.Barrier(2)

    def wait_for(another: LoopInThread) -> str:
        both_begun.wait(PATIENCE)
        return asyncio.run_coroutine_threadsafe(greet(), another.loop).result()

    loop.blocks_in(lambda: wait_for(other_loop))
    other_loop.blocks_in(lambda: wait_for(loop))
    circle = found(loop.ident)
    assert idents(circle) == [loop.ident, other_loop.ident]
    assert idents(found(other_loop.ident)) == [other_loop.ident, loop.ident]
    assert "wait for one another, and none can go on" in circle.event.headline
    _end_waits(loop, other_loop)
    assert {type(loop.ended()), type(other_loop.ended())} <= {str, concurrent.futures.CancelledError}


def _end_waits(*loops: LoopInThread) -> None:
    """Cancel the futures that the threads wait for."""
    for each in loops:
        frame = sys._current_frames().get(each.ident)
        while frame is not None and frame.f_code is not Future.result.__code__:
            frame = frame.f_back
        if frame is not None:
            frame.f_locals["self"].cancel()


# -- no circles --------------------------------------------------------------------------------------------------------


def test_waits_that_will_end_are_none(loop: LoopInThread) -> None:
    free = Gate()
    lock = threading.Lock()
    with lock, ThreadPoolExecutor(1) as pool, bridge.ThreadExecutor(1) as own:
        waits: list[tuple[str, Callable[[], Any]]] = [
            ("result", lambda: pool.submit(free.wait).result()),
            ("result", lambda: own.submit(free.wait).result()),
            ("wait", lambda: free.wait()),
        ]
        for name, wait in waits:
            loop.blocks_in(wait)
            waits_in(loop.ident, name)
            for _ in range(10):
                assert look(loop.ident) is None
                time.sleep(0.001)
            free.open()
            assert loop.ended() is None
            free = Gate()
            loop.outcome.clear()
            loop._ended = Gate()


def test_a_thread_that_has_ended_or_is_unknown_is_none() -> None:
    assert find_deadlock(0, {}) is None


# -- when it is told ---------------------------------------------------------------------------------------------------


@pytest.fixture
def events() -> Iterator[list[Event]]:
    """What was reported."""
    with events_of("BRG302") as events:
        yield events


class Played(Deadlock):
    """One that notes that it was answered."""

    def __init__(self, what: str, answered: Gate) -> None:
        super().__init__([Participant(1, what, Stack(()), False, None, None)])
        self.answered = answered

    def answer(self) -> bool:
        self.answered.open()
        return True


@pytest.fixture
def circle(monkeypatch: pytest.MonkeyPatch) -> Played:
    played = Played("a played wait", Gate())
    monkeypatch.setattr(circles, "find_deadlock", lambda ident, frames: played)
    return played


def test_it_is_told_when_it_has_been_seen_twice_and_then_no_more(circle: Played, events: list[Event]) -> None:
    watch = CircleWatch()
    watch.look(1, 1)
    assert events == []
    assert not circle.answered.is_open()
    watch.look(1, 1)
    assert len(events) == 1
    circle.answered.wait()
    for mark in (1, 2, 3):
        watch.look(1, mark)
    assert len(events) == 1


def test_one_that_has_changed_is_none_yet(circle: Played, events: list[Event], monkeypatch: pytest.MonkeyPatch) -> None:
    watch = CircleWatch()
    watch.look(1, 1)
    monkeypatch.setattr(circles, "find_deadlock", lambda ident, frames: Played("another wait", Gate()))
    watch.look(1, 1)
    assert events == []
    watch.look(1, 1)
    assert len(events) == 1


def test_the_same_circle_is_told_by_one_of_its_loops(circle: Played, events: list[Event]) -> None:
    watches = [CircleWatch(), CircleWatch()]
    for _ in range(3):
        for watch in watches:
            watch.look(1, 1)
    assert len(events) == 1
    del watches, watch
    again = CircleWatch()
    again.look(1, 1)
    again.look(1, 1)
    assert len(events) == 2


def test_where_nothing_is_found_it_looks_again_only_at_the_next_mark(
    monkeypatch: pytest.MonkeyPatch, events: list[Event]
) -> None:
    looks: list[int] = []

    def nothing(ident: int, frames: Any) -> None:
        looks.append(ident)

    monkeypatch.setattr(circles, "find_deadlock", nothing)
    watch = CircleWatch()
    for mark in (1, 1, 1, 2, 2, 3):
        watch.look(7, mark)
    assert looks == [7, 7, 7]
    assert events == []


def test_what_goes_wrong_with_the_search_stays_there(monkeypatch: pytest.MonkeyPatch, events: list[Event]) -> None:
    def fail(ident: int, frames: Any) -> None:
        raise AttributeError("half made")

    monkeypatch.setattr(circles, "find_deadlock", fail)
    CircleWatch().look(1, 1)
    assert events == []


def test_with_diagnostics_off_nothing_is_told(
    circle: Played, events: list[Event], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(circles, "wanted", lambda: False)
    watch = CircleWatch()
    watch.look(1, 1)
    watch.look(1, 1)
    assert events == []

"""What a loop does, as it is seen from another thread: real loops, held in a callback until the test lets them go on."""

from __future__ import annotations

import asyncio
import gc
import sys
import threading
import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from time import monotonic, sleep
from types import FrameType
from typing import Any

import pytest
import trio

import bridge
from bridge.diagnostics.stacks import capture
from bridge.diagnostics.switch import USUAL_THRESHOLD
from bridge.loop.watch.views import AsyncioView, Glance, OpaqueView, TrioView, View
from tests.conftest import PATIENCE, Gate, within

try:
    import uvloop
except ImportError:  # Windows
    uvloop = None  # type: ignore[assignment]

needs_uvloop = pytest.mark.skipif(uvloop is None, reason="needs uvloop")


class Held:
    """Called on a loop, it stays there until the test lets it go on."""

    def __init__(self) -> None:
        self._entered, self._go = Gate(), Gate()

    def __call__(self) -> None:
        self._entered.open()
        self._go.wait()

    def reached(self) -> None:
        self._entered.wait()

    def go_on(self) -> None:
        self._go.open()


class Onlooker:
    """Looks at what a thread does."""

    def __init__(self, thread: threading.Thread, view: View | None = None):
        self.thread = thread
        self.view: Any = view

    def glance(self) -> Glance | None:
        return self.view.glance(sys._current_frames()[self.thread.ident])  # type: ignore[index]

    def sees(self) -> Glance:
        glance = self.glance()
        assert glance is not None
        return glance

    def functions(self) -> list[str]:
        """What the callback consists of, innermost first."""
        glance = self.sees()
        return [site[0].co_name for site in capture(glance.frame, glance.base).sites]


def until(condition: Callable[[], object]) -> None:
    deadline = monotonic() + PATIENCE
    while not condition():
        assert monotonic() < deadline
        sleep(0.001)


@contextmanager
def thread_of(run: Callable[[], object]) -> Iterator[threading.Thread]:
    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield thread
    finally:
        within(thread)


@contextmanager
def running(loop: asyncio.AbstractEventLoop, *held: Held) -> Iterator[threading.Thread]:
    """The loop runs in a thread of its own; in the end it is let go on, and closed."""
    try:
        with thread_of(loop.run_forever) as thread:
            try:
                yield thread
            finally:
                for each in held:
                    each.go_on()
                loop.call_soon_threadsafe(loop.stop)
    finally:
        loop.close()


FACTORIES: list[Any] = [
    pytest.param(asyncio.SelectorEventLoop, id="asyncio"),
    pytest.param(lambda: bridge.new_event_loop(diagnostics=False), id="bridge"),
]


@pytest.fixture(params=FACTORIES)
def loop(request: pytest.FixtureRequest) -> Any:
    """One that is closed by `running`."""
    return request.param()


# -- asyncio's loops ---------------------------------------------------------------------------------------------------


def test_the_same_callback_is_seen_to_be_the_same(loop: Any) -> None:
    held = Held()
    before = monotonic()
    loop.call_soon(held)
    with running(loop, held) as thread:
        held.reached()
        onlooker = Onlooker(thread, AsyncioView(loop))
        one, other = onlooker.sees(), onlooker.sees()
        assert other.in_callback_of(one)
        assert other.in_turn_of(one)
        assert (one.first, one.callbacks, one.task) == (True, 1, None)
        assert one.began is not None
        assert before <= one.began <= monotonic() + 0.1
        assert one.callback._callback is held
        assert onlooker.functions()[-2:] == ["__call__", "_run"], "as far as the loop's own frame"


def test_the_callbacks_of_one_turn_are_told_apart(loop: Any) -> None:
    one, other = Held(), Held()
    loop.call_soon(one)
    loop.call_soon(other)
    with running(loop, one, other) as thread:
        onlooker = Onlooker(thread, AsyncioView(loop))
        one.reached()
        first = onlooker.sees()
        one.go_on()
        other.reached()
        second = onlooker.sees()
        assert second.in_turn_of(first)
        assert not second.in_callback_of(first)
        assert (first.first, second.first) == (True, False)
        assert (first.callbacks, second.callbacks) == (2, 2)


def test_turns_are_told_apart(loop: Any) -> None:
    held = [Held(), Held()]
    rounds = iter(held)

    def again() -> None:
        mine = next(rounds, None)
        if mine is not None:
            loop.call_soon(again)
            mine()

    loop.call_soon(again)
    with running(loop, *held) as thread:
        onlooker = Onlooker(thread, AsyncioView(loop))
        held[0].reached()
        first = onlooker.sees()
        held[0].go_on()
        held[1].reached()
        second = onlooker.sees()
        assert not second.in_turn_of(first)
        assert not second.in_callback_of(first)
        assert first.began is not None
        assert second.began is not None
        assert second.began > first.began
        assert second.first


def test_a_timer_is_a_callback_like_any_other(loop: Any) -> None:
    held = Held()
    loop.call_later(0.001, held)
    with running(loop, held) as thread:
        held.reached()
        glance = Onlooker(thread, AsyncioView(loop)).sees()
        assert glance.callback._callback is held
        assert glance.began is not None


def test_a_loop_that_sleeps_is_seen_to_do_nothing(loop: Any) -> None:
    held = Held()
    loop.call_soon(held)
    with running(loop, held) as thread:
        onlooker = Onlooker(thread, AsyncioView(loop))
        held.reached()
        assert onlooker.glance() is not None
        held.go_on()
        until(lambda: onlooker.glance() is None)
        again = Held()
        loop.call_soon_threadsafe(again)
        again.reached()
        assert onlooker.glance() is not None
        again.go_on()


def test_only_bridges_loop_tells_that_it_sleeps() -> None:
    own, stock = bridge.new_event_loop(diagnostics=False), asyncio.SelectorEventLoop()
    held = Held()
    own.call_soon(held)
    view = AsyncioView(own, wakes=True)
    assert not view.asleep()
    with running(own, held):
        held.reached()
        assert not view.asleep()
        held.go_on()
        until(view.asleep)
    assert (view.wakes, AsyncioView(own).wakes) == (True, False)
    with running(stock):
        assert not AsyncioView(stock).asleep()


def test_what_a_loop_calls_while_it_polls_is_no_callback(loop: Any) -> None:
    held = Held()
    select = loop._selector.select

    def slow(timeout: float | None = None) -> Any:
        held()
        return select(timeout)

    loop._selector.select = slow
    loop.call_soon(lambda: None)
    with running(loop, held) as thread:
        held.reached()
        assert Onlooker(thread, AsyncioView(loop)).glance() is None
        loop._selector.select = select


async def hold_deep(held: Held, depth: int) -> None:
    if depth:
        await hold_deep(held, depth - 1)
        return

    def generate() -> Iterator[None]:
        yield held()

    list(generate())


def test_a_task_is_seen_with_all_the_coroutines_and_generators_it_is_made_of(loop: Any) -> None:
    held = Held()
    task = loop.create_task(hold_deep(held, 3))
    with running(loop, held) as thread:
        held.reached()
        onlooker = Onlooker(thread, AsyncioView(loop))
        assert onlooker.sees().task is task
        names = onlooker.functions()
        assert names[names.index("__call__") :] == ["__call__", "generate", *["hold_deep"] * 4, "_run"]


def test_a_task_is_the_same_callback_until_it_awaits(loop: Any) -> None:
    held = [Held(), Held(), Held()]

    async def work() -> None:
        held[0]()
        held[1]()
        await asyncio.sleep(0)
        held[2]()

    task = loop.create_task(work())
    with running(loop, *held) as thread:
        onlooker = Onlooker(thread, AsyncioView(loop))
        seen = []
        for each in held:
            each.reached()
            seen.append(onlooker.sees())
            each.go_on()
        assert seen[1].in_callback_of(seen[0])
        assert not seen[2].in_callback_of(seen[1])
        assert [glance.task for glance in seen] == [task] * 3


def test_an_asynchronous_generator_is_seen_in_its_task(loop: Any) -> None:
    held = Held()

    async def numbers() -> AsyncIterator[int]:
        held()
        yield 1

    async def consume() -> None:
        async for _ in numbers():
            pass

    task = loop.create_task(consume())
    with running(loop, held) as thread:
        held.reached()
        onlooker = Onlooker(thread, AsyncioView(loop))
        assert onlooker.sees().task is task
        names = onlooker.functions()
        assert names[names.index("__call__") :] == ["__call__", "numbers", "consume", "_run"]


@pytest.mark.skipif(sys.version_info < (3, 12), reason="needs eager tasks")
def test_an_eager_task_runs_in_the_callback_that_made_it(loop: Any) -> None:
    inner, outer = Held(), Held()

    async def child() -> None:
        inner()
        await asyncio.sleep(0)

    async def parent() -> None:
        task = asyncio.create_task(child())
        outer()
        await task

    task = loop.create_task(parent())
    loop.call_soon(loop.set_task_factory, asyncio.eager_task_factory)
    loop.set_task_factory(asyncio.eager_task_factory)
    with running(loop, inner, outer) as thread:
        onlooker = Onlooker(thread, AsyncioView(loop))
        inner.reached()
        first = onlooker.sees()
        assert first.task is not task
        assert first.task.get_coro().__name__ == "child"
        names = onlooker.functions()
        assert names.index("child") < names.index("parent")
        inner.go_on()
        outer.reached()
        second = onlooker.sees()
        assert second.task is task
        assert second.in_callback_of(first)


def test_a_loop_is_seen_through_frames_of_any_depth(loop: Any) -> None:
    held = Held()

    def dive(depth: int) -> None:
        dive(depth - 1) if depth else held()

    loop.call_soon(dive, 500)
    with running(loop, held) as thread:
        held.reached()
        onlooker = Onlooker(thread, AsyncioView(loop))
        assert onlooker.functions().count("dive") == 501


def test_a_thread_whose_loop_has_stopped_is_seen_to_do_nothing(loop: Any) -> None:
    held = Held()

    def run() -> None:
        loop.call_soon(loop.stop)
        loop.run_forever()
        held()

    with thread_of(run) as thread:
        held.reached()
        assert Onlooker(thread, AsyncioView(loop)).glance() is None
        held.go_on()
    loop.close()


def test_another_loop_of_the_same_thread_is_not_mistaken_for_it(loop: Any) -> None:
    held, other = Held(), asyncio.new_event_loop()
    other.call_soon(held)
    with running(other, held) as thread:
        held.reached()
        assert Onlooker(thread, AsyncioView(loop)).glance() is None
        assert Onlooker(thread, AsyncioView(other)).glance() is not None
    loop.close()


@pytest.mark.parametrize("make", [AsyncioView, pytest.param(OpaqueView, marks=needs_uvloop)])
def test_threshold_and_debug_are_the_loops_own(make: Callable[[Any], View]) -> None:
    loop = asyncio.new_event_loop() if make is AsyncioView else uvloop.new_event_loop()
    view = make(loop)
    assert (view.threshold(), view.debug()) == (loop.slow_callback_duration, False)
    loop.slow_callback_duration = 0.25
    loop.set_debug(True)
    assert (view.threshold(), view.debug()) == (0.25, True)
    loop.close()


@pytest.mark.parametrize("make", [AsyncioView, pytest.param(OpaqueView, marks=needs_uvloop)])
def test_a_view_does_not_keep_its_loop_alive(make: Callable[[Any], View]) -> None:
    loop = asyncio.new_event_loop() if make is AsyncioView else uvloop.new_event_loop()
    loop.slow_callback_duration = 0.25
    view = make(loop)
    loop.call_soon(loop.stop)
    loop.run_forever()
    view.glance(sys._getframe())
    loop.close()
    seen = weakref.ref(loop)
    del loop
    gc.collect()
    assert seen() is None
    assert (view.threshold(), view.debug(), view.glance(sys._getframe())) == (USUAL_THRESHOLD, False, None)


class OwnTime(asyncio.SelectorEventLoop):
    """As those that tests are sped up with."""

    def time(self) -> float:
        return 1.0


def test_the_time_of_a_loop_with_a_clock_of_its_own_is_not_taken_for_ours() -> None:
    loop = OwnTime()
    held = [Held(), Held()]
    loop.call_soon(held[0])
    with running(loop, *held) as thread:
        onlooker = Onlooker(thread, AsyncioView(loop))
        held[0].reached()
        loop.call_soon_threadsafe(held[1])
        first = onlooker.sees()
        assert first.began is None
        assert onlooker.sees().in_callback_of(first)
        held[0].go_on()
        held[1].reached()
        assert not onlooker.sees().in_turn_of(first)


# -- a loop that is not written in Python ------------------------------------------------------------------------------


class Opaque(Onlooker):
    """A loop of uvloop, with its view made on it."""

    def __init__(self, thread: threading.Thread, loop: Any):
        super().__init__(thread)
        self.loop = loop
        loop.call_soon_threadsafe(self._make)
        self.turned()

    def _make(self) -> None:
        self.view = OpaqueView(self.loop)

    def turned(self) -> None:
        """The loop has answered, if it was asked."""
        for _ in range(2):
            gate = Gate()
            self.loop.call_soon_threadsafe(gate.open)
            gate.wait()


@needs_uvloop
def test_uvloop_is_seen_in_a_callback_and_in_the_next_one() -> None:
    loop = uvloop.new_event_loop()
    one, other = Held(), Held()
    with running(loop, one, other) as thread:
        onlooker = Opaque(thread, loop)
        loop.call_soon_threadsafe(one)
        one.reached()
        first = onlooker.sees()
        assert onlooker.sees().in_callback_of(first)
        assert onlooker.functions()[-1] == "__call__"
        assert (first.began, first.first, first.callbacks, first.task) == (None, False, 0, None)
        one.go_on()
        onlooker.turned()
        loop.call_soon_threadsafe(other)
        other.reached()
        second = onlooker.sees()
        assert not second.in_turn_of(first)
        assert not second.in_callback_of(first)


@needs_uvloop
def test_tasks_of_uvloop_are_told_apart_within_a_turn() -> None:
    loop = uvloop.new_event_loop()
    one, other = Held(), Held()
    tasks = []

    async def work(held: Held) -> None:
        held()

    with running(loop, one, other) as thread:
        onlooker = Opaque(thread, loop)
        loop.call_soon_threadsafe(lambda: tasks.extend(loop.create_task(work(each)) for each in (one, other)))
        one.reached()
        first = onlooker.sees()
        one.go_on()
        other.reached()
        second = onlooker.sees()
        assert [first.task, second.task] == tasks
        assert second.in_turn_of(first)
        assert not second.in_callback_of(first)


@needs_uvloop
def test_uvloop_is_seen_to_do_nothing_while_it_sleeps_and_is_not_woken_by_looks() -> None:
    loop = uvloop.new_event_loop()
    with running(loop) as thread:
        onlooker = Opaque(thread, loop)
        until(lambda: onlooker.glance() is None)
        onlooker.turned()
        until(lambda: onlooker.glance() is None)
        turn = onlooker.view._turn
        for _ in range(20):
            assert onlooker.glance() is None
        onlooker.turned()
        assert onlooker.view._turn == turn


@needs_uvloop
def test_uvloop_is_seen_before_it_has_answered_as_doing_nothing_known() -> None:
    loop = uvloop.new_event_loop()
    held = Held()
    with running(loop, held) as thread:
        onlooker = Onlooker(thread)

        def make() -> None:
            onlooker.view = OpaqueView(loop)
            held()

        loop.call_soon_threadsafe(make)
        held.reached()
        assert onlooker.glance() is None


@needs_uvloop
def test_uvloop_is_seen_when_it_is_run_anew_from_elsewhere() -> None:
    loop = uvloop.new_event_loop()
    held = [Held(), Held()]

    def run(each: Held) -> None:
        loop.call_soon(each)
        loop.run_forever()

    views: list[OpaqueView] = []

    def run_twice() -> None:
        views.append(OpaqueView(loop))
        loop.call_soon(loop.stop)
        loop.run_forever()
        for each in held:
            run(each)

    with thread_of(run_twice) as thread:
        for each in held:
            each.reached()
            onlooker = Onlooker(thread, views[0])
            onlooker.glance()
            again = Held()
            loop.call_soon_threadsafe(loop.call_soon, again)
            each.go_on()
            again.reached()
            assert onlooker.functions()[-1] == "__call__"
            loop.call_soon_threadsafe(loop.stop)
            again.go_on()
    loop.close()


@needs_uvloop
def test_uvloop_is_seen_to_do_nothing_when_it_has_stopped_and_when_it_is_closed() -> None:
    loop = uvloop.new_event_loop()
    held = [Held(), Held()]
    views: list[OpaqueView] = []

    def run() -> None:
        views.append(OpaqueView(loop))
        loop.call_soon(loop.stop)
        loop.run_forever()
        held[0]()
        loop.close()
        held[1]()

    with thread_of(run) as thread:
        for each in held:
            each.reached()
            assert Onlooker(thread, views[0]).glance() is None
            each.go_on()


# -- trio --------------------------------------------------------------------------------------------------------------


@contextmanager
def trio_running(*tasks: Any, held: tuple[Held, ...]) -> Iterator[Onlooker]:
    view: list[View] = []
    ready, over = Gate(), Gate()

    async def main() -> None:
        view.append(TrioView(0.25))
        ready.open()
        async with trio.open_nursery() as nursery:
            for task in tasks:
                nursery.start_soon(task)
            await over.reached()

    with thread_of(lambda: trio.run(main)) as thread:
        ready.wait()
        try:
            yield Onlooker(thread, view[0])
        finally:
            for each in held:
                each.go_on()
            over.open()


def test_a_trio_task_is_seen_until_it_awaits() -> None:
    held = [Held(), Held(), Held()]

    async def work() -> None:
        held[0]()
        held[1]()
        await trio.lowlevel.checkpoint()
        held[2]()

    with trio_running(work, held=tuple(held)) as onlooker:
        seen = []
        for each in held:
            each.reached()
            seen.append(onlooker.sees())
            names = onlooker.functions()
            assert names[names.index("__call__") + 1] == "work"
            each.go_on()
        assert seen[1].in_callback_of(seen[0])
        assert not seen[2].in_turn_of(seen[1])
        assert not seen[2].in_callback_of(seen[1])
        assert [glance.task.name.rpartition(".")[2] for glance in seen] == ["work"] * 3
        assert (onlooker.view.threshold(), onlooker.view.debug(), onlooker.view.wakes) == (0.25, False, False)


def test_trio_tasks_of_one_batch_are_told_apart() -> None:
    held = [Held(), Held()]
    order: list[Held] = []
    reached = [Gate(), Gate()]

    async def work(mine: Held) -> None:
        order.append(mine)
        reached[len(order) - 1].open()
        mine()

    def worker(mine: Held) -> Any:
        async def work_of() -> None:
            await work(mine)

        return work_of

    with trio_running(*map(worker, held), held=tuple(held)) as onlooker:
        seen = []
        for gate in reached:
            gate.wait()
            order[-1].reached()
            seen.append(onlooker.sees())
            order[-1].go_on()
        assert seen[1].in_turn_of(seen[0])
        assert not seen[1].in_callback_of(seen[0])


def test_trio_is_seen_to_do_nothing_while_it_sleeps_and_when_it_has_ended() -> None:
    held = Held()

    async def main() -> None:
        view.append(TrioView(0.1))
        await trio.to_thread.run_sync(held)

    view: list[View] = []
    after = Held()

    def run() -> None:
        trio.run(main)
        after()

    with thread_of(run) as thread:
        held.reached()
        onlooker = Onlooker(thread, view[0])
        until(lambda: onlooker.glance() is None)
        held.go_on()
        after.reached()
        assert onlooker.glance() is None
        after.go_on()


def test_trio_as_a_guest_of_another_loop_is_seen_as_well() -> None:
    loop = asyncio.new_event_loop()
    held = Held()

    async def work() -> None:
        held()

    def done(outcome: Any) -> None:
        loop.stop()

    def start() -> None:
        trio.lowlevel.start_guest_run(work, run_sync_soon_threadsafe=loop.call_soon_threadsafe, done_callback=done)

    loop.call_soon(start)
    with thread_of(loop.run_forever) as thread:
        held.reached()
        onlooker = Onlooker(thread, TrioView(0.1))
        assert onlooker.sees().task.name.endswith("work")
        assert Onlooker(thread, AsyncioView(loop)).sees().callback is not None
        held.go_on()
    loop.close()


# -- a look at something else ------------------------------------------------------------------------------------------


def test_a_frame_that_no_loop_has_called_shows_nothing(loop: Any) -> None:
    frame: FrameType = sys._getframe()
    assert AsyncioView(loop).glance(frame) is None
    assert TrioView(0.1).glance(frame) is None
    loop.close()

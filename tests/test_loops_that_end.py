"""Whoever waits for a loop that ends is told so: closed, stopped and left alone, ended in mid-call, gone before the call.

Each test starts a loop, has a thread wait for it, and ends the loop without the answer. `Waiting` keeps what the thread
was told; a thread that is told nothing fails the test after PATIENCE.
"""

from __future__ import annotations

import asyncio
import gc
import threading
import time
import warnings
from collections.abc import Callable, Generator
from concurrent.futures import CancelledError, Future
from contextlib import contextmanager
from typing import Any

import anyio
import pytest

import bridge
from bridge.threads import host as host_module
from bridge.threads.sentry import GRACE, Sentry
from tests.conftest import PATIENCE, Gate, within

Factory = Callable[[], Any] | None


class Waiting:
    """A thread that makes one blocking call, and what came of it."""

    def __init__(self, fn: Callable[[], Any]):
        self._fn = fn
        self._value: Any = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name="waiting")
        self._thread.start()

    def _work(self) -> None:
        try:
            self._value = self._fn()
        except BaseException as error:
            self._error = error

    def told(self) -> BaseException | None:
        within(self._thread)
        return self._error

    def value(self) -> Any:
        assert self.told() is None
        return self._value

    def waits(self) -> bool:
        return self._thread.is_alive()


async def the_portal() -> bridge.Portal:
    return bridge.portal()


@contextmanager
def loop_of(factory: Factory) -> Generator[tuple[Any, bridge.Portal]]:
    """A loop that nobody runs, its portal, and at the end the loop closed."""
    loop = (factory or asyncio.new_event_loop)()
    try:
        yield loop, loop.run_until_complete(the_portal())
    finally:
        loop.close()


@contextmanager
def quiet() -> Generator[None]:
    """Tasks of a loop that was closed over them are destroyed while pending, and say so: collect them here.

    Where Python takes no first step at once (3.11), one that was made in the loop's last round has never begun.
    """
    try:
        yield
    finally:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
            gc.collect()


async def never(started: Gate) -> None:
    started.open()
    await anyio.sleep_forever()


def run_until(loop: Any, reached: Gate) -> None:
    loop.run_until_complete(reached.reached())


# -- closed --------------------------------------------------------------------------------------------------------------


def test_a_call_to_a_closed_loop_is_told_at_once(loop_factory: Factory) -> None:
    with loop_of(loop_factory) as (_loop, portal):
        pass
    ran: list[int] = []
    with pytest.raises(bridge.LoopClosed):
        portal.call(ran.append, 1)
    with pytest.raises(bridge.LoopClosed):
        portal.call_soon_threadsafe(ran.append, 1)
    assert not ran


def test_the_coroutine_for_a_closed_loop_is_closed(loop_factory: Factory) -> None:
    with loop_of(loop_factory) as (_loop, portal):
        pass
    coro = anyio.sleep(0)
    with pytest.raises(bridge.LoopClosed):
        portal.run_coroutine_threadsafe(coro)
    with pytest.raises(RuntimeError, match="cannot reuse already awaited coroutine"):
        coro.send(None)


def test_scopes_on_a_closed_loop_are_refused_at_once(loop_factory: Factory) -> None:
    from contextlib import nullcontext

    async def one() -> Any:
        yield 1

    with loop_of(loop_factory) as (_loop, portal):
        pass
    with pytest.raises(bridge.LoopClosed):
        portal.enter(nullcontext()).__enter__()
    with pytest.raises(bridge.LoopClosed):
        next(iter(portal.iterate(one())))


def test_a_call_that_the_loop_never_got_to_is_told_when_it_closes(loop_factory: Factory, new_gate: type[Gate]) -> None:
    with loop_of(loop_factory) as (_loop, portal):
        ran: list[int] = []
        waiting = Waiting(lambda: portal.call(ran.append, 1))
        _until_it_waits(portal)
    assert isinstance(waiting.told(), bridge.LoopClosed)
    assert not ran


def _until_it_waits(portal: bridge.Portal, count: int = 1) -> None:
    """Until `count` callers stand in the host's book: from then on the loop owes them an answer."""
    deadline = time.monotonic() + PATIENCE
    while len(portal._host.waits) < count:
        assert time.monotonic() < deadline
        time.sleep(0.0005)


def test_a_future_that_the_loop_never_got_to_is_told_and_its_coroutine_closed(loop_factory: Factory) -> None:
    ran: list[int] = []

    async def work() -> None:
        ran.append(1)

    with loop_of(loop_factory) as (_loop, portal):
        coro = work()
        future = portal.run_coroutine_threadsafe(coro)
    assert isinstance(future.exception(PATIENCE), bridge.LoopClosed)
    with pytest.raises(RuntimeError, match="cannot reuse already awaited coroutine"):
        coro.send(None)
    assert not ran


def test_a_loop_closed_in_mid_call_answers(loop_factory: Factory, gate: Gate, caplog: pytest.LogCaptureFixture) -> None:
    with quiet():
        with loop_of(loop_factory) as (loop, portal):
            waiting = Waiting(lambda: portal.call(never, gate))
            run_until(loop, gate)
        error = waiting.told()
        assert isinstance(error, bridge.LoopClosed)
        assert "closed" in str(error)


def test_a_loop_closed_in_mid_call_answers_futures(
    loop_factory: Factory, gate: Gate, caplog: pytest.LogCaptureFixture
) -> None:
    with quiet():
        with loop_of(loop_factory) as (loop, portal):
            future = portal.run_coroutine_threadsafe(never(gate))
            waiting = Waiting(future.result)
            run_until(loop, gate)
        assert isinstance(waiting.told(), bridge.LoopClosed)
        assert not future.cancel()


def test_a_loop_closed_in_mid_call_answers_a_worker(
    loop_factory: Factory, gate: Gate, caplog: pytest.LogCaptureFixture
) -> None:
    with quiet(), bridge.ThreadExecutor(1) as executor:
        with loop_of(loop_factory) as (loop, portal):
            future = executor.submit(portal.call, never, gate)
            run_until(loop, gate)
        assert isinstance(future.exception(PATIENCE), bridge.LoopClosed)


def test_many_callers_of_a_loop_that_closes_are_all_answered(
    loop_factory: Factory, new_gate: type[Gate], caplog: pytest.LogCaptureFixture
) -> None:
    gates = [new_gate() for _ in range(30)]
    with quiet():
        with loop_of(loop_factory) as (loop, portal):
            waiting = [Waiting(lambda gate=gate: portal.call(never, gate)) for gate in gates]  # type: ignore[misc]
            for gate in gates:
                run_until(loop, gate)
            late = [Waiting(lambda: portal.call(anyio.sleep, 0)) for _ in range(10)]
            _until_it_waits(portal, count=40)
        for one in [*waiting, *late]:
            assert isinstance(one.told(), bridge.LoopClosed)
    assert not portal._host.waits


def test_a_second_loop_that_closes_soon_after_the_first_answers_too(loop_factory: Factory, new_gate: type[Gate]) -> None:
    # The sentry that was called for the first loop is still on duty when somebody waits for the second.
    for _ in range(3):
        with loop_of(loop_factory) as (_loop, portal):
            waiting = Waiting(lambda portal=portal: portal.call(anyio.sleep, 0))  # type: ignore[misc]
            _until_it_waits(portal)
        assert isinstance(waiting.told(), bridge.LoopClosed)


def test_a_loop_whose_runner_ends_cancels_the_calls_it_runs(loop_factory: Factory, gate: Gate) -> None:
    waiting: list[Waiting] = []
    cleaned: list[int] = []

    async def cleaning_up() -> None:
        try:
            await never(gate)
        finally:
            await asyncio.sleep(0)
            cleaned.append(1)

    async def main() -> None:
        portal = bridge.portal()
        waiting.append(Waiting(lambda: portal.call(cleaning_up)))
        await gate.reached()

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(main())
    assert isinstance(waiting[0].told(), (CancelledError, bridge.LoopClosed))
    assert cleaned == [1]


def test_callers_that_flood_a_loop_while_it_closes_are_all_answered(loop_factory: Factory, gate: Gate) -> None:
    answers: list[str] = []
    count = 8

    def call_on_and_on(portal: bridge.Portal) -> None:
        for number in range(1_000_000):
            try:
                portal.call(asyncio.sleep, 0)
            except (bridge.LoopClosed, CancelledError) as error:
                if isinstance(error, CancelledError):
                    continue
                answers.append("told")
                return
            if number == 20:
                gate.open()

    async def main() -> list[Waiting]:
        portal = bridge.portal()
        waiting = [Waiting(lambda: call_on_and_on(portal)) for _ in range(count)]
        await gate.reached()
        return waiting

    with quiet():
        with asyncio.Runner(loop_factory=loop_factory) as runner:
            waiting = runner.run(main())
        for one in waiting:
            assert one.told() is None
    assert answers == ["told"] * count


# -- stopped, not closed -------------------------------------------------------------------------------------------------


def test_a_loop_that_was_stopped_and_never_closed_answers(loop_factory: Factory, gate: Gate) -> None:
    with quiet(), loop_of(loop_factory) as (loop, portal):
        waiting = Waiting(lambda: portal.call(never, gate))
        run_until(loop, gate)
        error = waiting.told()
        assert isinstance(error, bridge.LoopClosed)
        assert "it was stopped and never closed" in str(error)
        loop.run_until_complete(asyncio.sleep(0))  # what it had begun is cancelled as soon as it runs again
        for _ in range(5):  # what it had begun is cancelled as soon as it runs again
            loop.run_until_complete(asyncio.sleep(0))
        assert not asyncio.all_tasks(loop)


def test_a_loop_that_runs_again_serves_later_calls(loop_factory: Factory, gate: Gate, new_gate: type[Gate]) -> None:
    done = new_gate()

    def ask() -> str:
        try:
            return portal.call(answer)
        finally:
            done.open()

    async def answer() -> str:
        return "served"

    with loop_of(loop_factory) as (loop, portal):
        waiting = Waiting(lambda: portal.call(never, gate))
        run_until(loop, gate)
        assert isinstance(waiting.told(), bridge.LoopClosed)
        later = Waiting(ask)
        run_until(loop, done)
        assert later.value() == "served"


def test_a_call_that_was_given_up_is_not_run_later(loop_factory: Factory) -> None:
    ran: list[int] = []
    with loop_of(loop_factory) as (loop, portal):
        waiting = Waiting(lambda: portal.call(ran.append, 1))
        assert isinstance(waiting.told(), bridge.LoopClosed)
        loop.run_until_complete(asyncio.sleep(0))
        loop.run_until_complete(asyncio.sleep(0))
    assert not ran


class Clock:
    """Time that passes when somebody says so."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def watch(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> Sentry:
    """A sentry on whose rounds the test decides, in the place of the real one."""
    sentry = Sentry(clock, lambda seconds: None)

    sentry.permits.clear()  # as if its thread were there already
    monkeypatch.setattr(host_module, "sentry", sentry)
    return sentry


def test_the_sentry_leaves_a_loop_that_stands_still_its_grace(loop_factory: Factory, clock: Clock, watch: Sentry) -> None:
    with loop_of(loop_factory) as (_loop, portal):
        future = portal.run_coroutine_threadsafe(anyio.sleep(0))
        assert watch.look()
        clock.now += 0.9 * GRACE
        watch.look()
        assert not future.done()
        clock.now += 0.2 * GRACE
        watch.look()
        error = future.exception(0)
        assert isinstance(error, bridge.LoopClosed)
        assert f"nobody has started it again for {GRACE:g} s" in str(error)
        assert not watch.look()


def test_the_grace_begins_anew_when_the_loop_ran_in_between(
    loop_factory: Factory, clock: Clock, watch: Sentry, gate: Gate
) -> None:
    with loop_of(loop_factory) as (loop, portal):
        future = portal.run_coroutine_threadsafe(gate.reached())
        watch.look()
        clock.now += 0.9 * GRACE

        async def ran() -> None:
            assert watch.look()

        loop.run_until_complete(ran())
        clock.now += 0.9 * GRACE
        watch.look()
        clock.now += 0.9 * GRACE
        watch.look()
        assert not future.done()
        gate.open()
        loop.run_until_complete(asyncio.wrap_future(future, loop=loop))


def test_the_sentry_answers_for_a_closed_loop_without_grace(clock: Clock, watch: Sentry) -> None:
    loop = asyncio.new_event_loop()
    portal = loop.run_until_complete(the_portal())
    future = portal.run_coroutine_threadsafe(anyio.sleep(0))
    loop.close()
    watch.look()
    error = future.exception(0)
    assert isinstance(error, bridge.LoopClosed)
    assert "closed" in str(error)


def test_the_sentry_watches_a_loop_that_comes_while_it_is_on_duty(
    loop_factory: Factory, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A sentry of its own, whose thread makes a round when the test lets it.
    rounds = threading.Semaphore(0)

    def sleep(seconds: float) -> None:
        assert rounds.acquire(timeout=PATIENCE)

    def let_time_pass(until: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE
        while not until():
            assert time.monotonic() < deadline
            clock.now += GRACE
            rounds.release()
            time.sleep(0.001)

    sentry = Sentry(clock, sleep)
    monkeypatch.setattr(host_module, "sentry", sentry)
    with loop_of(loop_factory) as (_, first), loop_of(loop_factory) as (_, second):
        first_future = first.run_coroutine_threadsafe(anyio.sleep(0))
        assert not sentry.permits
        second_future = second.run_coroutine_threadsafe(anyio.sleep(0))
        let_time_pass(lambda: first_future.done() and second_future.done())
        assert isinstance(first_future.exception(), bridge.LoopClosed)
        assert isinstance(second_future.exception(), bridge.LoopClosed)
    let_time_pass(lambda: bool(sentry.permits))  # nobody waits any more: its thread leaves


# -- trio ----------------------------------------------------------------------------------------------------------------


def trio_run(main: Callable[[], Any]) -> Any:
    return bridge.run(main, backend="trio")


def test_a_trio_run_that_ends_in_mid_call_answers(gate: Gate) -> None:
    async def main() -> Waiting:
        portal = bridge.portal()
        waiting = Waiting(lambda: portal.call(never, gate))
        await gate.reached()
        return waiting

    error = trio_run(main).told()
    assert isinstance(error, bridge.LoopClosed)
    assert "ended" in str(error)


def test_a_trio_run_that_ends_answers_futures_and_workers(new_gate: type[Gate]) -> None:
    gates = [new_gate(), new_gate()]
    with bridge.ThreadExecutor(1) as executor:

        async def main() -> list[Future[Any]]:
            portal = bridge.portal()
            futures: list[Future[Any]] = [
                portal.run_coroutine_threadsafe(never(gates[0])),
                executor.submit(portal.call, never, gates[1]),
            ]
            for gate in gates:
                await gate.reached()
            return futures

        for future in trio_run(main):
            assert isinstance(future.exception(PATIENCE), bridge.LoopClosed)


def test_a_call_to_a_trio_run_that_has_ended_is_told_at_once() -> None:
    portal: bridge.Portal = trio_run(the_portal)
    with pytest.raises(bridge.LoopClosed, match="trio run has ended"):
        portal.call(len, "abc")
    with pytest.raises(bridge.LoopClosed, match="trio run has ended"):
        portal.call_soon_threadsafe(len, "abc")
    coro = anyio.sleep(0)
    with pytest.raises(bridge.LoopClosed, match="trio run has ended"):
        portal.run_coroutine_threadsafe(coro)
    with pytest.raises(RuntimeError, match="cannot reuse already awaited coroutine"):
        coro.send(None)


def test_a_trio_run_that_ends_by_an_exception_answers(gate: Gate) -> None:
    waiting: list[Waiting] = []

    async def main() -> None:
        portal = bridge.portal()
        waiting.append(Waiting(lambda: portal.call(never, gate)))
        await gate.reached()
        raise KeyError("the end")

    with pytest.raises(KeyError, match="the end"):
        trio_run(main)
    assert isinstance(waiting[0].told(), bridge.LoopClosed)


# -- bridge.run ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_after_bridge_run_a_portal_says_that_its_loop_is_closed(backend: str) -> None:
    portal = bridge.run(the_portal, backend=backend)  # type: ignore[arg-type]
    with pytest.raises(bridge.LoopClosed):
        portal.call(len, "abc")


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_worker_left_in_a_call_by_the_end_of_bridge_run_is_answered(backend: str, gate: Gate) -> None:
    told: list[BaseException] = []

    def in_worker() -> None:
        try:
            bridge.portal().call(never, gate)
        except BaseException as error:
            told.append(error)
            raise

    async def main() -> Future[None]:
        executor = bridge.ThreadExecutor(1)
        future = executor.submit(in_worker)
        await gate.reached()
        executor.shutdown(wait=False)
        return future

    future = bridge.run(main, backend=backend)  # type: ignore[arg-type]
    assert isinstance(future.exception(PATIENCE), (bridge.LoopClosed, CancelledError))
    assert len(told) == 1

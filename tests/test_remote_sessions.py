"""What a worker process holds open through its portal, both sides in this one process; what its death leaves behind."""

# ruff: noqa: F811 - fixtures are imported by name
from __future__ import annotations

import asyncio
import gc
import pickle
from collections.abc import AsyncGenerator, AsyncIterator
from concurrent.futures import CancelledError
from contextlib import asynccontextmanager, suppress
from typing import Any, Self

import anyio
import pytest

import bridge
from bridge.loop.hosts import current_host
from tests.conftest import LOOPS, Gate
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
    quietly,
    until,
    worker,
)

pytestmark = pytest.mark.anyio


# -- scopes --------------------------------------------------------------------------------------------------------------


async def test_enter_gives_the_value_and_leaves_in_the_task_that_entered(worker: Worker) -> None:
    recorder = Recorder([])

    def job() -> str:
        with bridge.portal().enter(recorder) as value:
            bridge.portal().call(recorder.log.append, "inside")
            return value  # type: ignore[no-any-return]

    assert await worker.run(job) == "entered"
    assert recorder.log == ["in", "inside", None]
    assert len(set(recorder.tasks)) == 1


async def test_a_task_group_of_the_loop_can_be_entered(worker: Worker) -> None:
    done: list[str] = []

    async def child() -> None:
        await anyio.sleep(0)
        done.append("child")

    @asynccontextmanager
    async def group() -> AsyncIterator[None]:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(child)
            yield

    def job() -> None:
        with bridge.portal().enter(group()):
            pass

    await worker.run(job)
    assert done == ["child"]


@pytest.mark.parametrize("fail", ["", "same"])
async def test_an_error_in_the_block_is_shown_to_the_context_and_goes_on(worker: Worker, fail: str) -> None:
    recorder = Recorder([], fail=fail)

    def job() -> bool:
        error = KeyError("in the block")
        try:
            with bridge.portal().enter(recorder):
                raise error
        except KeyError as raised:
            return raised is error
        return False

    assert await worker.run(job)
    assert recorder.log == ["in", KeyError]


async def test_the_context_may_suppress_the_error(worker: Worker) -> None:
    def job() -> str:
        with bridge.portal().enter(Recorder([], suppress=True)):
            raise KeyError("in the block")
        return "went on"  # type: ignore[unreachable]

    assert await worker.run(job) == "went on"


async def test_an_error_on_leaving_is_raised_with_the_blocks_as_its_context(worker: Worker) -> None:
    def job() -> str:
        try:
            with bridge.portal().enter(Recorder([], fail="exit")):
                raise KeyError("in the block")
        except ZeroDivisionError as error:
            return repr(error.__context__)
        return "nothing"  # type: ignore[unreachable]

    assert await worker.run(job) == "KeyError('in the block')"


async def test_a_context_that_cannot_be_entered_is_not_left(worker: Worker) -> None:
    recorder = Recorder([], fail="enter")

    def job() -> None:
        with bridge.portal().enter(recorder):
            raise AssertionError("it was not entered")

    with pytest.raises(ZeroDivisionError, match="on entering"):
        await worker.run(job)
    assert recorder.log == []


@pytest.mark.parametrize("value", [Unpicklable(), Unopenable()])
async def test_a_context_whose_value_cannot_travel_is_left_again(worker: Worker, value: Any) -> None:
    recorder = Recorder([], value=value)

    def job() -> None:
        with bridge.portal().enter(recorder):
            raise AssertionError("its value is missing")

    with pytest.raises((pickle.PicklingError, pickle.UnpicklingError)):
        await worker.run(job)
    assert recorder.log[0] == "in"
    assert issubclass(recorder.log[1], pickle.PickleError)


async def test_a_job_cancelled_while_it_enters_does_not_get_in(worker: Worker, gate: Gate) -> None:
    log: list[str] = []

    @asynccontextmanager
    async def never() -> AsyncIterator[None]:
        try:
            gate.open()
            await anyio.sleep_forever()
            yield
        finally:
            log.append("cleaned up")

    def job() -> None:
        with bridge.portal().enter(never()):
            log.append("got in")

    result = worker.start(job)
    await gate.reached()
    worker.cancel(result)
    with pytest.raises(CancelledError):
        await result.get()
    assert log == ["cleaned up"]


async def test_a_job_cancelled_inside_the_block_still_leaves_the_context(worker: Worker, new_gate: type[Gate]) -> None:
    inside, go_on = new_gate(), new_gate()
    recorder = Recorder([])

    def job() -> None:
        with bridge.portal().enter(recorder):
            inside.open()
            go_on.wait()
            bridge.portal().call(int)

    result = worker.start(job)
    await inside.reached()
    worker.cancel(result)
    go_on.open()
    with pytest.raises(CancelledError):
        await result.get()
    assert recorder.log == ["in", CancelledError]


async def test_a_context_is_entered_once(worker: Worker) -> None:
    def job() -> None:
        scope = bridge.portal().enter(Recorder([]))
        with scope, pytest.raises(RuntimeError, match=r"call portal\.enter\(\.\.\.\) again"):
            scope.__enter__()
        with pytest.raises(TypeError, match="needs an async context manager"):
            bridge.portal().enter(3)  # type: ignore[arg-type]

    await worker.run(job)


async def test_leaving_a_portal_waits_for_what_was_started_through_it(worker: Worker, gate: Gate) -> None:
    done: list[str] = []

    async def slowly() -> None:
        await gate.reached()
        done.append("done")

    def job() -> list[str]:
        with bridge.portal() as portal:
            portal.run_coroutine_threadsafe(slowly())
            with pytest.raises(RuntimeError, match="already entered"):
                portal.__enter__()
        return list(done)

    result = worker.start(job)
    await until(lambda: "lent" in worker.roster.log)
    gate.open()
    assert await result.get() == ["done"]


async def test_leaving_a_portal_by_an_error_cancels_what_was_started_and_waits_for_its_clean_up(
    worker: Worker, gate: Gate
) -> None:
    cleaned: list[bool] = []

    async def never() -> None:
        try:
            gate.open()
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(0.001)
            cleaned.append(True)

    def job() -> list[bool]:
        with suppress(KeyError), bridge.portal() as portal:
            portal.run_coroutine_threadsafe(never())
            gate.wait()
            raise KeyError
        return list(cleaned)

    assert await worker.run(job) == [True]


async def test_a_portal_is_an_async_scope_on_a_loop_of_the_worker(worker: Worker) -> None:
    done: list[str] = []

    async def at_home() -> None:
        await anyio.sleep(0.001)
        done.append("done")

    def job() -> list[str]:
        portal = bridge.portal()

        async def there() -> list[str]:
            async with portal:
                portal.run_coroutine_threadsafe(at_home())
            return list(done)

        return asyncio.run(there())

    assert await worker.run(job) == ["done"]


# -- iterations ----------------------------------------------------------------------------------------------------------


def closed_in_its_task(log: list[Any]) -> bool:
    *tasks, (word, task) = log
    return word == "closed" and set(tasks) == {task}


async def test_iterate_gives_the_items_in_order_from_one_task(worker: Worker) -> None:
    log: list[Any] = []
    assert await worker.run(lambda: list(bridge.portal().iterate(numbers(log, 20)))) == list(range(20))
    assert closed_in_its_task(log)


async def test_iterate_asks_for_nothing_before_it_is_wanted(worker: Worker) -> None:
    log: list[Any] = []

    def job() -> list[int]:
        iterator = bridge.portal().iterate(numbers(log, 20))
        assert log == []
        next(iterator)
        found = [len(log)]
        next(iterator)
        return [*found, len(log)]

    assert await worker.run(job) == [1, 2]
    assert closed_in_its_task(log)


async def test_leaving_a_for_early_closes_the_generator_in_its_task(worker: Worker) -> None:
    log: list[Any] = []

    def job() -> bool:
        for number in bridge.portal().iterate(numbers(log)):
            if number == 2:
                break
        return closed_in_its_task(log)

    assert await worker.run(job)


async def test_an_iteration_can_be_closed_and_is_over_then(worker: Worker) -> None:
    log: list[Any] = []

    def job() -> list[int]:
        iterator: Any = bridge.portal().iterate(numbers(log))
        next(iterator)
        iterator.close()
        iterator.close()
        assert closed_in_its_task(log)
        unused: Any = bridge.portal().iterate(numbers(log))
        unused.close()
        return [*iterator, *unused]

    assert await worker.run(job) == []


async def test_an_iteration_collected_as_garbage_is_closed(worker: Worker) -> None:
    log: list[Any] = []

    def job() -> None:
        cycle: list[Any] = [bridge.portal().iterate(numbers(log))]
        cycle.append(cycle)
        next(cycle[0])
        del cycle
        gc.collect()

    await worker.run(job)
    assert closed_in_its_task(log)


async def test_an_iteration_collected_in_the_middle_of_sending_is_closed_by_another_thread(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    log: list[Any] = []
    cycles: list[Any] = []

    def job() -> None:
        iterator = bridge.portal().iterate(numbers(log))
        next(iterator)
        cycles.append(iterator)
        del iterator
        real = worker.line._keep

        def keep(data: bytes) -> None:  # with the line's lock held
            cycles.clear()
            real(data)

        monkeypatch.setattr(worker.line, "_keep", keep)
        bridge.portal().call(int)

    await worker.run(job)
    await until(lambda: log and isinstance(log[-1], tuple))
    assert closed_in_its_task(log)


async def test_an_error_in_the_generator_is_raised_after_the_items_before_it(worker: Worker) -> None:
    def job() -> list[Any]:
        found: list[Any] = []
        iterator = bridge.portal().iterate(numbers([], fail_at=2))
        try:
            for number in iterator:
                found.append(number)  # noqa: PERF402
        except ZeroDivisionError as error:
            found.append(str(error))
        return [*found, *iterator]

    assert await worker.run(job) == [0, 1, "half-way"]


async def test_an_async_iterable_without_aclose_is_iterated_too(worker: Worker) -> None:
    class Letters:
        def __init__(self) -> None:
            self.left = list("cba")

        def __aiter__(self) -> Self:
            return self

        async def __anext__(self) -> str:
            if not self.left:
                raise StopAsyncIteration
            return self.left.pop()

    assert await worker.run(lambda: list(bridge.portal().iterate(Letters()))) == ["a", "b", "c"]
    with pytest.raises(TypeError, match="needs an async iterable"):
        await worker.run(lambda: bridge.portal().iterate([1]))  # type: ignore[arg-type]


async def test_a_job_cancelled_while_it_waits_for_an_item_ends_the_generator(worker: Worker, gate: Gate) -> None:
    log: list[str] = []

    async def never() -> AsyncGenerator[int]:
        try:
            yield 1
            gate.open()
            await anyio.sleep_forever()
        finally:
            log.append("closed")

    result = worker.start(lambda: list(bridge.portal().iterate(never())))
    await gate.reached()
    worker.cancel(result)
    with pytest.raises(CancelledError):
        await result.get()
    assert log == ["closed"]


# -- a worker that dies --------------------------------------------------------------------------------------------------


async def test_what_a_dead_worker_has_called_is_cancelled_and_cleans_up(worker: Worker, new_gate: type[Gate]) -> None:
    begun = [new_gate() for _ in range(3)]
    log: list[str] = []

    async def never(number: int) -> None:
        try:
            begun[number].open()
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(0)
            log.append("cleaned up")

    def job() -> None:
        portal = bridge.portal()
        worker.line.start_thread(portal.call, never, 0)
        portal.run_coroutine_threadsafe(never(1))
        portal.call(never, 2)

    worker.start(quietly, job)
    for gate in begun:
        await gate.reached()
    worker.die()
    await until(lambda: len(log) == 3)
    await until(lambda: worker.at_rest)
    assert not worker.member.out


async def test_what_a_dead_worker_has_entered_is_left_by_an_error(worker: Worker, gate: Gate) -> None:
    recorder = Recorder([])

    def job() -> None:
        with bridge.portal().enter(recorder):
            gate.open()
            worker.line.wait_until(lambda: False)

    worker.start(quietly, job)
    await gate.reached()
    worker.die()
    await until(lambda: len(recorder.log) == 2)
    assert recorder.log == ["in", bridge.errors.WorkerDied]
    assert len(set(recorder.tasks)) == 1


async def test_what_a_dead_worker_was_entering_is_cancelled_or_left(worker: Worker, gate: Gate) -> None:
    log: list[str] = []

    @asynccontextmanager
    async def slowly() -> AsyncIterator[None]:
        try:
            gate.open()
            await anyio.sleep_forever()
            yield
        finally:
            log.append("cleaned up")

    worker.start(quietly, lambda: bridge.portal().enter(slowly()).__enter__())
    await gate.reached()
    worker.die()
    await until(lambda: log)


@pytest.mark.parametrize("waits", [False, True])
async def test_what_a_dead_worker_has_iterated_is_closed(worker: Worker, gate: Gate, waits: bool) -> None:
    log: list[str] = []

    async def rows() -> AsyncGenerator[int]:
        try:
            yield 1
            gate.open()
            await anyio.sleep_forever()
        finally:
            log.append("closed")

    def job() -> None:
        iterator: Any = bridge.portal().iterate(rows())
        try:
            next(iterator)
            if waits:
                next(iterator)
            gate.open()
            worker.line.wait_until(lambda: False)
        finally:
            iterator._over = True  # a dead process collects no garbage

    worker.start(quietly, job)
    await gate.reached()
    worker.die()
    await until(lambda: log == ["closed"])


async def test_after_its_death_only_callbacks_are_begun_that_a_worker_had_sent_without_waiting(
    worker: Worker, gate: Gate
) -> None:
    called: list[int] = []
    worker.crew.hold_asides = gate

    async def note(item: Any) -> None:
        called.append(item)

    def job() -> None:
        portal = bridge.portal()
        portal.run_coroutine_threadsafe(note(1))
        portal.call_soon_threadsafe(called.append, 2)
        portal.run_coroutine_threadsafe(note(3))
        worker.line.wait_until(lambda: False)

    worker.member.unpacker.is_large = lambda parcel: True  # type: ignore[method-assign]
    worker.start(quietly, job)
    await until(lambda: len(worker.crew.calls._held) == 2)
    worker.die()
    await until(lambda: worker.crew.calls.dropped)
    gate.open()
    await until(lambda: worker.crew.calls._unpacking is None and called)
    assert called == [2]


# -- a loop that ends while something is open ----------------------------------------------------------------------------


@pytest.mark.parametrize("backend", [name for name in LOOPS if name in ("bridge", "trio")])
def test_a_loop_that_ends_leaves_what_is_open_and_tells_the_worker(backend: str, new_gate: type[Gate]) -> None:
    inside, ended = new_gate(), new_gate()
    recorder = Recorder([])
    log: list[Any] = []

    def job() -> list[str]:
        iterator = bridge.portal().iterate(numbers(log))
        next(iterator)
        scope = bridge.portal().enter(recorder)
        scope.__enter__()
        inside.open()
        ended.wait()
        said = []
        for ask in (iterator.__next__, lambda: scope.__exit__(None, None, None)):
            try:
                ask()
            except bridge.LoopClosed as error:
                said.append(type(error).__name__)
        return said

    with bridge.background_loop() as portal, played(None, portal.call(current_host)) as worker:

        async def main() -> Result:
            worker.origin = current_host()
            result = worker.start(job)
            await inside.reached()
            return result

        result = bridge.run(main, backend="trio" if backend == "trio" else "asyncio")
        assert closed_in_its_task(log)
        assert recorder.log[0] == "in"
        assert len(recorder.log) == 2
        ended.open()
        result.done.wait()
        assert result.value == ["LoopClosed", "LoopClosed"]

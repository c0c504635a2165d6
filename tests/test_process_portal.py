"""Back over the bridge: from a worker process into the loop that sent the work, by the same calls as from a thread."""

# ruff: noqa: F811 - fixtures are imported by name
from __future__ import annotations

import os
import pickle
import sys
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import process_targets as targets
import pytest
from process_targets import Deliberate, Gate, Tally

import bridge
from tests.processes import (  # noqa: F401
    anyio_backend,
    attempt_all,
    begun,
    new_gate,
    no_thread_left,
    tally,
    until,
)

pytestmark = [pytest.mark.anyio, pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX")]


@pytest.fixture(scope="module")
async def executor(anyio_backend: tuple[str, dict[str, Any]]) -> AsyncIterator[bridge.ProcessExecutor]:
    """A single worker: whoever waits for the loop must lend its slot, or others would wait for ever."""
    async with bridge.ProcessExecutor(1, name="single", grace=0.2) as executor:
        yield executor


# -- call ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fn", [targets.here, targets.where_am_i])
async def test_call_runs_the_function_on_the_loop_that_sent_the_work(
    executor: bridge.ProcessExecutor, fn: Callable[[], Any]
) -> None:
    async def there() -> tuple[int, int, str]:
        return await targets.where_am_i()

    assert await executor.run(lambda: bridge.portal().call(fn)) == targets.here()
    assert await executor.run(targets.call_home, there) == targets.here()


async def test_call_passes_arguments_and_returns_the_value(executor: bridge.ProcessExecutor) -> None:
    async def collected(*args: Any, **kwargs: Any) -> Any:
        await anyio.sleep(0.001)
        return args, kwargs

    names = {"fn": 1, "self": 2, "args": 3}
    assert await executor.run(targets.call_home, divmod, 7, 2) == (3, 1)
    assert await executor.run(lambda: bridge.portal().call(collected, 1, [2], **names)) == ((1, [2]), names)


async def test_call_reaches_the_objects_of_the_parent_not_copies(executor: bridge.ProcessExecutor) -> None:
    seen: list[Any] = []

    def note(item: Any) -> int:
        seen.append(item)
        return len(seen)

    def work() -> list[int]:
        return [bridge.portal().call(note, item) for item in "abc"]

    assert await executor.run(work) == [1, 2, 3]
    assert seen == ["a", "b", "c"]


async def test_an_error_of_the_called_function_is_raised_in_the_worker(executor: bridge.ProcessExecutor) -> None:
    async def fail() -> None:
        raise Deliberate("at home")

    def work() -> str:
        try:
            bridge.portal().call(fail)
        except Deliberate as error:
            return f"caught {error}"
        return "nothing"

    assert await executor.run(work) == "caught at home"
    with pytest.raises(Deliberate, match="at home"):
        await executor.run(targets.call_home, fail)


async def test_what_cannot_be_pickled_is_that_calls_error(executor: bridge.ProcessExecutor) -> None:
    def work() -> list[str]:
        found = []
        for fn, args in ((len, (targets.make_lock(),)), (targets.make_lock, ())):
            try:
                bridge.portal().call(fn, *args)
            except pickle.PicklingError as error:
                found.append(str(error))
        return [*found, bridge.portal().call(str, "still there")]

    there, back, last = await executor.run(work)
    assert "lock" in there
    assert "lock" in back
    assert last == "still there"


async def test_large_arguments_and_answers_travel_too(executor: bridge.ProcessExecutor) -> None:
    rows = [[str(n), n] for n in range(100_000)]
    assert await executor.run(lambda: bridge.portal().call(targets.echo, bytes(5_000_000)) == bytes(5_000_000))
    assert await executor.run(lambda: len(bridge.portal().call(lambda: rows))) == 100_000
    assert await executor.run(lambda: bridge.portal().call(len, [[str(n), n] for n in range(100_000)])) == 100_000


async def test_a_worker_that_waits_lends_its_slot(executor: bridge.ProcessExecutor) -> None:
    targets.at_home["executor"] = executor
    mine, (other, lent) = await executor.run(targets.pid_and_surroundings)
    assert mine != other
    assert lent == 1


async def test_parent_worker_parent_worker_completes_with_a_single_worker(executor: bridge.ProcessExecutor) -> None:
    targets.at_home["executor"] = executor
    pids = await executor.run(targets.dive, 3)
    assert len(pids) == len(set(pids)) == 4


async def test_never_more_functions_at_once_than_workers_however_slots_are_lent(
    executor: bridge.ProcessExecutor, tally: Tally
) -> None:
    """Each says when it is in and out of its computing part; in the order of the file, they must not overlap."""

    async def pause() -> None:
        await anyio.sleep(0.002)

    def work(number: int) -> None:
        for _ in range(3):
            tally.add(f"in-{number}")
            tally.add(f"out-{number}")
            bridge.portal().call(pause)

    await attempt_all(*(executor.run(work, number) for number in range(4)))
    lines = tally.lines()
    assert len(lines) == 24
    assert [line.replace("in", "out") for line in lines[::2]] == lines[1::2]


async def test_the_way_home_works_in_syncify_and_from_other_threads_and_when_handed_over(
    executor: bridge.ProcessExecutor,
) -> None:
    @bridge.syncify
    async def double(number: int) -> int:
        await anyio.sleep(0)
        return 2 * number

    def in_a_thread() -> int:
        found: list[int] = []
        portal = bridge.portal()
        thread = threading.Thread(target=lambda: found.append(portal.call(abs, -3)))
        thread.start()
        thread.join()
        return found[0]

    def handed_over(portal: Any) -> tuple[bool, int]:
        return isinstance(portal, bridge.Portal), portal.call(abs, -4)

    assert await executor.run(lambda: double(21)) == 42
    assert await executor.run(in_a_thread) == 3
    assert await executor.run(handed_over, bridge.portal()) == (True, 4)


# -- without waiting -----------------------------------------------------------------------------------------------------


async def test_callbacks_run_on_the_loop_once_and_in_order(executor: bridge.ProcessExecutor) -> None:
    seen: list[tuple[int, int]] = []

    def note(number: int) -> None:
        seen.append((number, threading.get_ident()))

    def work() -> None:
        for number in range(200):
            bridge.portal().call_soon_threadsafe(note, number)

    await executor.run(work)
    await until(lambda: len(seen) == 200)
    assert seen == [(number, threading.get_ident()) for number in range(200)]


async def test_a_coroutine_started_from_a_worker_gives_a_future(executor: bridge.ProcessExecutor) -> None:
    async def later(number: int) -> tuple[int, int]:
        await anyio.sleep(0.001)
        if number == 5:
            raise Deliberate
        return number, os.getpid()

    def work() -> list[Any]:
        portal = bridge.portal()
        futures = [portal.run_coroutine_threadsafe(later(n)) for n in range(6)]
        return [*(future.result(10) for future in futures[:5]), type(futures[5].exception(10)).__name__]

    assert await executor.run(work) == [*((n, os.getpid()) for n in range(5)), "Deliberate"]


async def test_cancelling_the_future_cancels_the_coroutine_at_home(
    executor: bridge.ProcessExecutor, begun: Gate, new_gate: Callable[[str], Gate]
) -> None:
    ended = new_gate("ended")

    async def for_ever() -> None:
        begun.open()
        try:
            await anyio.sleep_forever()
        finally:
            ended.open(os.getpid())

    def work() -> tuple[bool, bool]:
        future = bridge.portal().run_coroutine_threadsafe(for_ever())
        begun.wait()
        return future.cancel(), future.cancelled()

    assert await executor.run(work) == (True, True)
    assert int(await ended.reached()) == os.getpid()


# -- iterate and enter ---------------------------------------------------------------------------------------------------


async def test_an_async_iterable_of_the_parent_is_consumed_in_the_worker(executor: bridge.ProcessExecutor) -> None:
    async def rows(count: int) -> AsyncIterator[tuple[int, int]]:
        for number in range(count):
            await anyio.sleep(0)
            yield number, os.getpid()

    def made_here(count: int) -> list[Any]:
        return list(bridge.portal().iterate(rows(count)))

    def given(items: Any) -> list[Any]:
        return list(bridge.portal().iterate(items))

    expected = [(number, os.getpid()) for number in range(20)]
    assert await executor.run(made_here, 20) == expected
    assert await executor.run(given, rows(20)) == expected
    assert await executor.run(lambda: list(bridge.portal().iterate(targets.count_up(3)))) == [0, 1, 2]


async def test_leaving_the_iteration_closes_the_iterable_at_home(
    executor: bridge.ProcessExecutor, new_gate: Callable[[str], Gate]
) -> None:
    ended = new_gate("ended")

    def work() -> list[int]:
        found = []
        for number in bridge.portal().iterate(targets.count_up(1000, ended)):
            found.append(number)
            if number == 2:
                break
        return found

    assert await executor.run(work) == [0, 1, 2]
    assert int(await ended.reached()) == os.getpid()


async def test_an_error_of_the_iterable_is_raised_after_its_items(executor: bridge.ProcessExecutor) -> None:
    async def rows() -> AsyncIterator[int]:
        yield 1
        raise Deliberate("no more rows")

    def work() -> list[Any]:
        found: list[Any] = []
        try:
            for row in bridge.portal().iterate(rows()):
                found.append(row)  # noqa: PERF402
        except Deliberate as error:
            found.append(str(error))
        return found

    assert await executor.run(work) == [1, "no more rows"]


async def test_an_async_context_manager_is_entered_and_left_at_home(
    executor: bridge.ProcessExecutor, tally: Tally
) -> None:
    def work() -> int:
        with bridge.portal().enter(targets.entered(tally)) as pid:
            tally.add("inside")
            return pid

    assert await executor.run(work) == os.getpid()
    assert tally.lines() == [f"in-{os.getpid()}", "inside", f"out-{os.getpid()}"]


async def test_an_error_inside_the_block_reaches_the_context_manager(executor: bridge.ProcessExecutor) -> None:
    seen: list[str] = []

    @asynccontextmanager
    async def transaction() -> AsyncIterator[None]:
        try:
            yield
        except Deliberate as error:
            seen.append(str(error))
            raise

    def work() -> None:
        with bridge.portal().enter(transaction()):
            raise Deliberate("roll back")

    with pytest.raises(Deliberate, match="roll back"):
        await executor.run(work)
    assert seen == ["roll back"]


async def test_an_executor_that_a_function_refers_to_is_the_parents_own(executor: bridge.ProcessExecutor) -> None:
    def outer() -> tuple[int, int]:
        return os.getpid(), bridge.portal().call(executor.run, os.getpid)

    there, nested = await executor.run(outer)
    assert os.getpid() not in (there, nested)
    assert there != nested  # the first one waits in its call


async def test_an_executor_of_the_parent_cannot_be_used_in_a_worker_itself(executor: bridge.ProcessExecutor) -> None:
    def misuse() -> None:
        executor.submit(os.getpid)

    with pytest.raises(TypeError, match=r"bridge\.portal\(\)\.call\(executor\.submit"):
        await executor.run(misuse)

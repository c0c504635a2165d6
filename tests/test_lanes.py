"""Lanes: names for executors, for as long as a run or a block lasts."""

from __future__ import annotations

import concurrent.futures
import threading
from typing import Any

import anyio
import pytest

import bridge
from tests.conftest import LOOPS, Gate


def where() -> str:
    return threading.current_thread().name


@bridge.offload(to="db")
def in_db() -> str:
    return threading.current_thread().name


# -- run(executors=) -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loop", list(LOOPS))
def test_run_gives_its_executors_names_and_closes_them(loop: str) -> None:
    executor = bridge.ThreadExecutor(1, name="database")

    async def main() -> str:
        return await in_db()

    options: dict[str, Any] = {"backend": "trio"} if loop == "trio" else {}
    if "loop_factory" in LOOPS[loop][1]:
        options["loop_factory"] = LOOPS[loop][1]["loop_factory"]
    elif loop == "asyncio":
        options["loop_factory"] = None
    assert bridge.run(main, executors={"db": executor}, **options) == "database-1"
    with pytest.raises(bridge.ExecutorClosed):
        executor.submit(int)


def test_run_closes_its_executors_when_the_main_function_fails() -> None:
    executor = bridge.ThreadExecutor(1)

    async def main() -> None:
        await in_db()
        raise KeyError

    with pytest.raises(KeyError):
        bridge.run(main, executors={"db": executor})
    with pytest.raises(bridge.ExecutorClosed):
        executor.submit(int)


def test_a_lane_named_thread_replaces_the_default_one() -> None:
    async def main() -> str:
        return await bridge.to_thread(where)

    assert bridge.run(main, executors={"thread": bridge.ThreadExecutor(1, name="mine")}) == "mine-1"


def test_a_lane_of_one_run_is_unknown_to_the_next() -> None:
    async def main() -> str:
        return await in_db()

    bridge.run(main, executors={"db": bridge.ThreadExecutor(1)})
    with pytest.raises(bridge.UnknownLane, match=r"no lane 'db'.*it has: process, thread\."):
        bridge.run(main)


@pytest.mark.parametrize("executors", [{"db": 5}, {"db": concurrent.futures.ThreadPoolExecutor}, {5: None}, {"db": None}])
def test_what_is_no_executor_is_refused_before_anything_runs(executors: Any) -> None:
    async def main() -> None:
        raise AssertionError("ran")

    with pytest.raises(TypeError, match=r"executors= maps names to bridge executors.*ThreadExecutor\(1\)"):
        bridge.run(main, executors=executors)


def test_an_executor_of_others_is_wrapped_to_be_a_lane() -> None:
    async def main() -> None:
        raise AssertionError("ran")

    pool: Any = concurrent.futures.ThreadPoolExecutor(1)
    with pytest.raises(TypeError, match=r'"db": bridge\.ForeignExecutor\(ThreadPoolExecutor\(\.\.\.\)\)'):
        bridge.run(main, executors={"db": pool})


def test_a_single_worker_lane_runs_one_function_at_a_time() -> None:
    async def main() -> list[int]:
        order: list[int] = []
        append = bridge.offload(to="db")(order.append)
        async with anyio.create_task_group() as tasks:
            for number in range(50):
                tasks.start_soon(append, number)
        return order

    assert sorted(bridge.run(main, executors={"db": bridge.ThreadExecutor(1)})) == list(range(50))


# -- bridge.lanes --------------------------------------------------------------------------------------------------------


@pytest.mark.anyio
async def test_inside_the_block_the_name_works_and_outside_it_does_not() -> None:
    executor = bridge.ThreadExecutor(1, name="database")
    with pytest.raises(bridge.UnknownLane):
        await in_db()
    async with bridge.lanes(db=executor):
        assert await in_db() == "database-1"
    with pytest.raises(bridge.UnknownLane):
        await in_db()
    with pytest.raises(bridge.ExecutorClosed):
        executor.submit(int)


@pytest.mark.anyio
async def test_an_inner_block_hides_the_outer_lane_and_gives_it_back() -> None:
    async with bridge.lanes(db=bridge.ThreadExecutor(1, name="outer")):
        async with bridge.lanes(db=bridge.ThreadExecutor(1, name="inner")):
            assert await in_db() == "inner-1"
        assert await in_db() == "outer-1"


@pytest.mark.anyio
async def test_the_default_lane_comes_back_after_it_was_hidden() -> None:
    before = await bridge.to_thread(where)
    async with bridge.lanes(thread=bridge.ThreadExecutor(1, name="mine")):
        assert await bridge.to_thread(where) == "mine-1"
    assert (await bridge.to_thread(where)).rpartition("-")[0] == before.rpartition("-")[0]


@pytest.mark.anyio
async def test_leaving_waits_for_what_was_sent_there(gate: Gate) -> None:
    done: list[int] = []
    executor = bridge.ThreadExecutor(1)

    async def open_it() -> None:
        gate.open()

    async with anyio.create_task_group() as tasks:
        async with bridge.lanes(db=executor):
            executor.submit(gate.wait)
            executor.submit(done.append, 1)
            tasks.start_soon(open_it)
    assert done == [1]


@pytest.mark.anyio
async def test_leaving_by_an_exception_restores_and_closes() -> None:
    executor = bridge.ThreadExecutor(1)
    with pytest.raises(KeyError):
        async with bridge.lanes(db=executor):
            raise KeyError
    with pytest.raises(bridge.UnknownLane):
        await in_db()
    with pytest.raises(bridge.ExecutorClosed):
        executor.submit(int)


@pytest.mark.anyio
async def test_a_block_cannot_be_entered_twice() -> None:
    block = bridge.lanes(db=bridge.ThreadExecutor(1))
    async with block:
        with pytest.raises(RuntimeError, match="already open"):
            await block.__aenter__()
        assert await in_db()


@pytest.mark.anyio
async def test_a_block_that_cannot_be_entered_closes_what_it_had_opened() -> None:
    good, taken = bridge.ThreadExecutor(1), bridge.ThreadExecutor(1, name="taken")
    async with taken:
        with pytest.raises(RuntimeError, match="'taken' is already entered"):
            async with bridge.lanes(good=good, taken=taken):
                pass
        assert not good._entered
        with pytest.raises(bridge.UnknownLane):
            await bridge.offload(to="good")(where)()


@pytest.mark.anyio
async def test_blocks_of_two_tasks_that_overlap_leave_nothing_behind() -> None:
    first_is_open, second_is_open, first_is_closed = anyio.Event(), anyio.Event(), anyio.Event()

    async def first() -> None:
        async with bridge.lanes(db=bridge.ThreadExecutor(1, name="first")):
            first_is_open.set()
            await second_is_open.wait()
        first_is_closed.set()

    async def second() -> None:
        await first_is_open.wait()
        async with bridge.lanes(db=bridge.ThreadExecutor(1, name="second")):
            second_is_open.set()
            await first_is_closed.wait()
            assert await in_db() == "second-1"

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(first)
        tasks.start_soon(second)
    with pytest.raises(bridge.UnknownLane):
        await in_db()


@pytest.mark.anyio
async def test_what_is_no_executor_is_refused() -> None:
    not_an_executor: Any = concurrent.futures.Future()
    with pytest.raises(TypeError, match=r"executors= maps names to bridge executors"):
        bridge.lanes(db=not_an_executor)


@pytest.mark.anyio
async def test_a_closed_executor_as_a_lane_is_reported_at_the_call() -> None:
    executor = bridge.ThreadExecutor(1, name="gone")
    executor.shutdown()
    async with bridge.lanes(db=executor):
        with pytest.raises(bridge.ExecutorClosed, match="'gone'"):
            await in_db()

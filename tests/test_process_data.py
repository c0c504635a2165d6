"""Large data: arrays there and back, views that stay valid as long as somebody has them, memory that is given back."""

# ruff: noqa: F811 - fixtures are imported by name
from __future__ import annotations

import gc
import os
import pickle
import sys
import threading
import time
from collections import Counter
from typing import Any

import anyio
import numpy as np
import process_targets as targets
import pytest
import worker_arrays as arrays
from process_targets import Gate

import bridge
from tests.processes import (  # noqa: F401
    Attempt,
    anyio_backend,
    attempt_all,
    begun,
    descriptors,
    executor,
    gate,
    kill,
    linux_only,
    no_thread_left,
    shared_mappings,
    shared_names,
    until,
)

pytestmark = [pytest.mark.anyio, pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX")]

MB = 1 << 20


def sample(megabytes: float = 2) -> Any:
    return np.arange(int(megabytes * MB) // 8, dtype=np.float64)


@pytest.fixture
async def fresh(anyio_backend: Any) -> Any:
    """An executor of its own, for tests that look at what is left."""
    async with bridge.ProcessExecutor(1, name="fresh") as executor:
        yield executor


# -- there and back ------------------------------------------------------------------------------------------------------

SHAPES: dict[str, Any] = {
    "floats": sample(),
    "small": np.arange(10),
    "just at the limit": np.zeros(1 << 16, dtype=np.uint8),
    "two-dimensional": np.arange(300_000, dtype=np.int32).reshape(300, 1000),
    "Fortran order": np.asfortranarray(np.arange(300_000.0).reshape(300, 1000)),
    "every other row": np.arange(300_000.0).reshape(300, 1000)[::2],
    "records": np.zeros(50_000, dtype=[("x", "f8"), ("n", "i4")]),
    "objects": np.array([{"a": 1}, [2], None], dtype=object),
    "empty": np.empty((0, 5)),
    "bool": np.ones(200_000, dtype=bool),
}


@pytest.mark.parametrize("shape", SHAPES)
async def test_an_array_comes_back_as_it_went(executor: bridge.ProcessExecutor, shape: str) -> None:
    sent = SHAPES[shape]
    back = await executor.run(targets.echo, sent)
    assert type(back) is np.ndarray
    assert (back.dtype, back.shape) == (sent.dtype, sent.shape)
    assert back.tolist() == sent.tolist()


@pytest.mark.parametrize("size", [10, 1 << 16, 3 * MB])
async def test_bytes_like_objects_keep_their_type_and_content(executor: bridge.ProcessExecutor, size: int) -> None:
    data = os.urandom(size)
    assert await executor.run(targets.echo, data) == data
    changeable = await executor.run(targets.echo, bytearray(data))
    assert type(changeable) is bytearray
    assert changeable == data
    assert await executor.run(len, memoryview(data)) == size
    text = "ä" * size
    assert await executor.run(targets.echo, text) == text


async def test_arrays_travel_inside_other_objects(executor: bridge.ProcessExecutor) -> None:
    account = targets.Account(0)
    account.history = {"rows": [sample(), sample() + 1], "blob": bytes(MB)}  # type: ignore[attr-defined]
    back = await executor.run(targets.echo, account)
    assert [rows[:3].tolist() for rows in back.history["rows"]] == [[0, 1, 2], [1, 2, 3]]
    assert back.history["blob"] == bytes(MB)


async def test_one_array_given_twice_is_one_array_in_the_worker(executor: bridge.ProcessExecutor) -> None:
    array = sample()
    assert await executor.run(lambda a, b: a is b, array, array)


async def test_many_arrays_in_one_call(executor: bridge.ProcessExecutor) -> None:
    many = [np.full(20_000, n) for n in range(100)]
    back = await executor.run(targets.echo, many)
    assert [int(each[0]) for each in back] == list(range(100))
    assert [int(each[-1]) for each in back] == list(range(100))


async def test_arrays_travel_through_stream_amap_and_submit(executor: bridge.ProcessExecutor) -> None:
    assert [int(a.sum()) async for a in executor.stream(arrays.rows, 10, 50_000)] == [50_000 * n for n in range(10)]
    assert [int(a[0]) async for a in executor.amap(arrays.filled, range(10))] == list(range(10))
    future = executor.submit(arrays.total, sample())
    await until(future.done)
    assert future.result() == sample().sum()


# -- writable, and private -----------------------------------------------------------------------------------------------


async def test_an_argument_is_writable_and_the_parents_array_is_not_changed(executor: bridge.ProcessExecutor) -> None:
    array = sample()
    assert await executor.run(arrays.fill, array, 7.0) == 7.0 * array.size
    assert array[:3].tolist() == [0, 1, 2]


async def test_a_result_is_writable_and_the_workers_array_is_not_changed(executor: bridge.ProcessExecutor) -> None:
    async with bridge.ProcessExecutor(1) as single:
        result = await single.run(arrays.keep, sample())
        result[:] = 5
        assert (await single.run(arrays.kept))[:3].tolist() == [0, 1, 2]
        assert result[:3].tolist() == [5, 5, 5]


async def test_what_was_read_only_stays_so(executor: bridge.ProcessExecutor) -> None:
    array = sample()
    array.flags.writeable = False
    expected = pickle.loads(pickle.dumps(array, 5)).flags.writeable
    assert (await executor.run(lambda a: a.flags.writeable, array)) == expected


async def test_an_array_that_a_worker_keeps_is_not_overwritten(fresh: bridge.ProcessExecutor) -> None:
    await fresh.run(arrays.keep, sample()[10:])
    for number in range(20):
        await fresh.run(arrays.total, np.full(MB // 4, number))
    assert (await fresh.run(arrays.kept))[:3].tolist() == [10, 11, 12]


async def test_results_that_the_parent_keeps_are_not_overwritten(executor: bridge.ProcessExecutor) -> None:
    kept = [(await executor.run(arrays.filled, number, MB // 8))[5:] for number in range(20)]
    gc.collect()
    assert [(int(a[0]), int(a[-1])) for a in kept] == [(n, n) for n in range(20)]


async def test_results_outlive_their_executor() -> None:
    async with bridge.ProcessExecutor(1) as executor:
        result = await executor.run(arrays.filled, 3, MB)
    gc.collect()
    assert int(result.sum()) == 3 * MB
    result += 1
    assert int(result[-1]) == 4


# -- given back ----------------------------------------------------------------------------------------------------------


@linux_only
async def test_blocks_are_used_again(fresh: bridge.ProcessExecutor) -> None:
    array = sample(4)
    for _ in range(5):
        await fresh.run(targets.echo, array)
    before = shared_mappings()
    for _ in range(30):
        await fresh.run(targets.echo, array)
    assert mapped_bytes() - before <= 16 * MB  # 30 rounds of 8 MB would be 240


@linux_only
async def test_the_workers_memory_does_not_grow_either(fresh: bridge.ProcessExecutor) -> None:
    array = sample(4)
    pid = await fresh.run(targets.pid_of)
    for _ in range(5):
        await fresh.run(targets.echo, array)
    before = shared_mappings(pid)
    for _ in range(30):
        await fresh.run(targets.echo, array)
    assert await fresh.run(targets.pid_of) == pid
    assert shared_mappings(pid) - before <= 16 * MB


@linux_only
async def test_nothing_is_left_when_executor_and_results_are_gone() -> None:
    await warm_up()
    before, mapped, names = descriptors(), shared_mappings(), shared_names()
    async with bridge.ProcessExecutor(2) as executor:
        results = await attempt_all(*(executor.run(targets.echo, sample(3)) for _ in range(6)))
        assert shared_mappings() >= 6 * 3 * MB
        del results
    await until(lambda: (gc.collect() and False) or shared_mappings() <= mapped)
    await nothing_more_than(before)
    assert shared_names() == names


@linux_only
async def test_nothing_is_left_after_workers_were_killed() -> None:
    await warm_up()
    before, mapped, names = descriptors(), shared_mappings(), shared_names()
    async with bridge.ProcessExecutor(2) as executor:
        for number in range(4):
            back = await executor.run(arrays.filled, number, MB)
            kill(await executor.run(arrays.keep_and_say_pid, sample(3)))
            with pytest.raises(bridge.WorkerDied):
                await executor.run(arrays.die_with, sample(3))
            assert int(back.sum()) == number * MB
        del back
    await until(lambda: (gc.collect() and False) or shared_mappings() <= mapped)
    await nothing_more_than(before)
    assert shared_names() == names


@linux_only
async def test_arguments_of_withdrawn_and_of_bad_jobs_are_freed(begun: Gate, gate: Gate) -> None:
    await warm_up()
    before, mapped = descriptors(), shared_mappings()
    async with bridge.ProcessExecutor(1) as executor:
        running = executor.submit(targets.announce_and_wait, begun, gate)
        await begun.reached()
        async with anyio.create_task_group() as tasks:
            attempts = [Attempt() for _ in range(5)]
            for attempt in attempts:
                tasks.start_soon(attempt.make, executor.run, targets.echo, sample(8))
            bad = executor.submit(targets.echo, sample(8), targets.make_lock())
            await until(lambda: executor.statistics().queued >= 5)
            tasks.cancel_scope.cancel()
        gate.open()
        await until(lambda: running.done() and bad.done())
        assert isinstance(bad.exception(), pickle.PicklingError)
        assert int((await executor.run(targets.echo, sample(1)))[1]) == 1
    await until(lambda: (gc.collect() and False) or shared_mappings() <= mapped)
    await nothing_more_than(before)


async def nothing_more_than(before: Counter[str]) -> None:
    """Wait until no more descriptors are open than were."""
    try:
        await until(lambda: not descriptors() - before)
    except TimeoutError:
        pytest.fail(f"left open: {descriptors() - before}")


def mapped_bytes() -> int:
    """After everything that nobody refers to any more has gone."""
    gc.collect()
    return shared_mappings()


async def warm_up() -> None:
    """What is made once for the process (a resource tracker, a thread) is there from here on."""
    async with bridge.ProcessExecutor(1) as executor:
        await executor.run(targets.echo, sample(1))
    gc.collect()


# -- large graphs of objects ---------------------------------------------------------------------------------------------


def graph(rows: int) -> list[Any]:
    return [[n, str(n), (n, n + 0.5)] for n in range(rows)]


async def test_a_large_graph_of_objects_comes_back_equal(executor: bridge.ProcessExecutor) -> None:
    sent = graph(100_000)
    assert await executor.run(targets.echo, sent) == sent
    assert await executor.run(len, sent) == 100_000


async def test_short_calls_beside_a_large_graph_keep_their_answers(executor: bridge.ProcessExecutor) -> None:
    sent = graph(60_000)
    calls = [executor.run(len, sent) if n % 10 == 0 else executor.run(targets.echo, n) for n in range(40)]
    attempts = await attempt_all(*calls)
    assert [attempt.value for attempt in attempts] == [60_000 if n % 10 == 0 else n for n in range(40)]


async def test_the_loop_runs_on_while_a_large_graph_is_pickled_and_unpickled(
    executor: bridge.ProcessExecutor,
) -> None:
    """Compared with what a thread does that calls pickle.dumps and loads; the machine may stutter, so best of three."""
    sent = graph(400_000)
    await executor.run(targets.echo, 1)
    ratios = []
    for _ in range(3):
        stock = await worst_delay_during(in_a_thread(lambda: pickle.loads(pickle.dumps(sent))))
        ours = await worst_delay_during(lambda: executor.run(targets.echo, sent))
        ratios.append(ours / stock)
        if ratios[-1] < 0.5:
            break
    assert min(ratios) < 0.5


def in_a_thread(work: Any) -> Any:
    async def run() -> None:
        thread = threading.Thread(target=work)
        thread.start()
        while thread.is_alive():
            await anyio.sleep(0.001)

    return run


async def worst_delay_during(work: Any) -> float:
    """Seconds by which a 1 ms ticker on the loop was late at worst."""
    worst, last, over = 0.0, time.perf_counter(), False

    async def tick() -> None:
        nonlocal worst, last
        while not over:
            await anyio.sleep(0.001)
            now = time.perf_counter()
            worst, last = max(worst, now - last - 0.001), now

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(tick)
        await work()
        over = True
    return worst

"""Tests that do something wrong, and after each one that does not. What is told is told of the line with the arrow."""

import asyncio
import concurrent.futures
import contextlib
import threading
import time

import pytest

import bridge

kept = []
loops = []
stop = threading.Event()


async def fetch():
    return "row"


async def fail():
    raise ValueError("nobody looks")


async def wait():
    await asyncio.Event().wait()


async def ticks():
    for _ in range(3):
        await asyncio.sleep(0)


def run(async_fn, *args):
    """On asyncio's own loop."""
    return asyncio.run(async_fn(*args))


@pytest.fixture(params=[run, bridge.run], ids=["asyncio", "bridge"])
def runs(request):
    return request.param


def test_blocks(runs):
    async def main():
        time.sleep(1.5)  # <- BRG101

    runs(main)


def test_blocks_for_less_than_the_environment_allows(runs):
    async def main():
        time.sleep(0.2)

    runs(main)


def test_does_not_block(runs):
    async def main():
        await asyncio.to_thread(time.sleep, 0.01)
        await bridge.to_thread(time.sleep, 0.01)

    runs(main)


def test_blocks_where_nobody_wants_to_know():
    async def main():
        time.sleep(1.5)

    bridge.run(main, diagnostics=False)


def test_loses_an_exception_in_a_block_of_watch():
    async def main():
        async with bridge.watch():
            asyncio.create_task(fail())  # <- BRG202
            await ticks()

    run(main)


def test_forgets_a_coroutine(runs):
    async def main():
        fetch()  # <- BRG201

    runs(main)


def test_awaits_it(runs):
    async def main():
        await fetch()

    runs(main)


def test_forgets_a_coroutine_without_a_loop():
    fetch()  # <- BRG201


def test_closes_a_coroutine():
    fetch().close()


def test_forgets_a_coroutine_in_a_circle():
    circle = [fetch()]  # <- BRG201
    circle.append(circle)


def test_has_a_circle():
    circle = []
    circle.append(circle)


def test_loses_an_exception(runs):
    async def main():
        asyncio.create_task(fail())  # <- BRG202
        await ticks()

    runs(main)


def test_looks_at_the_exception(runs):
    async def main():
        with pytest.raises(ValueError, match="nobody"):
            await asyncio.create_task(fail())

    runs(main)


def test_loses_an_exception_in_a_circle(runs):
    async def main():
        circle = [asyncio.create_task(fail())]  # <- BRG202
        circle.append(circle)
        await ticks()

    runs(main)


def test_asks_for_an_exception(runs):
    async def main():
        task = asyncio.create_task(fail())
        await asyncio.wait([task])
        assert task.exception()

    runs(main)


def test_leaves_a_task(runs):
    async def main():
        asyncio.create_task(wait())  # <- BRG502
        await ticks()

    runs(main)


def test_cancels_a_task(runs):
    async def main():
        asyncio.create_task(wait()).cancel()

    runs(main)


def test_leaves_an_iteration(runs):
    async def numbers():
        yield 1
        yield 2

    async def main():
        async for _ in numbers():
            break

    runs(main)


def test_destroys_a_pending_task():
    async def main():
        asyncio.create_task(wait())  # <- BRG502
        await ticks()

    loop = asyncio.new_event_loop()
    loop.run_until_complete(main())
    loop.close()


def test_ends_its_tasks(runs):
    async def main():
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(ticks())

    runs(main)


def test_leaves_a_thread():
    threading.Thread(target=stop.wait, daemon=True).start()  # <- BRG502


def test_joins_a_thread():
    thread = threading.Thread(target=time.time)
    thread.start()
    thread.join()


def test_leaves_a_background_loop():
    bridge.background_loop().__enter__()  # <- BRG501


def test_leaves_a_background_loop_that_somebody_holds():
    loops.append(bridge.background_loop())
    loops[0].__enter__()  # <- BRG502


def test_leaves_no_background_loop():
    with bridge.background_loop() as portal:
        portal.call(ticks)


def test_leaves_an_executor_that_nobody_holds():
    executor = concurrent.futures.ThreadPoolExecutor(1)  # <- BRG502
    executor.submit(time.time).result()


def test_leaves_no_executor():
    with concurrent.futures.ThreadPoolExecutor(1) as executor:
        executor.submit(time.time).result()


def test_leaves_an_executor_of_bridge():
    kept.append(bridge.ThreadExecutor(1))  # <- BRG502
    kept[-1].submit(time.time).result()


def test_leaves_an_executor_of_bridge_that_nobody_holds():
    executor = bridge.ThreadExecutor(1)  # <- BRG501
    executor.submit(time.time).result()


def test_leaves_no_executor_of_bridge(runs):
    async def main():
        async with bridge.ThreadExecutor(1) as executor:
            await executor.run(time.time)

    runs(main)


def test_leaves_a_process_pool():
    executor = concurrent.futures.ProcessPoolExecutor(1)  # <- BRG502
    executor.submit(int).result()


def test_leaves_a_process_pool_of_bridge():
    kept.append(bridge.ProcessExecutor(1))  # <- BRG502
    kept[-1].submit(int).result()


def test_leaves_no_process_pool(runs):
    async def main():
        async with bridge.ProcessExecutor(1) as executor:
            await executor.run(int)
        await bridge.to_process(int)

    runs(main)


def test_what_a_scope_cancels_by_promise_is_not_left():
    with contextlib.suppress(KeyError), bridge.background_loop() as portal:
        portal.run_coroutine_threadsafe(wait())
        portal.call(ticks)
        raise KeyError


def test_leaves_what_runs_in_an_executor():
    executor = concurrent.futures.ThreadPoolExecutor(1)
    executor.submit(stop.wait)  # <- BRG502
    executor.shutdown(wait=False)


def test_ends_what_the_tests_before_have_left():
    stop.set()


def test_calls_from_a_wrong_thread():
    async def main():
        loop = asyncio.get_running_loop()
        await asyncio.to_thread(lambda: loop.call_soon(time.time))  # <- BRG301

    bridge.run(main)


def test_calls_from_a_thread():
    async def main():
        loop = asyncio.get_running_loop()
        await asyncio.to_thread(lambda: loop.call_soon_threadsafe(time.time))

    bridge.run(main)

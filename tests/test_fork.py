"""After `os.fork` in a program with loops and workers, every wait in the child ends with a typed error.

Each case is a program of its own, run by a fresh interpreter, because a fork copies whatever threads the test run has
made so far. In it, `in_child` forks, runs a function in the child with an alarm set, and hands back what it printed.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap

import pytest

from tests.conftest import PATIENCE

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks")

PRELUDE = f"""
import asyncio, contextlib, os, signal, sys, threading, traceback, warnings
from concurrent.futures import wait as wait_for_futures
import anyio
import bridge

warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)  # said by fork from 3.12 on

async def double(number):
    await anyio.sleep(0)
    return 2 * number

async def never(started):
    started.set()
    await anyio.sleep_forever()

def error_of(fn, *args):
    try:
        return "returned " + repr(fn(*args))
    except BaseException as error:
        return type(error).__name__ + ": " + str(error)

def in_child(*fns):
    '''What each of `fns` came to in a forked child, which the alarm kills if it hangs.'''
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        signal.alarm({int(PATIENCE)})
        try:
            for fn in fns:
                os.write(writer, (error_of(fn) + "\\n").encode())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as lines:
        said = lines.read().splitlines()
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status == 0, f"the child hung (status {{status}}) after saying {{said}}"
    assert len(said) == len(fns), said
    return said
"""


def run(program: str) -> list[str]:
    """Lines that `program` printed."""
    command = [sys.executable, "-c", PRELUDE + textwrap.dedent(program)]
    parent = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)
    try:
        said, errors = parent.communicate(timeout=3 * PATIENCE)
    except subprocess.TimeoutExpired:
        os.killpg(parent.pid, signal.SIGKILL)  # with the children it forked
        parent.communicate()
        pytest.fail("the program hangs, or a child that could not even set its alarm does")
    assert parent.returncode == 0, errors
    return said.splitlines()


LEFT_BEHIND = "LoopClosed: this loop was left behind by a fork"


def test_in_the_child_of_a_loops_thread_the_portal_says_that_its_loop_was_left_behind() -> None:
    said = run("""
        async def main():
            portal = bridge.portal()
            print(*in_child(
                lambda: portal.call(double, 1),
                lambda: portal.call_soon_threadsafe(print),
                lambda: portal.run_coroutine_threadsafe(double(1)),
                lambda: portal.enter(contextlib.nullcontext()).__enter__(),
            ), sep="\\n")
            print(await bridge.to_thread(portal.call, double, 21))
        bridge.run(main)
    """)
    assert [line.startswith(LEFT_BEHIND) for line in said] == [True] * 4 + [False]
    assert "bridge.background_loop()" in said[0]
    assert said[4] == "42"  # the parent's loop is none the worse


@pytest.mark.parametrize("factory", ["bridge.new_event_loop", "None"])
def test_in_the_child_of_a_worker_a_portal_call_is_refused(factory: str) -> None:
    said = run(f"""
        async def main():
            def work():
                return in_child(lambda: bridge.portal().call(double, 1), lambda: bridge.check_cancelled())
            print(*await bridge.to_thread(work), sep="\\n")
            print(await bridge.to_thread(lambda: bridge.portal().call(double, 21)))
        bridge.run(main, loop_factory={factory})
    """)
    assert said[0].startswith(("WrongThread", "LoopClosed"))
    assert said[1:] == ["returned None", "42"]


def test_in_the_child_of_a_trio_worker_a_portal_is_left_behind() -> None:
    said = run("""
        async def main():
            portal = bridge.portal()
            def work():
                return in_child(lambda: portal.call(double, 1), lambda: portal.call_soon_threadsafe(print))
            print(*await bridge.to_thread(work), sep="\\n")
        bridge.run(main, backend="trio")
    """)
    assert [line.startswith(LEFT_BEHIND) for line in said] == [True, True]


def test_a_portal_future_held_in_the_child_is_answered() -> None:
    said = run("""
        started = threading.Event()
        with bridge.background_loop() as portal:
            future = portal.run_coroutine_threadsafe(never(started))
            started.wait()
            waiting = threading.Thread(target=lambda: error_of(future.result))  # holds the future's lock now and then
            waiting.start()
            print(*in_child(
                future.result,
                lambda: type(future.exception()).__name__,
                lambda: len(wait_for_futures([future]).done),
                future.cancel,
            ), sep="\\n")
            future.cancel()
            waiting.join()
    """)
    assert said[0].startswith(LEFT_BEHIND)
    assert said[1:] == ["returned 'LoopClosed'", "returned 1", "returned False"]


def test_a_portal_future_whose_answer_is_on_its_way_is_answered_in_the_child() -> None:
    # The loop's thread has struck the call off its list, but has not set the future yet, when another thread forks.
    said = run("""
        from bridge.threads.calls import FutureCall

        delivering, deliver = threading.Event(), threading.Event()
        set_future = FutureCall._open

        def slowly(call):
            delivering.set()
            deliver.wait()
            set_future(call)

        FutureCall._open = slowly
        with bridge.background_loop() as portal:
            future = portal.run_coroutine_threadsafe(double(1))
            delivering.wait()
            print(*in_child(future.result), sep="\\n")
            deliver.set()
            print(future.result())
    """)
    assert said[0].startswith((LEFT_BEHIND, "returned 2"))
    assert said[1] == "2"


def test_futures_of_an_executor_held_in_the_child_are_answered() -> None:
    said = run("""
        started, go_on = threading.Event(), threading.Event()
        with bridge.ThreadExecutor(1, name="left") as executor:
            running = executor.submit(lambda: (started.set(), go_on.wait()))
            queued = executor.submit(print)
            started.wait()
            print(*in_child(
                running.result,
                queued.result,
                lambda: len(wait_for_futures([running, queued]).done),
            ), sep="\\n")
            go_on.set()
    """)
    assert said[0].startswith("ExecutorClosed: ")
    assert "left behind by a fork" in said[0]
    assert said[1].startswith("ExecutorClosed: ")
    assert said[2] == "returned 2"


def test_a_future_whose_lock_another_thread_holds_at_the_fork_is_answered() -> None:
    said = run("""
        started, go_on = threading.Event(), threading.Event()
        with bridge.ThreadExecutor(1, name="left") as executor:
            future = executor.submit(lambda: (started.set(), go_on.wait()))
            started.wait()
            locked, unlock = threading.Event(), threading.Event()

            def hold():
                with future._condition:
                    locked.set()
                    unlock.wait()

            holder = threading.Thread(target=hold)
            holder.start()
            locked.wait()
            print(*in_child(future.result), sep="\\n")
            unlock.set()
            holder.join()
            go_on.set()
    """)
    assert said[0].startswith("ExecutorClosed: ")
    assert "left behind by a fork" in said[0]


def test_a_job_that_a_worker_is_just_beginning_is_answered_in_the_child() -> None:
    # Taken from the queue, and not yet the worker's own: the moment in which the future becomes RUNNING.
    said = run("""
        beginning, begin = threading.Event(), threading.Event()
        with bridge.ThreadExecutor(1, name="left") as executor:
            executor.submit(len, "").result()
            from bridge.threads.future_job import FutureJob
            begin_job = FutureJob.begin

            def slowly(job):
                beginning.set()
                begin.wait()
                return begin_job(job)

            FutureJob.begin = slowly
            future = executor.submit(len, "abc")
            beginning.wait()
            print(*in_child(future.result), sep="\\n")
            begin.set()
            print(future.result())
    """)
    assert said[0].startswith("ExecutorClosed: ")
    assert "left behind by a fork" in said[0]
    assert said[1] == "3"


@pytest.mark.parametrize("where", ["the main thread", "a worker", "a loop's thread"])
def test_a_child_can_start_a_loop_of_its_own(where: str) -> None:
    said = run(f"""
        async def there_and_back():
            return await bridge.to_thread(lambda: bridge.portal().call(double, 21))

        def forking():
            return in_child(lambda: bridge.run(there_and_back))

        async def main():
            await bridge.to_thread(len, "")  # there is a pool, with a thread
            return await bridge.to_thread(forking) if {where!r} == "a worker" else forking()

        if {where!r} == "the main thread":
            bridge.run(there_and_back)
            print(*forking())
        else:
            print(*bridge.run(main))
    """)
    assert said == ["returned 42"]


def test_a_child_can_have_a_background_loop_of_its_own() -> None:
    said = run("""
        def own():
            with bridge.background_loop() as portal:
                return portal.call(double, 21)

        with bridge.background_loop() as portal:
            portal.call(double, 1)
            print(*in_child(own))
    """)
    assert said == ["returned 42"]


def test_a_child_can_use_an_executor_that_it_inherited() -> None:
    said = run("""
        with bridge.ThreadExecutor(2) as executor:
            executor.submit(len, "").result()
            print(*in_child(lambda: executor.submit(len, "abc").result()))
            print(executor.submit(len, "abcd").result())
    """)
    assert said == ["returned 3", "4"]


def test_leaving_inherited_scopes_in_the_child_does_not_hang() -> None:
    said = run("""
        background, executor = bridge.background_loop(), bridge.ThreadExecutor(2)
        portal = background.__enter__()
        executor.__enter__()
        executor.submit(len, "").result()
        portal.call(double, 1)

        def leave():
            executor.__exit__(None, None, None)
            background.__exit__(None, None, None)

        print(*in_child(leave))
        leave()
    """)
    assert said == ["returned None"]


def test_a_child_notices_loops_of_its_own_that_stop() -> None:
    # The sentry's thread was left in the parent, where it was on duty; the child needs one of its own.
    said = run("""
        def stopped():
            loop = bridge.new_event_loop()

            async def the_portal():
                return bridge.portal()

            portal = loop.run_until_complete(the_portal())
            try:
                return type(portal.run_coroutine_threadsafe(double(1)).exception()).__name__
            finally:
                loop.close()

        started = threading.Event()
        with bridge.background_loop() as portal:
            future = portal.run_coroutine_threadsafe(never(started))  # somebody waits: the sentry is on duty
            started.wait()
            print(*in_child(stopped))
            future.cancel()
    """)
    assert said == ["returned 'LoopClosed'"]

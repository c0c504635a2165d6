"""The end of a program that uses bridge: threads, loops and processes that are still there, and nothing that holds it up.

Each program runs in a process of its own, with short limits for what it may wait for.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import textwrap
import time

import psutil
import pytest

from tests.conftest import PATIENCE
from tests.processes import wait_until

starts_threads_late = pytest.mark.skipif(
    (3, 12) <= sys.version_info < (3, 12, 3),
    reason="Python 3.12.0 to 3.12.2 start no thread once the main thread has ended (python/cpython#113964)",
)

posix = pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX")

PRELUDE = """
import asyncio, atexit, concurrent.futures, multiprocessing, os, sys, threading, time
import bridge
import bridge.threads.host

bridge.threads.host.EXIT_TIMEOUT = 0.5

def say(*words):
    os.write(1, (" ".join(map(str, words)) + chr(10)).encode())  # at once, also if several threads say something

def background(**options):
    scope = bridge.background_loop(**options)
    return scope, scope.__enter__()

async def forever():
    say("waiting")
    try:
        await asyncio.sleep(3600)
    finally:
        say("cleaned up")
"""


def run(program: str, *, stderr: str | None = "", code: int = 0) -> list[str]:
    """What a program says, once it has ended by itself, with this exit code and these words on stderr (None: any).

    No process is left then that descends from it.
    """
    process = subprocess.Popen(
        [sys.executable, "-c", PRELUDE + textwrap.dedent(program)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        out, err = process.communicate(timeout=3 * PATIENCE)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        out, err = process.communicate()
        pytest.fail(f"the program did not end; it had said {out!r}, {err!r}")
    if stderr is not None:
        assert err == stderr
    assert process.returncode == code, err
    wait_until(lambda: not members_of(process.pid))
    return out.splitlines()


def members_of(session: int) -> list[int]:
    """Processes of a session, also such as have made groups of their own. Its leader has ended."""
    found = []
    for pid in psutil.pids():
        try:
            if os.getsid(pid) == session and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
                found.append(pid)
        except (ProcessLookupError, psutil.NoSuchProcess):
            pass
    return found


FACTORIES = {"bridge": "bridge.new_event_loop", "asyncio": "None"}
if sys.platform != "win32":
    FACTORIES["uvloop"] = "__import__('uvloop').new_event_loop"

# -- threads that are no daemons -----------------------------------------------------------------------------------------

WAITS = {
    "call": "portal.call(forever)",
    "result": "portal.run_coroutine_threadsafe(forever()).result()",
    "wait": "concurrent.futures.wait([future := portal.run_coroutine_threadsafe(forever())]); future.result()",
}


@pytest.mark.parametrize("wait", WAITS)
@pytest.mark.parametrize("factory", FACTORIES)
def test_a_thread_that_waits_for_a_background_loop_does_not_hold_up_the_end(factory: str, wait: str) -> None:
    said = run(f"""
        scope, portal = background(loop_factory={FACTORIES[factory]})

        def work():
            try:
                {WAITS[wait]}
            except bridge.LoopClosed as error:
                say("LoopClosed: the program is ending" if "the program is ending" in str(error) else error)

        threading.Thread(target=work).start()
    """)
    assert sorted(said) == ["LoopClosed: the program is ending", "cleaned up", "waiting"]


def test_the_loops_own_shutdown_timeout_is_the_limit_if_it_is_shorter() -> None:
    said = run("""
        bridge.threads.host.EXIT_TIMEOUT = 3600
        scope, portal = background(shutdown_timeout=0.2)

        def work():
            try:
                portal.call(forever)
            except bridge.LoopClosed:
                say("LoopClosed")

        threading.Thread(target=work).start()
    """)
    assert sorted(said) == ["LoopClosed", "cleaned up", "waiting"]


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_nor_does_one_that_waits_for_a_loop_in_somebody_elses_daemon_thread(backend: str) -> None:
    said = run(f"""
        portals = concurrent.futures.Future()

        async def serve():
            portals.set_result(bridge.portal())
            await __import__("anyio").sleep(3600)

        threading.Thread(target=bridge.run, args=(serve,), kwargs=dict(backend={backend!r}), daemon=True).start()
        portal = portals.result()

        async def forever():
            await __import__("anyio").sleep(3600)

        def work():
            try:
                portal.call(forever)
            except bridge.LoopClosed:
                say("LoopClosed")

        threading.Thread(target=work).start()
    """)
    assert said == ["LoopClosed"]


@starts_threads_late
def test_a_call_that_begins_after_the_main_threads_end_is_limited_as_well() -> None:
    said = run("""
        scope, portal = background()

        def work():
            threading.main_thread().join()
            try:
                portal.call(forever)
            except bridge.LoopClosed:
                say("LoopClosed")

        threading.Thread(target=work).start()
    """)
    assert sorted(said) == ["LoopClosed", "cleaned up", "waiting"]


def test_a_thread_that_leaves_a_scope_does_not_hold_up_the_end() -> None:
    said = run("""
        scope, portal = background()

        def work():
            with portal:
                portal.run_coroutine_threadsafe(forever())
            say("left")

        threading.Thread(target=work).start()
        portal.call(asyncio.sleep, 0)
    """)
    assert sorted(said) == ["cleaned up", "left", "waiting"]


def test_threads_go_on_calling_a_loop_after_the_main_threads_end() -> None:
    said = run("""
        from contextlib import asynccontextmanager
        bridge.threads.host.EXIT_TIMEOUT = 0.3
        scope, portal = background()

        @asynccontextmanager
        async def session():
            yield "open"
            say("left")

        def work():
            threading.main_thread().join()
            with portal.enter(session()) as value:
                started = time.monotonic()
                while time.monotonic() - started < 1.5:  # no call takes long, though all of them do
                    portal.call(asyncio.sleep, 0.01)
                say(value)

        threading.Thread(target=work).start()
    """)
    assert said == ["open", "left"]


def test_a_daemons_call_is_not_cut_off_while_another_thread_goes_on() -> None:
    said = run("""
        bridge.threads.host.EXIT_TIMEOUT = 0.3
        scope, portal = background()

        async def slow():
            await asyncio.sleep(1.5)
            return "answered"

        def work():
            say(portal.call(slow))

        daemon = threading.Thread(target=work, daemon=True)
        daemon.start()
        threading.Thread(target=daemon.join).start()
    """)
    assert said == ["answered"]


@starts_threads_late
def test_a_run_in_another_thread_goes_on_after_the_main_threads_end() -> None:
    said = run("""
        bridge.threads.host.EXIT_TIMEOUT = 0.3

        async def main():
            await bridge.to_thread(bridge.portal().call, asyncio.sleep, 1.5)
            say("done")

        threading.Thread(target=bridge.run, args=(main,)).start()
    """)
    assert said == ["done"]


# -- background loops that are never left --------------------------------------------------------------------------------


@pytest.mark.parametrize("factory", FACTORIES)
def test_a_background_loop_that_is_never_left_is_reported_and_ended(factory: str) -> None:
    said = run(f"""
        scope, portal = background(loop_factory={FACTORIES[factory]})
        bridge.on_event(lambda event: say(event.code))
        future = portal.run_coroutine_threadsafe(forever())
        portal.call(asyncio.sleep, 0)
    """)
    assert said == ["waiting", "cleaned up", "BRG501"]


def test_they_are_all_ended_where_warnings_are_errors() -> None:
    said = run(
        """
        import warnings
        warnings.simplefilter("error")
        scopes = [background(name=f"loop {number}") for number in range(3)]
        for scope, portal in scopes:
            portal.run_coroutine_threadsafe(forever())
            portal.call(asyncio.sleep, 0)
        """,
        stderr=None,
    )
    assert said == ["waiting"] * 3 + ["cleaned up"] * 3


def test_exit_functions_may_call_a_background_loop() -> None:
    said = run("""
        scope, portal = background()

        async def bye():
            return "bye"

        atexit.register(lambda: say(portal.call(bye)))
    """)
    assert said == ["bye"]


def test_exit_functions_may_call_a_background_loop_when_no_call_was_made_for_long() -> None:
    said = run("""
        import bridge.threads.sentry
        bridge.threads.sentry.LINGER = 0.0
        scope, portal = background()
        portal.call(say, "hello")
        while any(thread.name == "bridge-sentry" for thread in threading.enumerate()):
            time.sleep(0.01)
        atexit.register(lambda: portal.call(say, "bye"))
    """)
    assert said == ["hello", "bye"]


@starts_threads_late
def test_an_exit_functions_call_that_does_not_end_is_cut_off() -> None:
    said = run("""
        scope, portal = background()

        def bye():
            try:
                portal.call(forever)
            except bridge.LoopClosed:
                say("LoopClosed")

        atexit.register(bye)
    """)
    assert sorted(said) == ["LoopClosed", "cleaned up", "waiting"]


def test_an_exit_function_may_leave_a_background_loop() -> None:
    said = run("""
        scope, portal = background()
        atexit.register(scope.__exit__, None, None, None)
        portal.call(say, "hello")
    """)
    assert said == ["hello"]


# -- processes -----------------------------------------------------------------------------------------------------------

USES = {
    "ProcessExecutor": "kept.append(bridge.ProcessExecutor(1)); kept[0].submit(abs, -1).result()",
    "ProcessExecutor and to_process": "kept.append(bridge.ProcessExecutor(1)); kept[0].submit(abs, -1).result(); "
    "bridge.run(bridge.to_process, abs, -1)",
    "ThreadExecutor": "kept.append(bridge.ThreadExecutor(1)); kept[0].submit(abs, -1).result()",
    "background_loop": "kept.extend(background()); kept[1].call(asyncio.sleep, 0); "
    "kept[1].run_coroutine_threadsafe(forever())",
}


@posix
@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("before", ["used", "not used"])
def test_a_forked_child_of_multiprocessing_ends_when_it_is_done(use: str, before: str) -> None:
    said = run(
        f"""
        def child():
            global kept
            kept = []
            {USES[use]}
            say("done")

        if {before == "used"}:
            with bridge.ProcessExecutor(1) as executor:
                executor.submit(abs, 1).result()
        process = multiprocessing.get_context("fork").Process(target=child)
        process.start()
        process.join(8)
        say("ended", process.exitcode)
        """,
        stderr=None,
    )
    assert [line for line in said if line not in ("waiting", "cleaned up")] == ["done", "ended 0"]


@posix
@pytest.mark.parametrize("use", USES)
def test_a_child_of_os_fork_ends_when_it_is_done(use: str) -> None:
    said = run(
        f"""
        with bridge.ProcessExecutor(1) as executor:
            executor.submit(abs, 1).result()
        pid = os.fork()
        if not pid:
            kept = []
            {USES[use]}
            say("done")
            sys.exit()
        say("ended", os.waitpid(pid, 0)[1])
        """,
        stderr=None,
    )
    assert [line for line in said if line not in ("waiting", "cleaned up")] == ["done", "ended 0"]


@posix
def test_multiprocessing_does_not_join_the_workers() -> None:
    said = run("""
        executor = bridge.ProcessExecutor(2)
        executor.submit(abs, 1).result()
        say(multiprocessing.active_children())
        say(sum(worker.pid > 0 for worker in executor.statistics().workers))
    """)
    assert said == ["[]", "1"]


# -- first use when the program is ending --------------------------------------------------------------------------------

LATE_USES = {
    "run": "bridge.run(bridge.to_thread, abs, -5)",
    "ThreadExecutor": "bridge.ThreadExecutor(1).submit(abs, -5).result()",
    "ThreadExecutor.map": "list(bridge.ThreadExecutor(1).map(abs, [-5]))",
    "background_loop": "background()[1].call(abs, -5)",
    "ProcessExecutor": "bridge.ProcessExecutor(1).submit(abs, -5).result()",
    "to_process": "bridge.run(bridge.to_process, abs, -5)",
}
#: What Python and bridge say where something cannot be had any more.
CLEAR = (
    "RuntimeError: can't create new thread at interpreter shutdown",
    "cannot import any more, because the program is ending",
)


@posix
@pytest.mark.parametrize("use", LATE_USES)
@pytest.mark.parametrize("before", ["first use", "used before"])
@pytest.mark.parametrize("where", ["in atexit", "in a thread after the main thread's end"])
def test_use_at_the_end_works_or_says_why_not(where: str, before: str, use: str) -> None:
    begin = "atexit.register(bye)" if where == "in atexit" else "threading.Thread(target=late).start()"
    said = run(
        f"""
        def use():
            return {LATE_USES[use]}

        def bye():
            try:
                say("works", use())
            except Exception as error:
                say(f"{{type(error).__name__}}: {{error}}")

        def late():
            threading.main_thread().join()
            bye()

        {"use()" if before == "used before" else ""}
        {begin}
        """,
        stderr=None,
    )
    assert said in (["works 5"], ["works [5]"]) or any(words in said[0] for words in CLEAR), said


# -- Ctrl-C, twice -------------------------------------------------------------------------------------------------------

INTERRUPTED = {
    "a run": """
        async def main():
            await bridge.to_process(time.sleep, 60)

        say("begun")
        bridge.run(main, shutdown_timeout=2)
    """,
    "a block": """
        say("begun")
        with bridge.ProcessExecutor(2) as executor:
            futures = [executor.submit(time.sleep, 60) for _ in range(2)]
            futures[0].result()
    """,
}


@posix
@pytest.mark.parametrize("program", INTERRUPTED)
@pytest.mark.parametrize("seed", range(6))
def test_a_program_that_gets_two_interrupts_while_its_worker_starts_ends(program: str, seed: int) -> None:
    chosen = random.Random(seed)
    process = subprocess.Popen(
        [sys.executable, "-c", PRELUDE + textwrap.dedent(INTERRUPTED[program])],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"begun\n"
    for longest in (0.6, 0.2):
        time.sleep(chosen.random() * longest)
        process.send_signal(signal.SIGINT)
    try:
        process.communicate(timeout=3 * PATIENCE)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        pytest.fail(f"it did not end; stderr: {process.communicate()[1]!r}")
    assert process.returncode in (-signal.SIGINT, 1)
    wait_until(lambda: not members_of(process.pid))

"""Ctrl-C, in a program of its own: the main thread is blocked in a call into a loop, or runs a loop.

The programs say "blocked" once their coroutine runs, and get SIGINT then. A signal that arrives before the main thread
has reached its lock is handled there all the same, so there is nothing to wait for beyond that word.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Generator
from contextlib import contextmanager

import pytest

from tests.conftest import PATIENCE

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="sends SIGINT")

PRELUDE = """
import asyncio, signal, sys, threading, time
import bridge

def say(*words):
    print(*words, flush=True)

async def forever(clean_up=0):
    say("blocked")
    try:
        await asyncio.sleep(1000)
    finally:
        say("cleaning up")
        await asyncio.sleep(clean_up)
        say("cleaned up")
"""


class Program:
    """A running program: read what it says, interrupt it, see how it ends."""

    def __init__(self, process: subprocess.Popen[str]):
        self.process = process

    def says(self, word: str) -> None:
        assert self.process.stdout is not None
        line = self.process.stdout.readline().strip()
        assert line == word, f"said {line!r} instead of {word!r}"

    def interrupt(self) -> None:
        self.process.send_signal(signal.SIGINT)

    def rest(self) -> tuple[list[str], str]:
        """The other lines, and stderr, once it has ended. `communicate` would not have what lies in the buffer."""
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        out, err = self.process.stdout.read().splitlines(), self.process.stderr.read()
        self.process.wait(PATIENCE)
        return out, err

    def ends(self, *lines: str) -> None:
        """Says these lines and ends well, without another word."""
        assert self.rest() == (list(lines), "")
        assert self.process.returncode == 0


@contextmanager
def running(program: str) -> Generator[Program]:
    process = subprocess.Popen(
        [sys.executable, "-c", PRELUDE + textwrap.dedent(program)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    watchdog = watchdog_of(process)
    try:
        yield Program(process)
    finally:
        watchdog.cancel()
        watchdog.join()
        process.kill()
        process.communicate()


def watchdog_of(process: subprocess.Popen[str]) -> threading.Timer:
    """Ends a program that hangs, and with it a read that waits for its next word."""
    timer = threading.Timer(2 * PATIENCE, process.kill)
    timer.start()
    return timer


FACTORIES = ["bridge.new_event_loop", "None"]


@pytest.mark.parametrize("factory", FACTORIES)
def test_ctrl_c_in_a_blocked_call_cancels_the_coroutine_waits_for_its_clean_up_and_raises(factory: str) -> None:
    with running(f"""
        with bridge.background_loop(loop_factory={factory}) as portal:
            try:
                portal.call(forever, 0.05)
            except KeyboardInterrupt:
                say("interrupted")
            say(portal.call(lambda: "the loop goes on"))
    """) as program:
        program.says("blocked")
        program.interrupt()
        program.ends("cleaning up", "cleaned up", "interrupted", "the loop goes on")


def test_ctrl_c_that_nobody_catches_ends_the_program_as_python_does() -> None:
    with running("""
        with bridge.background_loop() as portal:
            portal.call(forever)
    """) as program:
        program.says("blocked")
        program.interrupt()
        out, err = program.rest()
    assert out == ["cleaning up", "cleaned up"]
    assert err.rstrip().endswith("KeyboardInterrupt")
    assert program.process.returncode == -signal.SIGINT


def test_a_second_ctrl_c_does_not_wait_for_the_clean_up() -> None:
    with running("""
        with bridge.background_loop() as portal:
            end = portal.call(asyncio.Event)

            async def clean_up_for_ever():
                say("blocked")
                try:
                    await asyncio.sleep(1000)
                finally:
                    say("cleaning up")
                    await end.wait()
                    say("cleaned up")

            try:
                portal.call(clean_up_for_ever)
            except KeyboardInterrupt:
                say("interrupted")
            portal.call_soon_threadsafe(end.set)
    """) as program:
        program.says("blocked")
        program.interrupt()
        program.says("cleaning up")
        program.interrupt()
        program.ends("interrupted", "cleaned up")


def test_ctrl_c_before_the_loop_has_started_the_call_withdraws_it() -> None:
    with running("""
        with bridge.background_loop(diagnostics=False) as portal:
            go_on = threading.Event()

            def hold():
                while not asyncio.get_running_loop()._ready:  # until the main thread's call has come in
                    time.sleep(0.001)
                say("blocked")
                go_on.wait()

            portal.call_soon_threadsafe(hold)
            threading.Timer(0.3, go_on.set).start()  # should the interrupted call wait for its answer
            try:
                portal.call(say, "ran")
            except KeyboardInterrupt:
                say("interrupted")
            go_on.wait()
            portal.call(say, "the loop goes on")
    """) as program:
        program.says("blocked")
        program.interrupt()
        program.ends("interrupted", "the loop goes on")


def test_ctrl_c_while_a_future_is_waited_for_leaves_the_coroutine_running() -> None:
    with running("""
        with bridge.background_loop() as portal:
            trying = threading.Event()

            async def forever_once_tried():
                while not trying.is_set():
                    await asyncio.sleep(0.001)
                await forever()

            future = portal.run_coroutine_threadsafe(forever_once_tried())
            try:
                trying.set()
                future.result()
            except KeyboardInterrupt:
                say("interrupted", future.done())
            future.cancel()
    """) as program:
        program.says("blocked")
        program.interrupt()
        program.says("interrupted False")
        program.ends("cleaning up", "cleaned up")


def test_ctrl_c_in_an_entered_scope_leaves_the_scope() -> None:
    with running("""
        from contextlib import asynccontextmanager

        @asynccontextmanager
        async def scope():
            say("entered")
            try:
                yield
            finally:
                await asyncio.sleep(0)
                say("left")

        with bridge.background_loop() as portal:
            try:
                with portal.enter(scope()):
                    portal.call(forever)
            except KeyboardInterrupt:
                say("interrupted")
    """) as program:
        program.says("entered")
        program.says("blocked")
        program.interrupt()
        program.ends("cleaning up", "cleaned up", "left", "interrupted")


def test_ctrl_c_while_waiting_for_an_item_closes_the_generator() -> None:
    with running("""
        async def items():
            yield 1
            await forever()

        with bridge.background_loop() as portal:
            try:
                for item in portal.iterate(items()):
                    say(item)
            except KeyboardInterrupt:
                say("interrupted")
    """) as program:
        program.says("1")
        program.says("blocked")
        program.interrupt()
        program.ends("cleaning up", "cleaned up", "interrupted")


@pytest.mark.parametrize("factory", FACTORIES)
def test_ctrl_c_in_bridge_run_cancels_the_main_task_and_raises(factory: str) -> None:
    with running(f"""
        try:
            bridge.run(forever, 0.05, loop_factory={factory})
        except KeyboardInterrupt:
            say("interrupted")
    """) as program:
        program.says("blocked")
        program.interrupt()
        program.ends("cleaning up", "cleaned up", "interrupted")


def test_ctrl_c_in_bridge_run_reaches_a_function_that_checks_for_it() -> None:
    with running("""
        def work():
            say("blocked")
            try:
                while True:
                    bridge.check_cancelled()
            finally:
                say("function ended")

        async def main():
            await bridge.to_thread(work)

        try:
            bridge.run(main)
        except KeyboardInterrupt:
            say("interrupted")
    """) as program:
        program.says("blocked")
        program.interrupt()
        program.ends("function ended", "interrupted")


def test_ctrl_c_in_bridge_run_cancels_a_workers_call_into_the_loop() -> None:
    with running("""
        def work():
            try:
                bridge.portal().call(forever)
            except asyncio.CancelledError:
                say("worker told")
                raise

        async def main():
            await bridge.to_thread(work)

        try:
            bridge.run(main)
        except KeyboardInterrupt:
            say("interrupted")
    """) as program:
        program.says("blocked")
        program.interrupt()
        program.ends("cleaning up", "cleaned up", "worker told", "interrupted")

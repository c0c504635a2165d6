"""Executors and loops that a finalizer ends, or makes, while the interpreter shuts down: no other thread runs by then."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest

import bridge
from tests.conftest import PATIENCE

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no ProcessExecutor")


def run(program: str) -> subprocess.CompletedProcess[str]:
    code = textwrap.dedent(program)
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=3 * PATIENCE, check=False)


KINDS = {
    "threads": "bridge.ThreadExecutor(1)",
    "processes": "bridge.ProcessExecutor(1)",
    "foreign threads": "bridge.ForeignExecutor(ThreadPoolExecutor(1))",
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_generator_that_owns_an_executor_holds_up_no_interpreter(kind: str) -> None:
    ended = run(f"""
        from concurrent.futures import ThreadPoolExecutor
        import bridge

        def results():
            with {KINDS[kind]} as executor:
                yield executor.submit(abs, -1).result()
                yield 2

        generator = results()
        print(next(generator), flush=True)
    """)
    assert ended.stdout == "1\n"
    assert "Traceback" not in ended.stderr
    assert ended.returncode == 0


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("how", ["shutdown(wait=True)", "shutdown(cancel_futures=True)", "__exit__(None, None, None)"])
def test_a_finalizer_that_ends_an_executor_holds_up_no_interpreter(kind: str, how: str) -> None:
    ended = run(f"""
        from concurrent.futures import ThreadPoolExecutor
        import bridge

        class Owner:
            def __init__(self):
                self.executor = {KINDS[kind]}
                self.executor.submit(abs, -1).result()

            def __del__(self, say=print):
                self.executor.{how}
                say("ended", flush=True)

        owner = Owner()
    """)
    assert ended.stdout == "ended\n"
    assert ended.returncode == 0


@pytest.mark.parametrize(
    "use",
    [
        "bridge.ThreadExecutor(1).submit(abs, -1).result()",
        "bridge.ProcessExecutor(1).submit(abs, -1).result()",
        "bridge.background_loop().__enter__()",
    ],
)
def test_a_finalizer_that_starts_something_is_told_that_it_is_too_late(use: str) -> None:
    ended = run(f"""
        import bridge

        bridge.ThreadExecutor, bridge.ProcessExecutor, bridge.background_loop

        class Owner:
            def __del__(self, bridge=bridge, say=print):
                try:
                    {use}
                except RuntimeError as error:
                    say("shutting down" in str(error), flush=True)

        owner = Owner()
    """)
    assert ended.stdout == "True\n"
    assert ended.returncode == 0


def test_a_finalizer_that_uses_a_name_for_the_first_time_is_told_that_it_is_too_late() -> None:
    ended = run("""
        import bridge

        class Owner:
            def __del__(self, bridge=bridge, say=print, getattr=getattr):
                for name in bridge.__all__:
                    try:
                        getattr(bridge, name)
                    except RuntimeError as error:
                        say(name, error, flush=True)

        owner = Owner()
    """)
    lines = ended.stdout.splitlines()
    assert [line.partition(" ")[0] for line in lines] == bridge.__all__
    for name, line in zip(bridge.__all__, lines, strict=True):
        assert f"bridge.{name} needs something that Python cannot import any more" in line
        assert f"write `from bridge import {name}` at the top" in line
    assert ended.stderr == ""


def test_what_a_finalizer_is_told_to_write_works() -> None:
    ended = run("""
        import bridge
        from bridge import ThreadExecutor

        class Owner:
            def __del__(self, bridge=bridge, say=print):
                say(bridge.ThreadExecutor(3).max_workers, flush=True)

        owner = Owner()
    """)
    assert ended.stdout == "3\n"


@pytest.mark.parametrize("use", ["bridge.portal()", "synchronous()"])
def test_a_finalizer_that_wants_a_portal_is_told_that_it_is_too_late(use: str) -> None:
    ended = run(f"""
        import bridge
        from bridge import portal, run

        @bridge.syncify
        async def synchronous(): ...

        class Owner:
            def __del__(self, bridge=bridge, synchronous=synchronous, say=print):
                try:
                    {use}
                except RuntimeError as error:
                    say(error, flush=True)

        owner = Owner()
    """)
    assert (
        "bridge.portal needs something that Python cannot import any more, because the program is ending" in ended.stdout
    )
    assert ended.stderr == ""

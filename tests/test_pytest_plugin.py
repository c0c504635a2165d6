"""The pytest plugin: the test that did it fails, by the message, and no other one."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.strict_runs import PLUGIN, TRAPS, Run, expectations, run_pytest

FORGETS = """
async def fetch():
    pass

def test_forgets():
    fetch()

def test_after():
    pass
"""
needs_pytest_asyncio = pytest.mark.skipif(not importlib.util.find_spec("pytest_asyncio"), reason="no pytest-asyncio")
needs_xdist = pytest.mark.skipif(not importlib.util.find_spec("xdist"), reason="no pytest-xdist")
needs_uvloop = pytest.mark.skipif(not importlib.util.find_spec("uvloop"), reason="no uvloop")

_runs: dict[str, Run] = {}


def run_of(name: str, folder: Path) -> Run:
    """One run for each file of traps."""
    if name not in _runs:
        source = (TRAPS / name).read_text(encoding="utf-8")
        _runs[name] = run_pytest(folder, source, "--bridge-strict")
    return _runs[name]


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        pytest.param(file, expected, id=f"{file}-{expected.name}", marks=marks)
        for file, marks in {
            "asyncio_traps.py": [],
            "fixture_traps.py": [],
            "anyio_traps.py": [needs_uvloop],
            "pytest_asyncio_traps.py": [needs_pytest_asyncio],
        }.items()
        for expected in expectations((TRAPS / file).read_text(encoding="utf-8"))
    ],
)
def test_a_test_fails_by_what_it_did_and_by_nothing_else(file: str, expected, tmp_path: Path) -> None:
    for outcome in run_of(file, tmp_path).of(expected.name):
        if expected.code is None:
            assert outcome.kind == "passed", outcome.text
            continue
        assert outcome.kind in ("failed", "error")
        assert set(re.findall(r"^(?:\w+: )?(BRG\d+) ", outcome.text, re.MULTILINE)) == {expected.code}, outcome.text
        if expected.line is not None:
            assert f"test_it.py:{expected.line} " in outcome.text


def test_what_is_certain_when_the_test_has_run_is_a_failure_and_no_error(tmp_path: Path) -> None:
    run = run_of("asyncio_traps.py", tmp_path)
    assert {outcome.kind for outcome in run.tests.values()} == {"passed", "failed"}


# -- opting in, and out ------------------------------------------------------------------------------------------------


def test_who_does_not_opt_in_pays_nothing(tmp_path: Path) -> None:
    check = """
import sys, asyncio, threading

def test_nothing_is_imported():
    loaded = {name for name in sys.modules if name.startswith("bridge")} - {"bridge.threads", "bridge.threads.loaded"}
    assert loaded <= {"bridge", "bridge.strict", "bridge.pytest_plugin", "bridge.threads.program_end"}
    assert asyncio.BaseEventLoop.run_forever.__module__ == "asyncio.base_events"
    assert threading.Thread.start.__module__ == "threading"
"""
    run = run_pytest(tmp_path, FORGETS + check)
    assert run.status == 0, run.output
    assert len(run.tests) == 3


def test_a_program_may_have_loaded_bridge_before_it_runs_pytest(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(FORGETS.replace("    fetch()", "    fetch().close()"))
    program = f"import bridge, pytest; pytest.main({[*PLUGIN, '-W', 'error', '-p', 'no:asyncio', 'test_it.py']})"
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "2 passed" in done.stdout, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("before", "options", "ini"),
    [
        ("", ["--bridge-strict"], ""),
        ("", [], "bridge_strict = true"),
        ("import pytest\npytestmark = pytest.mark.bridge_strict", ["--strict-markers"], ""),
        ("import pytest\npytestmark = pytest.mark.bridge_strict(ignore=['BRG101'])", [], ""),
    ],
    ids=["option", "ini", "marker", "marker-with-arguments"],
)
def test_ways_to_opt_in(before: str, options: list[str], ini: str, tmp_path: Path) -> None:
    run = run_pytest(tmp_path, before + FORGETS, *options, ini=ini)
    assert [outcome.kind for outcome in run.tests.values()] == ["failed", "passed"], run.output
    assert run.status == 1


@pytest.mark.parametrize(
    ("before", "options", "ini"),
    [
        ("", ["--bridge-strict-ignore=brg201,BRG101"], ""),
        ("", ["--bridge-strict-ignore=BRG101", "--bridge-strict-ignore=201"], ""),
        ("", [], "bridge_strict_ignore = BRG101\n    BRG201"),
        ("import pytest\npytestmark = pytest.mark.bridge_strict(ignore=['BRG201'])", [], ""),
        ("import pytest\npytestmark = pytest.mark.bridge_strict(ignore='BRG201')", [], ""),
        ("import pytest\npytestmark = pytest.mark.bridge_strict(False)", [], ""),
        ("import pytest\npytestmark = pytest.mark.bridge_strict(enabled=False)", [], ""),
        ("import logging\nlogging.getLogger('bridge.tasks.BRG201').setLevel(logging.CRITICAL)", [], ""),
    ],
)
def test_ways_to_ignore(before: str, options: list[str], ini: str, tmp_path: Path) -> None:
    run = run_pytest(tmp_path, before + FORGETS, "--bridge-strict", *options, ini=ini)
    assert run.status == 0, run.output


def test_a_code_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    run = run_pytest(tmp_path, FORGETS, "--bridge-strict", "--bridge-strict-ignore=BRG10l")
    assert run.status == 4
    assert "'BRG10l' is no code of bridge. Did you mean BRG10" in run.output
    marked = "import pytest\npytestmark = pytest.mark.bridge_strict(ignored=['BRG101'])"
    run = run_pytest(tmp_path, marked + FORGETS)
    assert run.status == 4
    assert 'test_it.py::test_forgets: write @pytest.mark.bridge_strict(ignore=["BRG101"])' in run.output


def test_one_test_can_be_strict_among_others_and_is_not_blamed_for_them(tmp_path: Path) -> None:
    source = """
import pytest

async def fetch():
    pass

def test_before():
    circle = [fetch()]
    circle.append(circle)

@pytest.mark.bridge_strict
def test_strict():
    pass

@pytest.mark.bridge_strict
def test_strict_and_wrong():
    fetch()

def test_after():
    fetch()
"""
    run = run_pytest(tmp_path, source)
    assert {name: outcome.kind for name, outcome in run.tests.items()} == {
        "test_before": "passed",
        "test_strict": "passed",
        "test_strict_and_wrong": "failed",
        "test_after": "passed",
    }, run.output


# -- the message -------------------------------------------------------------------------------------------------------


def test_the_message_is_the_one_that_is_logged_and_the_summary_shows_its_beginning(tmp_path: Path) -> None:
    conftest = """
import bridge
bridge.on_event(lambda event: open("messages", "a").write(event.message + "\\n"))
"""
    run = run_pytest(tmp_path, FORGETS, "--bridge-strict", conftest=conftest)
    message = (tmp_path / "messages").read_text()
    (outcome,) = run.of("test_forgets")
    assert outcome.text.startswith(message)
    assert 'to let the test pass all the same: @pytest.mark.bridge_strict(ignore=["BRG201"])' in outcome.text
    assert "FAILED test_it.py::test_forgets - Failed: BRG201 a coroutine was never awaited" in run.output


def test_a_test_that_fails_by_itself_keeps_its_error_and_is_the_only_one(tmp_path: Path) -> None:
    source = """
async def fetch():
    pass

def test_fails():
    held_by_the_traceback = fetch()
    fetch()
    assert 1 == 2

def test_after():
    pass

def test_after_that():
    assert True
"""
    run = run_pytest(tmp_path, source, "--bridge-strict")
    (outcome,) = run.of("test_fails")
    assert "assert 1 == 2" in outcome.text
    assert "Captured bridge call" in run.output
    assert "BRG201 a coroutine was never awaited: fetch()" in run.output
    assert [outcome.kind for outcome in run.tests.values()] == ["failed", "passed", "passed"], run.output


def test_an_expected_failure_is_one(tmp_path: Path) -> None:
    source = "import pytest\npytestmark = pytest.mark.xfail(strict=True)\n" + FORGETS.replace(
        "def test_after", "def after"
    )
    run = run_pytest(tmp_path, source, "--bridge-strict")
    assert run.status == 0, run.output
    assert "1 xfailed" in run.output


def test_everything_is_put_back_even_after_an_interrupt(tmp_path: Path) -> None:
    conftest = """
import asyncio, concurrent.futures, sys, threading
from asyncio import runners

PATCHED = [
    (asyncio.BaseEventLoop, "run_forever"),
    (asyncio.BaseEventLoop, "call_exception_handler"),
    (runners, "_cancel_all_tasks"),
    (threading.Thread, "start"),
    (concurrent.futures.ThreadPoolExecutor, "__init__"),
    (concurrent.futures.ThreadPoolExecutor, "shutdown"),
]
before = [vars(owner)[name] for owner, name in PATCHED]

def pytest_unconfigure():
    assert before == [vars(owner)[name] for owner, name in PATCHED]
    assert sys.get_coroutine_origin_tracking_depth() == 0
    print("all put back")
"""
    source = """
import conftest

def test_interrupted():
    assert conftest.before[0] is not vars(conftest.PATCHED[0][0])["run_forever"]
    raise KeyboardInterrupt
"""
    run = run_pytest(tmp_path, source, "--bridge-strict", conftest=conftest)
    assert run.status == 2
    assert "all put back" in run.output


@needs_xdist
def test_each_process_of_xdist_watches_its_own_tests(tmp_path: Path) -> None:
    source = (TRAPS / "fixture_traps.py").read_text(encoding="utf-8")
    run = run_pytest(tmp_path, source, "--bridge-strict", "-n", "2")
    for expected in expectations(source):
        (outcome,) = run.of(expected.name)
        assert (outcome.kind != "passed") == (expected.code is not None), run.output

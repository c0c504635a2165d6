"""Every program in tests/broken/ has one fault, and bridge must say which line it is, and what to write instead."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.observed_programs import Observation, Program, Report, missing, problems, read, run

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the programs use signals, pipes and POSIX shells")

FOLDER = Path(__file__).parent / "broken"
PROGRAMS = sorted(path.name for path in FOLDER.glob("*.py"))


@pytest.mark.parametrize("name", PROGRAMS)
def test_the_fault_is_reported_with_its_line_and_what_to_write_instead(name: str) -> None:
    program = read(FOLDER / name)
    lacking = missing(program)
    if lacking:
        pytest.skip(f"needs {', '.join(lacking)}")
    seen = run(program)
    assert not problems(program, seen), seen.stderr


@pytest.mark.parametrize("name", PROGRAMS)
def test_each_program_expects_a_code_with_a_line_and_words(name: str) -> None:
    expected = read(FOLDER / name).expected
    assert expected
    assert all(each.advice or each.says for each in expected)


def test_there_is_a_program_for_every_code_that_a_program_can_cause() -> None:
    from bridge.diagnostics.catalogue import CATALOGUE

    codes = {expected.code for name in PROGRAMS for expected in read(FOLDER / name).expected}
    assert codes == set(CATALOGUE) - {"BRG502"}  # which is the pytest plugin's


@pytest.mark.parametrize("name", ["sleep_in_coroutine.py", "forgotten_await.py", "call_soon_from_thread.py"])
def test_these_tests_fail_when_nothing_is_reported(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.observed_programs.PATIENCE", 5.0)  # what nobody hands over to the loop hangs
    program = read(FOLDER / name)
    seen = run(program, env={"BRIDGE_DIAGNOSTICS": "0"})
    assert f"{program.expected[0].code} was not reported" in problems(program, seen)


# -- the comparison itself ---------------------------------------------------------------------------------------------


@pytest.fixture
def program(tmp_path: Path) -> Program:
    path = tmp_path / "program.py"
    path.write_text(
        "# expects: BRG101\n# advice: asyncio.sleep(1)\n# says: {spawned}\n# before: done\n# also: BRG102\n"
        "main()  # <- spawned\n"
        "time.sleep(1)  # <- BRG101\n"
        "print('done')\n"
    )
    return read(path)


def report(program: Program, **changes: object) -> Report:
    attributes = {"bridge.code": "BRG101", "code.file.path": str(program.path), "code.line.number": 7}
    record = {"body": "blocked", "advice": "await asyncio.sleep(1)", "details": [f"task, spawned at {program.path}:6"]}
    for name, value in changes.items():
        if name in record:
            record[name] = value
        else:
            attributes[name] = value
    return Report(0, record | {"attributes": attributes})


def test_what_is_as_expected_is_no_problem(program: Program) -> None:
    assert problems(program, Observation([report(program)], "done\n", "", 0)) == []


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda right, program: replace(right, reports=[]), "BRG101 was not reported"),
        (lambda right, program: replace(right, reports=[report(program, **{"code.line.number": 6})]), "not at line 7"),
        (lambda right, program: replace(right, reports=[report(program, **{"code.file.path": "x"})]), "not at line 7"),
        (lambda right, program: replace(right, reports=[report(program, advice="sleep less")]), "no advice"),
        (lambda right, program: replace(right, reports=[report(program, details=[])]), "does not say"),
        (lambda right, program: replace(right, reports=[replace(right.reports[0], offset=5)]), "came only after 'done'"),
        (lambda right, program: replace(right, output=""), "'done' was not printed"),
        (
            lambda right, program: replace(right, reports=[*right.reports, report(program, **{"bridge.code": "BRG103"})]),
            "not expected: BRG103",
        ),
        (
            lambda right, program: replace(right, reports=[*right.reports, report(program, **{"bridge.code": None})]),
            "not expected: None",
        ),
        (
            lambda right, program: replace(right, reports=[*right.reports, report(program, **{"code.line.number": 8})]),
            "not expected: BRG101",
        ),
        (lambda right, program: replace(right, exit=1), "exit code 1 instead of 0"),
        (lambda right, program: replace(right, exit=None), "exit code None instead of 0"),
    ],
)
def test_what_is_not_as_expected_is_a_problem(
    program: Program, change: Callable[[Observation, Program], Observation], problem: str
) -> None:
    right = Observation([report(program)], "done\n", "", 0)
    assert any(problem in found for found in problems(program, change(right, program)))


def test_more_of_the_same_and_what_may_come_besides_is_no_problem(program: Program) -> None:
    reports = [report(program), report(program, advice=""), report(program, **{"bridge.code": "BRG102"})]
    assert problems(program, Observation(reports, "done\n", "", 0)) == []


@pytest.mark.parametrize(("line", "seconds", "allowed"), [(8, 0.21, True), (8, 0.11, False), (8, "nan", False)])
def test_what_goes_on_may_have_come_to_another_line(program: Program, line: int, seconds: float, allowed: bool) -> None:
    reports = [
        report(program, **{"bridge.duration": 0.11}),
        report(program, **{"bridge.duration": seconds, "code.line.number": line}),
    ]
    assert (problems(program, Observation(reports, "done\n", "", 0)) == []) is allowed
    assert problems(program, Observation(reports[::-1], "done\n", "", 0)) != []


def test_a_comment_that_means_nothing_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "program.py"
    path.write_text("# exspects: BRG101\n")
    with pytest.raises(ValueError, match="exspects"):
        read(path)


# -- the observer ------------------------------------------------------------------------------------------------------

SAYS = """
import logging
import time
from bridge.diagnostics.events import Event, emit

print("before")
emit(Event(code="BRG101", headline="the loop has been blocked", advice="await it"))
print("after")
logging.getLogger("bridge").warning("no event")
"""


def test_what_is_reported_is_seen_in_its_place_among_what_is_printed(tmp_path: Path) -> None:
    path = tmp_path / "program.py"
    path.write_text(SAYS)
    seen = run(read(path))
    assert seen.exit == 0
    assert seen.output == "before\nafter\n"
    event, other = seen.reports
    assert (event.code, event.offset, event.record["advice"]) == ("BRG101", len("before\n"), "await it")
    assert (other.code, other.offset, other.text.strip()) == (None, len(seen.output), "no event")


def test_a_program_that_is_to_hang_is_killed_once_it_has_reported(tmp_path: Path) -> None:
    path = tmp_path / "program.py"
    path.write_text(f"# expects: BRG101\n# says: blocked\n# hangs: yes\n{SAYS}\ntime.sleep(3600)  # <- BRG101\n")
    seen = run(read(path))
    assert seen.exit is None
    assert seen.reports[0].code == "BRG101"


def test_a_program_that_hangs_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.observed_programs.PATIENCE", 1.0)
    path = tmp_path / "program.py"
    path.write_text("import subprocess\nsubprocess.run(['sleep', '3600'])\n")
    program = read(path)
    seen = run(program)
    assert seen.exit is None
    assert problems(program, seen) == ["exit code None instead of 0 (None: killed)"]


def test_a_program_that_is_not_observed_is_no_innocent_one(tmp_path: Path) -> None:
    path = tmp_path / "program.py"
    path.write_text("print('fine')\n")
    with pytest.raises(RuntimeError, match="was not observed"):
        run(read(path), env={"BRIDGE_TESTS_OBSERVE": ""})

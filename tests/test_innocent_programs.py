"""Every program in tests/innocent/ looks like trouble to a careless observer, and is none: bridge must stay silent."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.observed_programs import missing, problems, read, run

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the programs use signals, pipes and POSIX shells")

FOLDER = Path(__file__).parent / "innocent"
PROGRAMS = sorted(path.name for path in FOLDER.glob("*.py"))


@pytest.mark.parametrize("name", PROGRAMS)
def test_nothing_is_reported(name: str) -> None:
    program = read(FOLDER / name)
    lacking = missing(program)
    if lacking:
        pytest.skip(f"needs {', '.join(lacking)}")
    seen = run(program)
    assert not problems(program, seen), seen.stderr
    assert seen.reports == []


@pytest.mark.parametrize("name", PROGRAMS)
def test_each_program_prints_something_when_it_has_come_to_its_end(name: str) -> None:
    program = read(FOLDER / name)
    assert program.often["prints"]
    assert not program.expected
    assert not program.also


def test_this_test_fails_for_a_program_that_is_not_innocent(tmp_path: Path) -> None:
    broken = Path(__file__).parent / "broken" / "sleep_in_coroutine.py"
    path = tmp_path / "program.py"
    path.write_text("".join(line for line in broken.read_text().splitlines(keepends=True) if not line.startswith("# ")))
    program = read(path)
    assert any("not expected: BRG101" in problem for problem in problems(program, run(program)))

"""What the README and docs/ say is run: each python block is a whole program, and a text block after it is its output.

`...` in an expected output stands for anything, as in doctest. Standard error and output are read as one. Every warning
is an error. README.md, docs/diagnostics.md and docs/testing.md show what people see who run the program just so, warnings
included, and what it measures may come out otherwise: a number of seconds or milliseconds, or of percent, stands for any
other. Programs that run pytest do so without plugins that have something to say themselves.
"""

from __future__ import annotations

import os
import re
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.conftest import PATIENCE, UNHURRIED

ROOT = Path(__file__).parent.parent
PAGES = sorted((ROOT / "docs").glob("*.md"))
README = ROOT / "README.md"
DIAGNOSTICS = ROOT / "docs" / "diagnostics.md"
TESTING = ROOT / "docs" / "testing.md"
BLOCK = re.compile(r"^```python\n(?P<code>.*?)^```\n(?:\n```text\n(?P<output>.*?)^```\n)?", re.MULTILINE | re.DOTALL)
#: Codes of blocked loops, and those that are told only where a loop is blocked.
BLOCKED = re.compile("BRG10[1-4]|BRG40[24]")
LINK = re.compile(r"\[[^]]*\]\((?P<file>[^)#:]*)(?:#(?P<heading>[^)]*))?\)")
#: What uses ProcessExecutor.
PROCESS = re.compile(r"ProcessExecutor|to_process|\"process\"")
INTERPRETERS = re.compile("InterpreterPoolExecutor")
needs_interpreters = pytest.mark.skipif(
    sys.version_info < (3, 14), reason="Python has InterpreterPoolExecutor from 3.14 on"
)
needs_processes = pytest.mark.skipif(sys.platform == "win32", reason="ProcessExecutor needs POSIX")
NEEDS = [(PROCESS, needs_processes), (INTERPRETERS, needs_interpreters)]


class Block(NamedTuple):
    page: Path
    place: str
    code: str
    output: str


def blocks(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    return [
        Block(page, f"{page.name}:{text.count(chr(10), 0, match.start()) + 1}", match["code"], match["output"] or "")
        for match in BLOCK.finditer(text)
    ]


def run_program(code: str, folder: Path, *args: str, warnings: str | None = "error", hurried: bool = False) -> str:
    """The output of a program, which must end well and in time; `warnings` as for `python -W`. `hurried`: with the usual
    threshold for blocked loops."""
    program = folder / "program.py"
    program.write_text(code, encoding="utf-8")
    environment = {name: value for name, value in os.environ.items() if not hurried or name not in UNHURRIED}
    done = subprocess.run(
        [sys.executable, *(("-W", warnings) if warnings else ()), program, *args],
        cwd=folder,
        env={
            **environment,
            "PYTEST_ADDOPTS": "-p no:asyncio -p no:cacheprovider",
            "COLUMNS": "80",
            "PYTHONUNBUFFERED": "1",  # what is printed and what is logged come in their order
        },
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        timeout=6 * PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def as_pattern(expected: str, *, measured: bool = False) -> str:
    """What an output must match; where it holds what was `measured`, numbers of seconds and of percent may differ."""
    pattern = ".*".join(re.escape(part) for part in expected.split("..."))
    return re.sub(r"\d+(\\\.\d+)?(?=\\ (ms|s|%)(?![\w]))", r"\\d+(?:\\.\\d+)?", pattern) if measured else pattern


@pytest.mark.parametrize(
    "block",
    [
        pytest.param(block, id=block.place, marks=[mark for used, mark in NEEDS if used.search(block.code)])
        for page in (README, *PAGES)
        for block in blocks(page)[1 if page == README else 0 :]  # README's first one has a test of its own
    ],
)
def test_a_program_in_the_docs_prints_what_they_say(block: Block, tmp_path: Path) -> None:
    diagnostics = block.page in (README, DIAGNOSTICS, TESTING)
    hurried = bool(BLOCKED.search(block.output)) or "bridge.loop.blocked" in block.output
    output = run_program(block.code, tmp_path, warnings=None if diagnostics else "error", hurried=hurried)
    expected = as_pattern(block.output, measured=diagnostics)
    assert re.fullmatch(expected, output, re.DOTALL), f"expected:\n{block.output}\ngot:\n{output}"


def test_an_output_that_differs_in_one_letter_does_not_pass() -> None:
    assert not re.fullmatch(as_pattern("a ... c\n"), "a b d\n", re.DOTALL)
    assert re.fullmatch(as_pattern("a ... c\n"), "a b\nb c\n", re.DOTALL)


def test_every_python_block_in_the_docs_is_found() -> None:
    for page in (README, *PAGES):
        assert len(blocks(page)) == page.read_text(encoding="utf-8").count("```python"), page.name


def test_what_was_measured_may_differ_and_nothing_else() -> None:
    pattern = as_pattern("took 102 ms, 1.5 s, 98 % of 3 runs\n", measured=True)
    assert re.fullmatch(pattern, "took 97.25 ms, 12 s, 100 % of 3 runs\n")
    assert not re.fullmatch(pattern, "took 102 ms, 1.5 s, 98 % of 4 runs\n")
    assert not re.fullmatch(pattern, "took 102 s, 1.5 s, 98 % of 3 runs\n")
    assert not re.fullmatch(as_pattern("102 ms\n"), "103 ms\n")


@needs_processes
def test_the_program_in_the_readme_indexes_a_folder_in_threads_and_in_processes(tmp_path: Path) -> None:
    block = blocks(README)[0]
    tree = tmp_path / "tree"
    (tree / "inner").mkdir(parents=True)
    (tree / "one.py").write_text("def f(): pass\ndef g(): pass\n")
    (tree / "inner" / "two.py").write_text("")
    (tree / "not.txt").write_text("x")
    output = run_program(block.code, tmp_path, str(tree))
    assert re.fullmatch(r"in a thread: 2 files, \d+\.\d s\nin a process: 2 files, \d+\.\d s\n", output)
    db = sqlite3.connect(tmp_path / "index.db")
    try:
        assert db.execute("SELECT name, functions FROM files ORDER BY name").fetchall() == [("one.py", 2), ("two.py", 0)]
    finally:
        db.close()


@pytest.mark.parametrize("page", [README, *PAGES], ids=lambda page: page.name)
def test_every_link_leads_somewhere(page: Path) -> None:
    for link in LINK.finditer(page.read_text(encoding="utf-8")):
        target = page.parent / link["file"] if link["file"] else page
        assert target.exists(), f"{link[0]} in {page.name}"
        if link["heading"]:
            assert link["heading"] in headings(target), f"{link[0]} in {page.name}"


def headings(page: Path) -> set[str]:
    """The anchors that a Markdown viewer gives to a page's headings."""
    titles = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}

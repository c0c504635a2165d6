"""Runs of pytest with the plugin, each in a process and a folder of its own, and what came of each test.

A test says by an arrow (`# <- BRG101`) which line it should fail by; a code without an arrow says by what. A test without
any should pass.
"""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree as ET

from tests.conftest import PATIENCE

TRAPS = Path(__file__).parent / "traps"
#: An installed bridge brings the plugin along.
PLUGIN = [] if any(each.name == "bridge" for each in entry_points(group="pytest11")) else ["-p", "bridge.pytest_plugin"]
#: The threshold is far from what a test does that blocks its loop, and from what one takes that does not.
CHANGES = {"COLUMNS": "200", "BRIDGE_SLOW_CALLBACK_DURATION": "0.5"}
_CODE = re.compile(r"#.*\b(BRG\d+)")


class Outcome(NamedTuple):
    """`kind` is passed, failed, error or skipped; `text` what pytest says of it; `log` the sections of the report."""

    kind: str
    text: str = ""
    log: str = ""


class Run(NamedTuple):
    status: int
    output: str
    tests: dict[str, Outcome]

    def of(self, name: str) -> list[Outcome]:
        """Of a test, in all its variants."""
        found = [outcome for each, outcome in self.tests.items() if each.partition("[")[0] == name]
        assert found, f"{name} did not run:\n{self.output}"
        return found


class Expected(NamedTuple):
    name: str
    code: str | None
    line: int | None


def run_pytest(folder: Path, source: str, *options: str, ini: str = "", conftest: str = "") -> Run:
    """Run the tests of `source` in `folder`."""
    for name, text in (("test_it.py", source), ("conftest.py", conftest), ("pytest.ini", f"[pytest]\n{ini}\n")):
        (folder / name).write_text(text, encoding="utf-8")
    report = folder / "report.xml"
    switches = ["-c", "pytest.ini", "-o", "junit_logging=all", f"--junitxml={report}", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *PLUGIN, *switches, *options, "test_it.py"],
        cwd=folder,
        env={name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")} | CHANGES,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        timeout=9 * PATIENCE,
        check=False,
    )
    return Run(done.returncode, done.stdout, _outcomes(report) if report.exists() else {})


def _outcomes(report: Path) -> dict[str, Outcome]:
    tests: dict[str, Outcome] = {}
    for case in ET.parse(report).iter("testcase"):
        outcome = Outcome("passed")
        for part in case:
            if part.tag in ("failure", "error", "skipped"):
                kind = {"failure": "failed"}.get(part.tag, part.tag)
                outcome = Outcome(kind, part.text or part.get("message", ""))
        log = "".join(part.text or "" for part in case if part.tag.startswith("system"))
        tests[case.get("name", "")] = outcome._replace(log=log)
    return tests


def expectations(source: str) -> list[Expected]:
    """What each test of a file is to fail by."""
    lines = source.splitlines()
    expected = []
    for function in ast.walk(ast.parse(source)):
        if isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef)) and function.name.startswith("test_"):
            code = line = None
            for number in range(function.lineno, (function.end_lineno or 0) + 1):
                match = _CODE.search(lines[number - 1])
                if match:
                    code, line = match[1], number if "# <- " in lines[number - 1] else None
            expected.append(Expected(function.name, code, line))
    return expected

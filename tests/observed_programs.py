"""Programs that say themselves what bridge should report about them: read, run, and compared with what was reported.

    the program's comments ──> Program ──run──> Observation ──problems──> a list of what is not as it should be

The first lines of a program are comments, `# key: value`:

    expects   a code that must be reported, at the line that ends in `# <- CODE`; what follows belongs to it:
    advice      what the report says to write instead (a part of it)
    says        a part of the message, details included; {name} is `file:line` of the line that ends in `# <- name`
    before      a line of output that comes only after the report
    also      codes that may be reported besides, anywhere
    prints    a line of output
    stderr    a part of what is written to standard error
    exit      the exit code, if not 0
    hangs     "yes": the program does not end; it is killed when it has reported what it should
    stdin     a shell command that writes the program's input
    flags     options of the interpreter
    needs     a module that must be importable, or "linux", or "3.12"

Any other code at level INFO or above, and any complaint of bridge's own, is a problem. What has been reported where it
should be may be reported again, after more time, where the program stands by then: a callback that goes on has perhaps
come to its next line.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.conftest import UNHURRIED

#: What is reported when a loop is blocked. All others may be run on a machine that stops for a moment.
_OF_THE_LOOP = {"BRG101", "BRG102", "BRG103", "BRG104"}

OBSERVER = Path(__file__).parent / "observer"
#: What the observer says first.
_OBSERVED = b"\x1e{}\x1f"

#: Seconds after which a program hangs. Never how long anything takes.
PATIENCE = 60.0

_HEADER = re.compile(r"# (\w+): (.*)")
_MARK = re.compile(r"# <- ([\w, ]+)$")
_FRAME = re.compile("\x1e(.*?)\x1f", re.DOTALL)
_BELONGS_TO_EXPECTED = ("advice", "says", "before")
_ONCE = ("exit", "hangs", "stdin", "flags")
_OFTEN = ("also", "prints", "stderr", "needs")


@dataclass(frozen=True)
class Expected:
    """One report that must come."""

    code: str
    line: int
    advice: list[str] = field(default_factory=list)
    says: list[str] = field(default_factory=list)
    before: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Program:
    """A program, and what should be reported about it."""

    path: Path
    expected: list[Expected]
    also: set[str]
    often: Mapping[str, list[str]]
    once: Mapping[str, str]

    @property
    def codes(self) -> set[str]:
        """What may be reported."""
        return self.also | {expected.code for expected in self.expected}


@dataclass(frozen=True)
class Report:
    """One record of the `bridge` logger. `offset` is how much of the output came before it."""

    offset: int
    record: Mapping[str, Any]

    @property
    def attributes(self) -> Mapping[str, Any]:
        attributes: Mapping[str, Any] = self.record["attributes"]
        return attributes

    @property
    def code(self) -> str | None:
        """None if it is not an event."""
        return self.attributes.get("bridge.code")

    @property
    def place(self) -> tuple[str | None, int | None]:
        return self.attributes.get("code.file.path"), self.attributes.get("code.line.number")

    @property
    def seconds(self) -> float:
        """How long it takes already; NaN if it does not say so."""
        return float(self.attributes.get("bridge.duration", "nan"))

    @property
    def text(self) -> str:
        return "\n".join([self.record["body"], self.record.get("advice", ""), *self.record.get("details", ())])

    def __str__(self) -> str:
        file, line = self.place
        return f"{self.code} at {file}:{line}, advice {self.record.get('advice')!r}: {self.text}"


@dataclass(frozen=True)
class Observation:
    """What one run of a program has come to. `exit` is None if it had to be killed."""

    reports: list[Report]
    output: str
    stderr: str
    exit: int | None


# -- reading -----------------------------------------------------------------------------------------------------------


def read(path: Path) -> Program:
    """What a program says about itself; raises ValueError where that makes no sense."""
    lines = path.read_text().splitlines()
    marks = _marks(lines)
    expected: list[Expected] = []
    once: dict[str, str] = {}
    often: dict[str, list[str]] = {key: [] for key in _OFTEN}
    for line in lines:
        header = _HEADER.fullmatch(line)
        if header is None:
            break
        key, value = header.groups()
        if key == "expects":
            expected.append(Expected(value, marks[value]))
        elif key in _BELONGS_TO_EXPECTED:
            getattr(expected[-1], key).append(_filled_in(value, path, marks))
        elif key in _ONCE:
            once[key] = value
        elif key in _OFTEN:
            often[key].append(value)
        else:
            raise ValueError(f"{path}: {key!r} means nothing here")
    also = {code for codes in often["also"] for code in codes.split()}
    return Program(path, expected, also, often, once)


def _marks(lines: list[str]) -> dict[str, int]:
    marks = {}
    for number, line in enumerate(lines, start=1):
        mark = _MARK.search(line)
        if mark is not None:
            marks |= dict.fromkeys(re.findall(r"\w+", mark[1]), number)
    return marks


def _filled_in(text: str, path: Path, marks: Mapping[str, int]) -> str:
    return re.sub(r"\{(\w+)\}", lambda name: f"{path}:{marks[name[1]]}", text)


def missing(program: Program) -> list[str]:
    """What the program needs and this machine has not."""
    return [need for need in program.often["needs"] if not _is_there(need)]


def _is_there(need: str) -> bool:
    if need == "linux":
        return sys.platform == "linux"
    if re.fullmatch(r"\d\.\d+", need):
        return sys.version_info >= tuple(map(int, need.split(".")))
    return importlib.util.find_spec(need) is not None


# -- running -----------------------------------------------------------------------------------------------------------


def run(program: Program, env: Mapping[str, str] | None = None) -> Observation:
    """Run it as a program of its own; kill it when it hangs, or when it has reported what it should and is to hang.

    Raises RuntimeError if nobody has observed it.
    """
    path = os.pathsep.join(filter(None, [str(OBSERVER), os.environ.get("PYTHONPATH")]))
    changed = {"PYTHONPATH": path, "BRIDGE_TESTS_OBSERVE": "1"} | dict(env or {})
    unset = ["BRIDGE_DIAGNOSTICS", "PYTHONASYNCIODEBUG", "PYTHONDEVMODE", "PYTHONWARNINGS"]
    if not program.expected or not program.codes.isdisjoint(_OF_THE_LOOP):
        unset += UNHURRIED
    source = _stdin_of(program)
    process = subprocess.Popen(
        [sys.executable, "-u", "-W", "default", *shlex.split(program.once.get("flags", "")), program.path],
        env={name: value for name, value in os.environ.items() if name not in unset} | changed,
        stdin=subprocess.DEVNULL if source is None else source.stdout,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    stderr: list[bytes] = []
    reader = threading.Thread(target=lambda: stderr.append(process.stderr.read()))
    reader.start()
    killed = threading.Event()

    def kill() -> None:
        killed.set()
        os.killpg(process.pid, signal.SIGKILL)  # what it has started as well: nothing keeps the pipes open

    timer = threading.Timer(PATIENCE, kill)
    timer.start()
    try:
        stream = b""
        while chunk := process.stdout.read1():
            stream += chunk
            if "hangs" in program.once and not killed.is_set() and _has_all(program, stream):
                kill()
        process.wait()
    finally:
        timer.cancel()
        if process.poll() is None:
            kill()
        process.wait()
        reader.join()
        process.stdout.close()
        process.stderr.close()
        if source is not None:
            source.stdout.close()
            source.kill()
            source.wait()
    if not stream.startswith(_OBSERVED):
        raise RuntimeError(f"{program.path} was not observed: {b''.join(stderr).decode(errors='replace')}")
    reports, output = _parse(stream)
    exit = None if killed.is_set() else process.returncode  # noqa: A001
    return Observation(reports, output, b"".join(stderr).decode(errors="replace"), exit)


def _stdin_of(program: Program) -> subprocess.Popen[bytes] | None:
    command = program.once.get("stdin")
    return None if command is None else subprocess.Popen(["sh", "-c", command], stdout=subprocess.PIPE)


def _has_all(program: Program, stream: bytes) -> bool:
    codes = {report.code for report in _parse(stream)[0]}
    return all(expected.code in codes for expected in program.expected)


def _parse(stream: bytes) -> tuple[list[Report], str]:
    reports = []
    output = ""
    for index, part in enumerate(_FRAME.split(stream.removeprefix(_OBSERVED).decode(errors="replace"))):
        if index % 2:
            reports.append(Report(len(output), json.loads(part)))
        else:
            output += part
    return reports, output


# -- comparing ---------------------------------------------------------------------------------------------------------


def problems(program: Program, seen: Observation) -> list[str]:
    """What is not as the program says; empty if all is well."""
    found = [problem for expected in program.expected for problem in _problems_of(program, expected, seen)]
    for number, report in enumerate(seen.reports):
        if not _is_allowed(program, report, seen.reports[:number]):
            found.append(f"not expected: {report}")
    lines = seen.output.splitlines()
    found += [f"not printed: {line!r}" for line in program.often["prints"] if line not in lines]
    found += [f"not on standard error: {text!r}" for text in program.often["stderr"] if text not in seen.stderr]
    code = None if "hangs" in program.once else int(program.once.get("exit", "0"))
    if seen.exit != code:
        found.append(f"exit code {seen.exit} instead of {code} (None: killed)")
    return found


def _problems_of(program: Program, expected: Expected, seen: Observation) -> list[str]:
    """Of the reports with the expected code, that one counts which comes closest."""
    reports = [report for report in seen.reports if report.code == expected.code]
    if not reports:
        return [f"{expected.code} was not reported"]
    return min((_shortcomings(program, expected, report, seen) for report in reports), key=len)


def _shortcomings(program: Program, expected: Expected, report: Report, seen: Observation) -> list[str]:
    found = []
    if report.place != (str(program.path), expected.line):
        found.append(f"not at line {expected.line}")
    found += [f"no advice {text!r}" for text in expected.advice if text not in report.record["advice"]]
    found += [f"does not say {text!r}" for text in expected.says if text not in report.text]
    until = seen.output[: report.offset].splitlines()
    found += [f"came only after {line!r}" for line in expected.before if line in until]
    found += [f"{line!r} was not printed" for line in expected.before if line not in seen.output.splitlines()]
    return [f"{problem}: {report}" for problem in found]


def _is_allowed(program: Program, report: Report, before: list[Report]) -> bool:
    if report.code in program.also:
        return True
    path = str(program.path)
    places = {(path, expected.line) for expected in program.expected if expected.code == report.code}
    if report.place in places:
        return True
    told = [each.seconds for each in before if each.code == report.code and each.place in places]
    return report.place[0] == path and any(seconds < report.seconds for seconds in told)

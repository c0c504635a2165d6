"""Every example is run as a user runs it, as a program of its own, and its output looked at."""

from __future__ import annotations

import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import PATIENCE

EXAMPLES = Path(__file__).parent.parent / "examples"

#: What the short examples print; `...` stands for anything within a line. index_tree has tests of its own below.
OUTPUT = {
    "arrays.py": ["64 MB to process ... and back: ... ms", "doubled: True; the array here is as it was: True"],
    "call_back.py": ["till closed with 12", "3 orders"],
    "cancel.py": [
        "the thread has cleaned up",
        "timed out: __main__.count did not end within 0.5 s on 'bridge-thread': ...",
        "the thread has cleaned up",
        "cancelled, and nothing runs on",
    ],
    "kill_runaway.py": [
        "it works: True",
        "__main__.is_sentence has run away in process ...",
        "ended ... s after it was cancelled",
        "it works: True",
    ],
    "sync_program.py": ["<start>", "<page 1>", "<page 2>", "<a> <b> <c>"],
    "trio_program.py": ["ONE", "TWO", "THREE", "cancelled: True"],
}
LONG = {"index_tree.py"}
needs_processes = pytest.mark.skipif(sys.platform == "win32", reason="ProcessExecutor needs POSIX")


def run_example(name: str, *args: object, code: int = 0, **env: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-X", "utf8", "-W", "error", EXAMPLES / name, *map(str, args)],
        env=os.environ | env,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        timeout=6 * PATIENCE,
        check=False,
    )
    assert done.returncode == code, done.stderr + done.stdout
    return done


@pytest.mark.parametrize("name", sorted(path.name for path in EXAMPLES.glob("*.py")))
def test_every_example_has_its_test_and_is_short_unless_it_is_the_long_one(name: str) -> None:
    assert (name in OUTPUT) != (name in LONG)
    assert name in LONG or (EXAMPLES / name).read_text().count("\n") < 40


USE_PROCESSES = {name for name in OUTPUT if "ProcessExecutor" in (EXAMPLES / name).read_text()}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[needs_processes] if name in USE_PROCESSES else []) for name in sorted(OUTPUT)]
)
def test_a_short_example_prints_what_it_should(name: str) -> None:
    done = run_example(name)
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    assert len(lines) == len(OUTPUT[name]), done.stdout
    for line, expected in zip(lines, OUTPUT[name], strict=True):
        assert re.fullmatch(re.escape(expected).replace(r"\.\.\.", ".*"), line), f"expected {expected!r}, got {line!r}"


# -- arrays, kill_runaway ----------------------------------------------------------------------------------------------


@needs_processes
def test_arrays_move_in_less_time_than_pickling_through_a_pipe_would_take() -> None:
    """Loosely: 64 MB each way take a few milliseconds more than doubling them, a pipe several hundred."""
    (milliseconds,) = re.findall(r"and back: (\d+) ms", run_example("arrays.py").stdout)
    assert int(milliseconds) < 500


@needs_processes
def test_a_runaway_has_ended_soon_after_it_was_cancelled() -> None:
    (seconds,) = re.findall(r"ended (\d+\.\d) s after", run_example("kill_runaway.py").stdout)
    assert float(seconds) < PATIENCE


# -- index_tree --------------------------------------------------------------------------------------------------------

GOOD = """\
import os, sys
from . import sibling
from ..above import name

class Plain:
    def method(self, a, b):             # 1, and: if, and, for, filter
        if a and b:
            return [i for i in a if i]

        def inner():                    # 1, and: conditional expression
            return 1 if a else "\\d"     # this escape warns, and the warning is not ours to show
        return inner

async def top():                        # 1, and: async for, while, except, two cases
    async for x in y:
        while x:
            try: pass
            except ValueError: assert x
    match x:
        case 1: pass
        case _: pass
"""


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "tree"
    (root / "package").mkdir(parents=True)
    (root / "package" / "good.py").write_text(GOOD)
    (root / "empty.py").write_text("")
    (root / "no_last_newline.py").write_text("import a.b\nx = 1")
    (root / "latin.py").write_bytes(b"# coding: latin-1\nx = '\xe9'\n")
    (root / "with_bom.py").write_bytes(b"\xef\xbb\xbfx = 1\n")
    (root / "undecodable.py").write_bytes(b"x = '\xe9'\n")
    (root / "no_such_coding.py").write_bytes(b"# coding: klingon\n")
    (root / "not_a_text_coding.py").write_bytes(b"# coding: rot13\n")
    (root / "broken.py").write_text("\ndef f(:\n")
    (root / "null.py").write_text("x = '\0'\n")
    (root / "deep.py").write_text("(" * 5000 + ")" * 5000)
    (root / "a_folder.py").mkdir()
    (root / "not_python.txt").write_text("def f(:")
    return root


@needs_processes
def test_index_tree_prints_totals_and_lists_bad_files(tree: Path) -> None:
    done = run_example("index_tree.py", tree)
    assert done.stderr == ""
    totals = dict(re.findall(r"^([a-z ]+?) +([\d,]+)$", done.stdout, re.MULTILINE))
    lines = GOOD.count("\n") + 0 + 2 + 2 + 1  # empty, no_last_newline, latin, with_bom
    assert totals == {
        "files": "5", "lines": str(lines), "classes": "1", "functions": "3", "imports": "5", "bad files": "6"
    }  # fmt: skip
    assert re.search(r"^\d+\.\d s, [\d,]+ files per second$", done.stdout, re.MULTILINE)
    assert re.search(r"^worst delay of the loop: \d+ ms$", done.stdout, re.MULTILINE)
    bad = done.stdout.partition("bad files:\n")[2].splitlines()
    reasons = {Path(path).name: reason for path, _, reason in (line.strip().partition(": ") for line in bad)}
    assert sorted(reasons) == sorted(
        ["broken.py", "deep.py", "no_such_coding.py", "not_a_text_coding.py", "null.py", "undecodable.py"]
    )
    assert reasons["broken.py"].startswith("syntax error in line 2: ")
    assert reasons["undecodable.py"].startswith("cannot be decoded: ")
    assert reasons["no_such_coding.py"].startswith("cannot be decoded: ")
    assert reasons["not_a_text_coding.py"].startswith("cannot be decoded: ")


@needs_processes
def test_index_tree_has_its_progress_bar_moved_by_the_workers(tree: Path) -> None:
    files = len([path for path in tree.rglob("*.py") if path.is_file()])
    done = run_example("index_tree.py", tree, FORCE_COLOR="1", COLUMNS="100")  # rich then takes it for a terminal
    assert re.search(rf"\D{files}/{files}\D", done.stderr.rpartition("indexing")[2])


@needs_processes
def test_index_tree_ranks_functions_by_their_branches(tree: Path) -> None:
    done = run_example("index_tree.py", tree)
    good = tree / "package" / "good.py"
    assert re.findall(r"^ +(\d+)  (\S+)  (.+)$", done.stdout, re.MULTILINE) == [
        ("7", "top", f"{good}:14"),
        ("5", "Plain.method", f"{good}:6"),
        ("2", "Plain.method.inner", f"{good}:10"),
    ]


@needs_processes
def test_index_tree_keeps_the_index_and_replaces_an_older_one(tree: Path, tmp_path: Path) -> None:
    path = tmp_path / "index.db"
    for _ in range(2):
        run_example("index_tree.py", tree, "--db", path)
    db = sqlite3.connect(path)
    try:
        assert db.execute("SELECT count(*) FROM files").fetchone() == (5,)
        assert db.execute("SELECT name FROM classes").fetchall() == [("Plain",)]
        modules = db.execute("SELECT line, module FROM imports ORDER BY line, module").fetchall()
        assert modules == [(1, "a.b"), (1, "os"), (1, "sys"), (2, "."), (3, "..above")]
    finally:
        db.close()


@needs_processes
def test_index_tree_leaves_other_databases_alone(tree: Path, tmp_path: Path) -> None:
    path = tmp_path / "precious.db"
    db = sqlite3.connect(path)
    try:
        with db:
            db.execute("CREATE TABLE files (precious)")
        done = run_example("index_tree.py", tree, "--db", path, code=2)
        assert "left alone" in done.stderr
        assert db.execute("SELECT sql FROM sqlite_schema").fetchall() == [("CREATE TABLE files (precious)",)]
    finally:
        db.close()


@needs_processes
@pytest.mark.parametrize("place", ["no/such/folder/index.db", "tree/null.py"])
def test_index_tree_says_why_a_database_cannot_be_opened(tree: Path, tmp_path: Path, place: str) -> None:
    done = run_example("index_tree.py", tree, "--db", tmp_path / place, code=2)
    assert str(tmp_path / place) in done.stderr
    assert "Traceback" not in done.stderr


def test_index_tree_refuses_what_is_not_a_directory(tree: Path) -> None:
    done = run_example("index_tree.py", tree / "empty.py", code=2)
    assert "is not a directory" in done.stderr


@needs_processes
def test_index_tree_of_an_empty_directory_finds_nothing(tmp_path: Path) -> None:
    done = run_example("index_tree.py", tmp_path)
    assert re.search(r"^files +0$", done.stdout, re.MULTILINE)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not take such a file name")
def test_index_tree_copes_with_file_names_that_are_not_text(tmp_path: Path) -> None:
    Path(tmp_path, "na\udcffme.py").write_text("def f(): pass\n")
    assert r"na\xffme.py:1" in run_example("index_tree.py", tmp_path).stdout


@pytest.mark.skipif(sys.platform == "win32", reason="needs links and pipes in the file system")
def test_index_tree_lists_what_is_not_a_file_without_waiting_for_it(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.py")
    (tmp_path / "link.py").symlink_to("nowhere.py")
    output = run_example("index_tree.py", tmp_path).stdout
    assert "pipe.py: cannot be read: not a regular file" in output
    assert "link.py: cannot be read: a broken link" in output


@pytest.mark.skipif(sys.platform == "win32", reason="sends SIGINT")
def test_index_tree_ends_cleanly_on_ctrl_c(tmp_path: Path) -> None:
    path = tmp_path / "index.db"
    program = subprocess.Popen(
        [sys.executable, EXAMPLES / "index_tree.py", "--db", path],  # the standard library takes it many seconds
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    )
    try:
        deadline = time.monotonic() + 3 * PATIENCE
        while not has_batches(path):
            assert program.poll() is None, program.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.01)
        program.send_signal(signal.SIGINT)
        stdout, stderr = program.communicate(timeout=3 * PATIENCE)
    finally:
        program.kill()
        program.wait()
    assert program.returncode == 130
    assert stdout == ""
    assert stderr == "interrupted; everything that ran has ended\n"


def has_batches(path: Path) -> bool:
    """Has the program stored anything yet?"""
    if not path.exists():
        return False
    db = sqlite3.connect(path)
    try:
        return bool(db.execute("SELECT count(*) FROM files").fetchone()[0])
    except sqlite3.OperationalError:  # not yet made, or just being written
        return False
    finally:
        db.close()


# -- what must be installed --------------------------------------------------------------------------------------------

HIDE = """
import runpy, sys

class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name == sys.argv[2]:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Hidden())
runpy.run_path(sys.argv[1], run_name="__main__")
"""


@pytest.mark.parametrize(("name", "needs"), [("index_tree.py", "rich"), ("arrays.py", "numpy")])
def test_an_example_without_what_it_needs_says_how_to_install_it(name: str, needs: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", HIDE, EXAMPLES / name, needs],
        capture_output=True,
        encoding="utf-8",
        timeout=3 * PATIENCE,
        check=False,
    )
    assert done.returncode == 1
    assert needs in done.stderr
    assert "pip install '.[examples]'" in done.stderr
    assert "Traceback" not in done.stderr

"""Index a tree of Python files into SQLite, without ever blocking the loop: `python examples/index_tree.py [DIR]`.

    find_files (thread) ── stream ──> paths ── map ──> examine (processes) ──> batches ── lane "db" (thread) ──> SQLite
                                                            │
                                                            └── bridge.portal() ──> advance, on the loop: progress bar

The three blocking parts (walking, reading and parsing, SQLite) are plain functions. Python's parser holds the GIL from
one end of a file to the other: in threads, the loop would be late by the time that the largest file takes, and more
threads would not parse more. So parsing runs in processes, one for each core. Each of them moves the progress bar, which
lives on the loop, through the portal. A ticker measures by how much the loop was ever late.

Files that cannot be read, decoded or parsed are listed with the reason. DIR is the running Python's standard library
(without what is installed in its site-packages) unless given; `--db PATH` keeps the index.
"""

from __future__ import annotations

import argparse
import ast
import asyncio
import contextlib
import io
import os
import sqlite3
import sys
import sysconfig
import tempfile
import tokenize
import warnings
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter

import bridge

try:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
except ModuleNotFoundError as error:
    if error.name != "rich":
        raise
    sys.exit("the progress bar is drawn by rich, which is not installed; run: pip install '.[examples]'")

STANDARD_LIBRARY = Path(sysconfig.get_paths()["stdlib"])
BATCH = 100  # files per transaction
TICK = 0.010  # seconds


@dataclass(frozen=True, slots=True)
class Function:
    name: str
    line: int
    complexity: int


@dataclass(frozen=True, slots=True)
class Module:
    """What the index keeps of one good file."""

    path: str
    lines: int
    imports: list[tuple[int, str]] = field(default_factory=list)
    classes: list[tuple[int, str]] = field(default_factory=list)
    functions: list[Function] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class BadFile:
    path: str
    reason: str


@dataclass(frozen=True, slots=True)
class Report:
    """What is printed in the end."""

    totals: dict[str, int]
    most_complex: list[tuple[int, str, str, int]]
    bad_files: list[tuple[str, str]]


# -- finding: a blocking generator, consumed with bridge.stream --------------------------------------------------------


def find_files(root: Path) -> Iterator[Path | BadFile]:
    """Every .py file under `root`, in a stable order; folders that cannot be listed come as bad files."""
    unlisted: list[OSError] = []
    for folder, folders, names in os.walk(root, onerror=unlisted.append):
        if Path(folder) == STANDARD_LIBRARY:
            folders[:] = set(folders) - {"site-packages", "dist-packages"}
        folders.sort()
        for name in sorted(names):
            if name.endswith(".py"):
                yield Path(folder, name)
    for error in unlisted:
        yield BadFile(printable(error.filename), f"cannot be listed: {error.strerror}")


def printable(path: str | Path) -> str:
    """A file name may be any bytes; the index and the terminal take only text."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


# -- examining: blocking and heavy, run by bridge.map in processes -----------------------------------------------------


def ignore_warnings() -> None:
    """About other people's files, in every process: "\\d" is worth the one or the other."""
    for category in (SyntaxWarning, DeprecationWarning):
        warnings.simplefilter("ignore", category)


def examine(path: Path) -> Module | BadFile:
    """Read and parse one file, and move the progress bar."""
    try:
        return examined(path)
    finally:
        bridge.portal().call_soon_threadsafe(advance)  # from this process onto the loop of its parent


def examined(path: Path) -> Module | BadFile:
    """Whatever is wrong with the file is a result, not an error."""
    name = printable(path)
    try:
        source = read(path)
    except OSError as error:
        return BadFile(name, f"cannot be read: {error.strerror or error}")
    except (SyntaxError, LookupError, UnicodeError) as error:  # tokenize reports a wrong coding line as a SyntaxError
        return BadFile(name, f"cannot be decoded: {error.msg if isinstance(error, SyntaxError) else error}")
    try:
        tree = ast.parse(source)
    except SyntaxError as error:
        return BadFile(name, f"syntax error{f' in line {error.lineno}' if error.lineno else ''}: {error.msg}")
    except (ValueError, RecursionError, MemoryError) as error:  # null bytes; nested deeper than the parser can go
        return BadFile(name, f"cannot be parsed: {str(error) or type(error).__name__}")
    module = Module(name, source.count("\n") + (not source.endswith("\n") and source != ""))
    survey(tree, module)
    return module


def read(path: Path) -> str:
    """The text of a Python file, decoded as Python does (PEP 263)."""
    if not path.is_file():
        raise OSError("a broken link" if path.is_symlink() else "not a regular file")
    with tokenize.open(path) as file:
        return file.read()


#: How many more ways a function can go because of a node of this kind; see also `survey` for `and`, `or` and filters.
BRANCHES: dict[type[ast.AST], int] = dict.fromkeys(
    (ast.If, ast.IfExp, ast.For, ast.AsyncFor, ast.While, ast.ExceptHandler, ast.Assert, ast.match_case), 1
)
#: The most frequent nodes, which contain nothing of interest.
LEAVES = {ast.Name, ast.Constant, ast.Load, ast.Store, ast.Pass}


def survey(tree: ast.Module, module: Module) -> None:
    """Fill in what the module imports and defines. A branch counts for the innermost function around it."""
    scopes: list[tuple[ast.AST, str]] = [(tree, "")]
    while scopes:  # without recursion: a long chain of operators is nested as deep as it is long
        scope, prefix = scopes.pop()
        complexity = 1
        nodes = list(ast.iter_child_nodes(scope))
        for node in nodes:  # which grows meanwhile
            kind = type(node)
            if kind in LEAVES:
                continue
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
                scopes.append((node, f"{prefix}{node.name}."))
                continue
            complexity += BRANCHES.get(kind, 0)
            if isinstance(node, ast.BoolOp):
                complexity += len(node.values) - 1
            elif isinstance(node, ast.comprehension):
                complexity += 1 + len(node.ifs)
            elif isinstance(node, ast.Import):
                module.imports.extend((node.lineno, alias.name) for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                module.imports.append((node.lineno, "." * node.level + (node.module or "")))
            nodes.extend(ast.iter_child_nodes(node))
        if isinstance(scope, ast.ClassDef):
            module.classes.append((scope.lineno, prefix[:-1]))
        elif isinstance(scope, (ast.FunctionDef, ast.AsyncFunctionDef)):
            module.functions.append(Function(prefix[:-1], scope.lineno, complexity))


# -- storing: SQLite, in the lane "db", whose single worker means one statement at a time ------------------------------

#: Marks a database as one of ours, which may be overwritten.
APPLICATION_ID = 0x70796978

SCHEMA = f"""
PRAGMA application_id = {APPLICATION_ID};
DROP TABLE IF EXISTS files;
DROP TABLE IF EXISTS imports;
DROP TABLE IF EXISTS classes;
DROP TABLE IF EXISTS functions;
DROP TABLE IF EXISTS bad_files;
CREATE TABLE files (id INTEGER PRIMARY KEY, path TEXT NOT NULL, lines INTEGER NOT NULL);
CREATE TABLE imports (file INTEGER NOT NULL REFERENCES files, line INTEGER NOT NULL, module TEXT NOT NULL);
CREATE TABLE classes (file INTEGER NOT NULL REFERENCES files, line INTEGER NOT NULL, name TEXT NOT NULL);
CREATE TABLE functions (
    file INTEGER NOT NULL REFERENCES files, line INTEGER NOT NULL, name TEXT NOT NULL, complexity INTEGER NOT NULL
);
CREATE TABLE bad_files (path TEXT NOT NULL, reason TEXT NOT NULL);
"""

MOST_COMPLEX = """
SELECT complexity, name, path, line FROM functions JOIN files ON files.id = file
ORDER BY complexity DESC, path, line LIMIT 10
"""


@bridge.offload(to="db")
def open_database(path: Path) -> sqlite3.Connection:
    """An empty index. An older index in the same place is overwritten, any other database is refused."""
    # The lane promises one function at a time, not always the same thread: an idle one leaves and another comes.
    db = sqlite3.connect(path, check_same_thread=False)
    try:
        (application_id,) = db.execute("PRAGMA application_id").fetchone()
        if application_id != APPLICATION_ID and db.execute("SELECT * FROM sqlite_schema").fetchone():
            raise sqlite3.DatabaseError("this database was not made by index_tree.py and is left alone")
        db.executescript(SCHEMA)
    except BaseException:
        db.close()
        raise
    return db


@bridge.offload(to="db")
def store(db: sqlite3.Connection, batch: list[Module | BadFile]) -> None:
    """All of the batch in one transaction."""
    with db:
        for result in batch:
            if isinstance(result, BadFile):
                db.execute("INSERT INTO bad_files VALUES (?, ?)", (result.path, result.reason))
            else:
                store_module(db, result)


def store_module(db: sqlite3.Connection, module: Module) -> None:
    file = db.execute("INSERT INTO files (path, lines) VALUES (?, ?)", (module.path, module.lines)).lastrowid
    db.executemany("INSERT INTO imports VALUES (?, ?, ?)", [(file, *row) for row in module.imports])
    db.executemany("INSERT INTO classes VALUES (?, ?, ?)", [(file, *row) for row in module.classes])
    db.executemany(
        "INSERT INTO functions VALUES (?, ?, ?, ?)", [(file, f.line, f.name, f.complexity) for f in module.functions]
    )


@bridge.offload(to="db")
def read_report(db: sqlite3.Connection) -> Report:
    totals = {
        name: db.execute(query).fetchone()[0]
        for name, query in {
            "files": "SELECT count(*) FROM files",
            "lines": "SELECT coalesce(sum(lines), 0) FROM files",
            "classes": "SELECT count(*) FROM classes",
            "functions": "SELECT count(*) FROM functions",
            "imports": "SELECT count(*) FROM imports",
            "bad files": "SELECT count(*) FROM bad_files",
        }.items()
    }
    bad_files = db.execute("SELECT path, reason FROM bad_files ORDER BY path").fetchall()
    return Report(totals, db.execute(MOST_COMPLEX).fetchall(), bad_files)


@bridge.offload(to="db")
def close_database(db: sqlite3.Connection) -> None:
    db.close()


# -- on the loop -------------------------------------------------------------------------------------------------------


class Lateness:
    """While entered, a ticker sleeps for 10 ms again and again; `worst` is by how many seconds it ever woke too late."""

    def __init__(self) -> None:
        self.worst = 0.0
        self._due = 0.0

    async def __aenter__(self) -> Lateness:
        self._due = perf_counter() + TICK
        self._ticker = asyncio.create_task(self._tick())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._ticker.cancel()
        self._look()

    async def _tick(self) -> None:
        while True:
            self._due = perf_counter() + TICK
            await asyncio.sleep(TICK)
            self._look()

    def _look(self) -> None:
        self.worst = max(self.worst, perf_counter() - self._due)


#: The bar that `advance` moves: a call from a worker runs in the context of the task that sent the work.
current_bar: ContextVar[tuple[Progress, TaskID]] = ContextVar("current_bar")


def advance() -> None:
    """One more file has been examined. Called by the workers, run on the loop."""
    progress, bar = current_bar.get()
    progress.advance(bar)


async def index(root: Path, db: sqlite3.Connection, progress: Progress) -> None:
    """Find, examine, store."""
    bar = progress.add_task("finding", total=None)
    current_bar.set((progress, bar))
    found: list[Path] = []
    batch: list[Module | BadFile] = []
    async with contextlib.aclosing(bridge.stream(find_files, root)) as files:
        async for file in files:
            found.append(file) if isinstance(file, Path) else batch.append(file)
            progress.update(bar, completed=len(found))
    progress.update(bar, description="indexing", total=len(found), completed=0)
    paths = iter(found)
    async with contextlib.aclosing(bridge.map(examine, found, to="process", errors="return")) as results:
        async for result in results:
            path = next(paths)
            # An error that `examine` does not expect, such as a crash of the parser, costs this file and no other.
            if isinstance(result, Exception):
                batch.append(BadFile(printable(path), f"cannot be examined: {result}"))
            else:
                batch.append(result)
            if len(batch) >= BATCH:
                await store(db, batch)
                batch = []
    await store(db, batch)


async def run_index(root: Path, database: Path) -> tuple[Report, float, float]:
    """The report, the seconds that the work took, and the loop's worst delay meanwhile, in seconds too."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    started_at = perf_counter()
    db = await open_database(database)
    try:
        async with Lateness() as lateness:
            with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
                await index(root, db, progress)
            report = await read_report(db)
        return report, perf_counter() - started_at, lateness.worst
    finally:
        await close_database(db)


# -- the program -------------------------------------------------------------------------------------------------------


def show(report: Report, seconds: float, worst_delay: float) -> None:
    for name, total in report.totals.items():
        print(f"{name:<10}{total:>12,}")
    files = report.totals["files"] + report.totals["bad files"]
    print(f"\n{seconds:.1f} s, {files / seconds:,.0f} files per second")
    print(f"worst delay of the loop: {worst_delay * 1000:.0f} ms")
    print("\nmost complex functions:")
    for complexity, name, path, line in report.most_complex:
        print(f"{complexity:>6}  {name}  {path}:{line}")
    if report.bad_files:
        print("\nbad files:")
        for path, reason in report.bad_files:
            print(f"  {path}: {reason}")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Index a tree of Python files into SQLite.")
    parser.add_argument(
        "dir",
        metavar="DIR",
        nargs="?",
        type=Path,
        default=STANDARD_LIBRARY,
        help="default: the standard library",
    )
    parser.add_argument("--db", metavar="PATH", type=Path, help="where to keep the index (default: a temporary file)")
    args = parser.parse_args()
    if not args.dir.is_dir():
        parser.error(f"{printable(args.dir)} is not a directory")
    return args


def main() -> int:
    args = arguments()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        with tempfile.TemporaryDirectory() as folder:
            database = args.db or Path(folder, "index.db")
            lanes = {
                "db": bridge.ThreadExecutor(1, name="db"),
                "process": bridge.ProcessExecutor(initializer=ignore_warnings),
            }
            show(*bridge.run(run_index, args.dir, database, executors=lanes))
    except sqlite3.Error as error:
        print(f"{args.db or 'the temporary index'}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; everything that ran has ended", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())

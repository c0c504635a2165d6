"""`python -m bridge run`: an unchanged asyncio script, on bridge's event loop.

find the script's code ── make the module `__main__` of it ── make bridge's loop the default ── execute it as Python would

In: what stands on the command line. Out: whatever the script does; its exit code, its exceptions, its Ctrl-C are left to
the interpreter, which must not notice that somebody stands between. `sys.modules["__main__"]` stays the script's to the
end of the process, so that threads, exit functions, `pickle` and `multiprocessing` find there what they look for.
"""

from __future__ import annotations

import asyncio
import builtins
import importlib.util
import logging
import os
import sys
import warnings
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader, SourcelessFileLoader
from types import CodeType, ModuleType, TracebackType
from typing import Any

from bridge.diagnostics.formatting import JsonFormatter
from bridge.diagnostics.places import is_bridges
from bridge.loop.event_loop import EventLoop, new_event_loop


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """`debug`: asyncio's debug mode. `json`: messages as JSON. `threshold`: slow_callback_duration, in seconds."""

    debug: bool = False
    json: bool = False
    threshold: float | None = None


class CannotRun(Exception):
    """There is no such script or module, or it cannot be read."""


def run_script(script: str, arguments: Sequence[str], *, as_module: bool = False, settings: Settings) -> int:
    """Run a file, a folder or zip file with a `__main__.py`, or (`as_module`) a module, as `python` would.

    Returns 0 when it has ended, 2 if there is nothing to run. What the script raises passes through; the interpreter will
    print it without bridge's own lines.
    """
    main = ModuleType("__main__")
    main.__dict__["__builtins__"] = builtins
    try:
        sys.argv = [script, *arguments]
        code = _module(main, script) if as_module else _file(main, script)
    except CannotRun as error:
        print(f"python -m bridge run: {error}", file=sys.stderr)
        return 2
    except Exception:
        _hide_ourselves()
        raise
    sys.modules["__main__"] = main
    _set_up(settings)
    try:
        exec(code, main.__dict__)
    except BaseException:
        _hide_ourselves()
        raise
    return 0


# -- the event loop ----------------------------------------------------------------------------------------------------


def _set_up(settings: Settings) -> None:
    if settings.debug:
        os.environ["PYTHONASYNCIODEBUG"] = "1"  # for loops that the script makes in other ways, and for its processes
    if settings.json:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(JsonFormatter())
        logger = logging.getLogger("bridge")
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        logger.propagate = False  # or a script with handlers of its own would print them once more
    EventLoop.first_threshold = settings.threshold  # for loops of `bridge.run`, too

    def new_loop() -> EventLoop:
        loop = new_event_loop(diagnostics=True)
        if settings.debug:
            loop.set_debug(True)
        return loop

    _make_default(new_loop)


def _make_default(new_loop: Callable[[], EventLoop]) -> None:
    """Make asyncio.run, asyncio.Runner and asyncio.new_event_loop use `new_loop`, unless the script chooses otherwise.

    Up to Python 3.15 they ask a policy, which the script may replace. Python 3.16 has no policies.
    """
    module: Any = asyncio
    if not hasattr(module, "get_event_loop_policy"):
        module.new_event_loop = module.events.new_event_loop = new_loop
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # from Python 3.14 on
        policy = module.get_event_loop_policy()
    policy.new_event_loop = new_loop


# -- the script --------------------------------------------------------------------------------------------------------


def _file(main: ModuleType, script: str) -> CodeType:
    """As `python script` finds it: the folder of the file becomes the first entry of `sys.path`."""
    path = os.path.abspath(script)
    if os.path.isdir(path) or zipfile.is_zipfile(path):
        _first_on_path(path)
        spec = PathFinder.find_spec("__main__", [path])
        if spec is None:
            raise CannotRun(f"there is no __main__.py in {script!r}")
        return _code_of(main, spec)
    kind = SourcelessFileLoader if path.endswith(".pyc") else SourceFileLoader
    loader = kind("__main__", path)
    _set_names(main, path, loader, None)
    try:
        data = loader.get_data(path)
    except OSError as error:
        raise CannotRun(f"can't open file {path!r}: {error.strerror or error}") from None
    _first_on_path(os.path.dirname(os.path.realpath(path)))
    if isinstance(loader, SourceFileLoader):
        return loader.source_to_code(data, path)
    code = loader.get_code("__main__")
    assert code is not None
    return code


def _module(main: ModuleType, name: str) -> CodeType:
    """As `python -m name` finds it, with the present folder as the first entry of `sys.path`."""
    try:
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.submodule_search_locations is not None:
            name = f"{name}.__main__"
            spec = importlib.util.find_spec(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise  # the package is there, and what it imports is not
        raise CannotRun(f"no module named {error.name!r}") from None
    except ValueError as error:  # "a.": not a name
        raise CannotRun(f"no module named {name!r}: {error}") from None
    if spec is None:
        raise CannotRun(f"no module named {name!r}")
    code = _code_of(main, spec)
    sys.argv[0] = main.__dict__["__file__"]
    return code


def _code_of(main: ModuleType, spec: ModuleSpec) -> CodeType:
    loader: Any = spec.loader
    code: CodeType | None = loader.get_code(spec.name) if hasattr(loader, "get_code") else None
    if code is None:
        raise CannotRun(f"{spec.name!r} is not written in Python")
    _set_names(main, spec.origin, loader, spec)
    return code


def _set_names(main: ModuleType, file: str | None, loader: Any, spec: ModuleSpec | None) -> None:
    """Set the names of a module that Python sets before it executes it."""
    main.__dict__.update(__file__=file, __loader__=loader, __package__=spec and spec.parent, __spec__=spec)
    if sys.version_info < (3, 15):
        main.__dict__["__cached__"] = spec and spec.cached


def _first_on_path(folder: str) -> None:
    """In the place of the folder that `python -m bridge` has put there; with `python -P` there is none."""
    if not sys.flags.safe_path:
        sys.path[0] = folder


# -- its exceptions ----------------------------------------------------------------------------------------------------


def _hide_ourselves() -> None:
    """Have the interpreter report what is being raised as it would without us, and end as it does."""
    report = sys.excepthook

    def excepthook(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
        while traceback is not None and _is_ours(traceback.tb_frame.f_code.co_filename):
            traceback = traceback.tb_next
        report(kind, error.with_traceback(traceback), traceback)

    sys.excepthook = excepthook


def _is_ours(filename: str) -> bool:
    """Bridge's, or the import system's that we have called."""
    return is_bridges(filename) or filename.startswith("<frozen ")

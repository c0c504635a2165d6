"""The end of the program: where bridge registers what has to be done then, and when that is called.

    the main thread ends ── before_joining ──> other threads that are no daemons are joined ── at_exit ──> daemons freeze

`atexit` comes after the joining of threads, too late for what a thread is waiting for. `threading._register_atexit` comes
before it. It is private, but there is no other way, and concurrent.futures is built on it. Where it is missing, a thread
that waits in a portal call for ever keeps the program from ending, as any other thread would.

Children of multiprocessing never come to `atexit`: it is cleared there when they begin. They do come to the joining of
threads, so what was registered for the exit is done then.
"""

from __future__ import annotations

import atexit
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress

from bridge.threads.loaded import from_loaded

_functions: list[Callable[[], object]] = []


def before_joining(function: Callable[[], object]) -> None:
    """Have `function` called when the main thread has ended, before the others are joined."""
    register = getattr(threading, "_register_atexit", None)
    if register is not None:
        with suppress(RuntimeError):  # bridge is imported for the first time by a program that is ending
            register(function)


def at_exit(function: Callable[[], object]) -> None:
    """Have `function` called when the program ends, those registered last first; once or more often."""
    _functions.append(function)
    atexit.register(function)


@contextmanager
def too_late(name: str, instead: str) -> Iterator[None]:
    """Around imports for `bridge.name`: say so if they cannot be done because the program is ending; `instead` says what
    to do.

    Python ends in two steps. At first some modules cannot be imported, because they register what is to be done at the
    exit. When finalizers run at last, no module can, not even one that was imported long before.
    """
    try:
        yield
    except (ImportError, RuntimeError) as error:
        finders: object = sys.meta_path
        if finders is not None and "after shutdown" not in str(error):  # as `threading` says to concurrent.futures
            raise
        raise RuntimeError(
            f"bridge.{name} needs something that Python cannot import any more, because the program is ending. {instead}"
        ) from error


def _without_atexit() -> None:
    parent_process = from_loaded("multiprocessing.process", "parent_process")
    if parent_process is None or parent_process() is None:
        return
    with ExitStack() as each:  # one that fails does not keep the others from being called
        for function in _functions:
            each.callback(function)


before_joining(_without_atexit)

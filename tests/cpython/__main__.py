"""`python -m tests.cpython [-v] [-k PATTERN]`: CPython's own tests on bridge; see the package.

A Python without (part of) its `test` package, as some builds and distributions ship it, says so and has not failed. To
run them there all the same, put a folder that contains `test/` from that Python's source release on PYTHONPATH.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import unittest
from types import ModuleType

from bridge.diagnostics.delivery import logging_thread
from bridge.diagnostics.punctuality import Tick
from bridge.diagnostics.watchdog import watchdog

SUITES = ("event_loop", "executor", "process_pool")


def main() -> int:
    options = _options()
    print(f"CPython's tests on bridge, Python {sys.version.split()[0]}")
    modules = [module for name in SUITES if (module := _suite(name)) is not None]
    if not modules:
        print("0 passed, 0 failed, 0 left out")
        return 0
    return _run(modules, options)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.cpython", description="Run CPython's own tests on bridge.")
    parser.add_argument("-v", "--verbose", action="store_true", help="a line for each test, instead of a dot")
    parser.add_argument("-k", dest="pattern", default="*", help="only tests whose Class.test_name matches")
    return parser.parse_args()


def _suite(name: str) -> ModuleType | None:
    try:
        return importlib.import_module(f"tests.cpython.{name}")
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != "test":
            raise
        print(f"NOT RUN: {name}: this Python was installed without {error.name}, which holds CPython's tests")
        return None


def _run(modules: list[ModuleType], options: argparse.Namespace) -> int:
    from test import support
    from test.libregrtest.utils import setup_threading_excepthook, setup_unraisable_hook

    from tests.cpython.tally import Tally, name_of, reason_instead, tests_in

    support.verbose = 0
    setup_threading_excepthook()
    setup_unraisable_hook()
    suite = unittest.TestSuite()
    left_out: list[str] = []
    instead: list[str] = []
    for module in modules:
        for test in tests_in(module, options.pattern):
            reason = module.LEFT_OUT.get(name_of(test).partition(".")[2])
            if reason is not None:
                left_out.append(f"{name_of(test)}: {reason}")
                continue
            suite.addTest(test)
            if (reason := reason_instead(test)) is not None:
                instead.append(f"{name_of(test)}: {reason}")
    watchdog.watch(_Resting())
    logging_thread._start()  # which serves the whole process, too
    result = unittest.TextTestRunner(sys.stdout, verbosity=1 + options.verbose, resultclass=Tally).run(suite)
    _list("Left out by us", left_out)
    _list("In place of CPython's, a test of our own", instead)
    _list("Skipped here by CPython", [f"{name_of(test)}: {reason}" for test, reason in result.skipped])
    _list("Failed", sorted(result.failed))
    print(f"{result.passed} passed, {len(result.failed)} failed, {len(left_out)} left out, {len(instead)} our own")
    return 1 if result.failed else 0


class _Resting:
    """Keeps the watchdog's thread, which serves the whole process: CPython's tests count the threads before and after."""

    def look(self, tick: Tick) -> None:
        return None


def _list(title: str, lines: list[str]) -> None:
    if lines:
        print(f"{title} ({len(lines)}):", *lines, sep="\n  ")


if __name__ == "__main__":
    sys.exit(main())

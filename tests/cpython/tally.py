"""Choosing and counting tests: what passed, what failed, what was left out, and what CPython itself skips here."""

from __future__ import annotations

import faulthandler
import unittest
from collections.abc import Callable, Iterator
from fnmatch import fnmatchcase
from types import ModuleType
from typing import Any, TypeVar

from test import support

#: Seconds after which a test counts as hanging: every thread's stack is printed and the whole run ends, as failed.
PATIENCE = 120.0

Test = TypeVar("Test", bound=Callable[..., object])


class Tally(unittest.TextTestResult):
    """A result that knows each test's fate. A test that leaves a thread behind, or an error in one, has failed."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.succeeded: set[str] = set()
        self.failed: set[str] = set()

    @property
    def passed(self) -> int:
        return len(self.succeeded - self.failed)

    def startTest(self, test: unittest.TestCase) -> None:  # noqa: N802
        support.environment_altered = False
        faulthandler.dump_traceback_later(PATIENCE, exit=True)
        super().startTest(test)

    def stopTest(self, test: unittest.TestCase) -> None:  # noqa: N802
        faulthandler.cancel_dump_traceback_later()
        if support.environment_altered:
            error = AssertionError("left a thread or a process behind, or an error in one: see the warning printed above")
            self.addFailure(test, (AssertionError, error, None))
        super().stopTest(test)

    def addSuccess(self, test: unittest.TestCase) -> None:  # noqa: N802
        self.succeeded.add(test.id())
        super().addSuccess(test)

    def addExpectedFailure(self, test: unittest.TestCase, err: Any) -> None:  # noqa: N802
        self.succeeded.add(test.id())
        super().addExpectedFailure(test, err)

    def addUnexpectedSuccess(self, test: unittest.TestCase) -> None:  # noqa: N802
        self.failed.add(test.id())
        super().addUnexpectedSuccess(test)

    def addError(self, test: unittest.TestCase, err: Any) -> None:  # noqa: N802
        self.failed.add(test.id())
        super().addError(test, err)

    def addFailure(self, test: unittest.TestCase, err: Any) -> None:  # noqa: N802
        self.failed.add(test.id())
        super().addFailure(test, err)

    def addSubTest(self, test: unittest.TestCase, subtest: unittest.TestCase, err: Any) -> None:  # noqa: N802
        if err is not None:
            self.failed.add(test.id())
        super().addSubTest(test, subtest, err)


def name_of(test: unittest.TestCase) -> str:
    """Class and method."""
    return ".".join(test.id().split(".")[-2:])


def instead(reason: str) -> Callable[[Test], Test]:
    """Marks a test of ours that takes the place of CPython's test of that name, because of `reason`."""

    def mark(test: Test) -> Test:
        test.instead = reason  # type: ignore[attr-defined]
        return test

    return mark


def reason_instead(test: unittest.TestCase) -> str | None:
    """Why the test is not CPython's, if it is not."""
    return getattr(getattr(test, test.id().rpartition(".")[2], None), "instead", None)


def tests_in(module: ModuleType, pattern: str) -> Iterator[unittest.TestCase]:
    """The tests of the classes that a module defines itself, those whose name matches."""
    for kind in list(vars(module).values()):
        if isinstance(kind, type) and issubclass(kind, unittest.TestCase) and _is_public_in(module, kind):
            for test in unittest.defaultTestLoader.loadTestsFromTestCase(kind):
                if isinstance(test, unittest.TestCase) and fnmatchcase(name_of(test), pattern):
                    yield test


def _is_public_in(module: ModuleType, kind: type) -> bool:
    return kind.__module__ == module.__name__ and not kind.__name__.startswith("_")

"""The working part of the plugin: each strict test is observed, and fails by what went wrong in it.

    set-up ── begin ── call ── certain ──> the test has FAILED ── teardown ── everything ──> an ERROR at teardown ── end
                            └─ everything, if no fixture of the test's own is there that could still put things away

A test that has failed by itself keeps its own error; what was found becomes a section of its report. It imports all that
is watched, so it is imported only where a test is strict.
"""

from __future__ import annotations

import sys
from collections.abc import Generator
from contextlib import suppress
from importlib import import_module
from typing import Any

import pytest

from bridge.diagnostics.events import Event
from bridge.strict import MARKER, fixtures
from bridge.strict.garbage import Garbage
from bridge.strict.loops import Loops
from bridge.strict.observation import Observation
from bridge.strict.settings import Settings
from bridge.strict.tasks import Tasks

#: What pytest keeps of the last error, in the way of the interpreter's prompt; it keeps alive what the test had.
_LAST = ("last_type", "last_value", "last_traceback", "last_exc")


class StrictPlugin:
    """Hooks of pytest. They wrap all others, so that nothing of a test happens outside."""

    def __init__(self, config: pytest.Config):
        self._settings = Settings(config)
        self._loops = Loops()
        self._tasks = Tasks(self._loops)
        self._garbage = Garbage()
        self._observation: Observation | None = None
        self._settled = False  # is no garbage of other tests about?
        self._failed = False  # has the test, by itself?
        self._done = False  # was all that can be found asked for, and has no fixture ended since?

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        """End the observation in any case."""
        try:
            return (yield)
        finally:
            self._end()

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Refuse markers that cannot be meant, before any test runs."""
        for item in session.items:
            self._settings.ignored_by(item)

    def pytest_unconfigure(self) -> None:
        """The run is over."""
        self._garbage.take_back()

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> Generator[None, object, object]:
        """Begin."""
        self._end()
        self._failed = self._done = False
        ignored = self._settings.ignored_by(item)
        if ignored is None:
            self._settled = False
            self._garbage.take_back()
        else:
            self._begin(item, ignored)
        return (yield from self._noticing_failures())

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None, object, object]:
        """Fail the test by what went wrong until now."""
        return (yield from self._judging(item, "call"))

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_teardown(self, item: pytest.Item) -> Generator[None, object, object]:
        """Fail it by what it has left."""
        try:
            return (yield from self._judging(item, "teardown"))
        finally:
            self._settled = self._observation is not None and not self._failed
            self._end()

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_fixture_setup(self, fixturedef: pytest.FixtureDef[Any]) -> Generator[None, object, object]:
        """What a fixture of wider scope starts is not the test's."""
        observation = self._observation
        if observation is None or fixturedef.scope == "function":
            return (yield)
        observation.enter_wider_fixture()
        try:
            return (yield)
        finally:
            observation.leave_wider_fixture()

    def pytest_fixture_post_finalizer(self, fixturedef: pytest.FixtureDef[Any]) -> None:
        """A fixture has ended."""
        if fixturedef.scope != "function":
            self._garbage.take_back()
        if fixtures.may_end_something(fixturedef):
            self._done = False

    # -- one phase -----------------------------------------------------------------------------------------------------

    def _judging(self, item: pytest.Item, phase: str) -> Generator[None, object, object]:
        try:
            result = yield from self._noticing_failures()
        finally:
            found = self._found(item, phase)
            if found and self._failed:
                item.add_report_section(phase, "bridge", verdict(found))
        if found and not self._failed:
            pytest.fail(verdict(found), pytrace=False)
        return result

    def _noticing_failures(self) -> Generator[None, object, object]:
        try:
            return (yield)
        except BaseException:
            self._failed = True
            raise

    def _found(self, item: pytest.Item, phase: str) -> list[Event]:
        observation = self._observation
        if observation is None:
            return []
        if self._done:
            return observation.heard()
        if phase == "call" and fixtures.remain(item):
            return observation.certain()
        self._done = True
        return observation.everything()

    def _begin(self, item: pytest.Item, ignored: frozenset[str]) -> None:
        if not self._settled:
            self._settle()
        self._garbage.set_aside()
        if "anyio_backend" in getattr(item, "fixturenames", ()):
            _load_backends()
        self._observation = Observation(self._loops, self._tasks, self._garbage, ignored)
        self._observation.begin()

    def _settle(self) -> None:
        """What tests before have left to be found is found now, before anybody listens."""
        for name in _LAST:
            if hasattr(sys, name):
                delattr(sys, name)
        self._garbage.collect()

    def _end(self) -> None:
        observation, self._observation = self._observation, None
        if observation is not None:
            observation.end()


def _load_backends() -> None:
    """anyio's plugin would load them in the middle of the test, and only what is loaded before is watched."""
    for name in ("trio", "uvloop"):
        with suppress(ImportError):
            import_module(name)


def verdict(found: list[Event]) -> str:
    """What the test has failed by: each message as it is logged, so that pytest's summary shows the first headline."""
    codes = ", ".join(f'"{code}"' for code in sorted({event.code for event in found}))
    note = f"(to let the test pass all the same: @pytest.mark.{MARKER}(ignore=[{codes}]))"
    return "\n\n".join([*(event.message for event in found), note])

"""The entry point of bridge's pytest plugin: the options, and nothing else until a test wants to be strict.

    --bridge-strict, bridge_strict = true, @pytest.mark.bridge_strict ──> bridge.strict.plugin is imported and registered

pytest loads this in every project that has bridge installed, before coverage and before conftest files. So it imports
pytest and the standard library, and a run without strict tests neither imports the rest of bridge nor changes anything.
"""

from __future__ import annotations

import pytest

from bridge.strict import MARKER

#: The name of the working part among pytest's plugins.
WORKING_PART = "bridge-strict"


def pytest_addoption(parser: pytest.Parser) -> None:
    """The command line and the configuration file."""
    group = parser.getgroup("bridge", "event loops, threads and tasks that go wrong (bridge)")
    group.addoption(
        "--bridge-strict",
        action="store_true",
        default=False,
        help="Fail each test that blocks an event loop, forgets a coroutine, loses an exception, or leaves a thread, a "
        "task or an executor running.",
    )
    group.addoption(
        "--bridge-strict-ignore",
        action="append",
        default=[],
        metavar="CODE",
        help="Codes that fail no test, such as BRG101,BRG502. May be repeated.",
    )
    parser.addini("bridge_strict", "As --bridge-strict.", type="bool", default=False)
    parser.addini("bridge_strict_ignore", "As --bridge-strict-ignore, any number of codes.", type="args", default=[])


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker, and the working part if all tests are to be strict."""
    config.addinivalue_line(
        "markers",
        f"{MARKER}(enabled=True, *, ignore=()): fail this test if it blocks an event loop, forgets a coroutine, loses an "
        'exception, or leaves something running; but for the codes in `ignore`, such as ["BRG101"].',
    )
    if config.getoption("bridge_strict") or config.getini("bridge_strict"):
        _register(config)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Likewise if some are."""
    if any(item.get_closest_marker(MARKER) is not None for item in items):
        _register(config)


def _register(config: pytest.Config) -> None:
    if not config.pluginmanager.has_plugin(WORKING_PART):
        from bridge.strict.plugin import StrictPlugin

        config.pluginmanager.register(StrictPlugin(config), WORKING_PART)

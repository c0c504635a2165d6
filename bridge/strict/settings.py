"""Which tests are strict, and about what.

In: pytest's options and markers. Out: for each test, the codes that do not count, or None if the test is not strict.
What cannot be meant is a UsageError, before any test runs.
"""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from bridge.diagnostics.explain import UnknownCode, check
from bridge.strict import MARKER


class Settings:
    """What the whole run wants."""

    def __init__(self, config: pytest.Config):
        self._all = bool(config.getoption("bridge_strict") or config.getini("bridge_strict"))
        given = [code for text in config.getoption("bridge_strict_ignore") for code in text.split(",")]
        self._ignored = _codes([*given, *config.getini("bridge_strict_ignore")])

    def ignored_by(self, item: pytest.Item) -> frozenset[str] | None:
        """The codes that do not fail this test; None if nothing does. The closest marker says whether, all say which."""
        try:
            meant = [_read(marker) for marker in item.iter_markers(MARKER)]
        except pytest.UsageError as error:
            raise pytest.UsageError(f"{item.nodeid}: {error}") from None
        if not (meant[0][0] if meant else self._all):
            return None
        return self._ignored.union(*(ignored for _, ignored in meant))


def _read(marker: pytest.Mark) -> tuple[bool, frozenset[str]]:
    arguments = dict(marker.kwargs)
    enabled = marker.args[0] if marker.args else arguments.pop("enabled", True)
    ignored = arguments.pop("ignore", ())
    if len(marker.args) > 1 or arguments or not isinstance(enabled, bool):
        raise pytest.UsageError(f'write @pytest.mark.{MARKER}(ignore=["BRG101"]) or @pytest.mark.{MARKER}(False)')
    return enabled, _codes([ignored] if isinstance(ignored, str) else ignored)


def _codes(texts: Iterable[str]) -> frozenset[str]:
    try:
        return frozenset(check(text) for text in texts if text.strip())
    except UnknownCode as error:
        raise pytest.UsageError(f"{MARKER}: {error}") from None

"""Attributes of other people's classes and modules, replaced while a test runs, and put back.

Whoever replaces the same attribute later, and has not put it back by then, keeps it: what they hold of ours only passes
calls on once `active` is False.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

_ABSENT = object()


class Patches:
    """The replacements of one test."""

    def __init__(self) -> None:
        self.active: bool = True
        self._undo: list[tuple[Any, str, Any, Any]] = []

    def replace(self, owner: Any, name: str, make: Callable[[Any], Any]) -> None:
        """Put `make(original)` in the place of `owner.name`; nothing if there is no such attribute."""
        original = getattr(owner, name, None)
        if original is None:
            return
        before = vars(owner).get(name, _ABSENT)
        ours = make(original)
        setattr(owner, name, ours)
        self._undo.append((owner, name, ours, before))

    def undo(self) -> None:
        """Put all of them back. Harmless to repeat."""
        self.active = False
        while self._undo:
            owner, name, ours, before = self._undo.pop()
            if vars(owner).get(name) is not ours:
                continue
            if before is _ABSENT:
                delattr(owner, name)
            else:
                setattr(owner, name, before)

"""Executors that a test has made and not shut down: the standard library's and bridge's.

    __init__ ──> Made: by whom, and is it this test's? ── shutdown, aclose ──> closed
    end of the test ── not closed, whether anybody still holds it or not ──> BRG502

Those that a loop makes for itself are the loop's. What is noted holds no executor.
"""

from __future__ import annotations

import sys
from asyncio import base_events
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from types import FrameType
from typing import Any
from weakref import WeakKeyDictionary

from bridge.diagnostics.events import Event
from bridge.diagnostics.places import Place, Site, place_of, where
from bridge.diagnostics.stacks import capture
from bridge.diagnostics.unclosed import with_block
from bridge.executors import lanes
from bridge.executors.foreign import ForeignExecutor
from bridge.executors.process.executor import ProcessExecutor
from bridge.executors.thread import ThreadExecutor
from bridge.strict.patches import Patches

_KINDS: tuple[Any, ...] = (ThreadPoolExecutor, ProcessPoolExecutor, ThreadExecutor, ProcessExecutor, ForeignExecutor)
#: What says that one is wanted no longer.
_ENDS = ("shutdown", "aclose", "close_within")
#: Files that make them for a loop, which shuts them down.
_LOOPS_OWN = (base_events.__file__, lanes.__file__)


class Made:
    """One executor that this test has made."""

    __slots__ = ("closed", "kind", "name", "site")

    def __init__(self, kind: str, site: Site | None):
        self.kind: str = kind
        self.site: Site | None = site
        self.name: str = ""
        self.closed: bool = False

    @property
    def place(self) -> Place | None:
        return None if self.site is None else place_of(self.site)


class Executors:
    """The executors of one test. `is_own` says whether what is made just now is this test's."""

    def __init__(self, is_own: Callable[[], bool]):
        self._is_own = is_own
        self._made: list[Made] = []
        self._by_executor: WeakKeyDictionary[Any, Made] = WeakKeyDictionary()

    def begin(self, patches: Patches) -> None:
        """Note what is made from now on."""
        for kind in _KINDS:
            patches.replace(kind, "__init__", lambda original: self._making(patches, original))
            for end in _ENDS:
                patches.replace(kind, end, self._ending)

    def made(self, executor: Any) -> Made | None:
        """What is known of an executor, or of the pool or crew in it; None if it is not this test's."""
        for each, made in list(self._by_executor.items()):
            if executor in (each, getattr(each, "_pool", None), getattr(each, "_crew", None)):
                return made
        return None

    def left(self, told: set[Place | None]) -> list[Event]:
        """Those that are open, each once, but for what was made at these places, which have been `told`."""
        left = [each for each in self._made if not each.closed]
        self._made = []
        return [_event_of(each) for each in left if each.place is None or each.place not in told]

    def _making(self, patches: Patches, original: Callable[..., None]) -> Callable[..., None]:
        def __init__(executor: Any, *args: Any, **kwargs: Any) -> None:  # noqa: N807 - takes its place
            original(executor, *args, **kwargs)
            if patches.active and executor not in self._by_executor:
                self._note(executor, sys._getframe(1))

        return __init__

    def _note(self, executor: Any, frame: FrameType | None) -> None:
        while frame is not None and frame.f_code.co_name == "__init__" and executor in frame.f_locals.values():
            frame = frame.f_back  # a subclass's
        loops_own = frame is not None and frame.f_code.co_filename in _LOOPS_OWN
        if loops_own or not self._is_own() or getattr(executor, "_thread_name_prefix", "") == "uvloop":
            return
        made = self._by_executor[executor] = Made(type(executor).__name__, capture(frame).blamed)
        made.name = getattr(executor, "name", "")
        self._made.append(made)

    def _ending(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def end(executor: Any, *args: Any, **kwargs: Any) -> Any:
            made = self._by_executor.get(executor)
            if made is not None:
                made.closed = True
            return original(executor, *args, **kwargs)

        return end


def _event_of(made: Made) -> Event:
    place = made.place
    called = f"{made.kind} {made.name!r}" if made.name else made.kind
    return Event(
        code="BRG502",
        headline=f"the test left an executor open: {called}{where(place, 'made at')}",
        advice=with_block(made.kind, made.site, "executor"),
        place=place,
        attributes={"bridge.resource": "executor", "bridge.resource.name": made.name or made.kind},
    )

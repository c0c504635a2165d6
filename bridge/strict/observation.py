"""One strict test, from before its set-up until after its teardown.

    begin ── events of any thread ──> heard ─┐
          ── threads, tasks, executors noted ┴─> certain (what is beyond doubt by now), everything (what is left, too)

Each finding is told once. Forgotten coroutines and lost exceptions are found by the finalizers of garbage, so it is
collected before anybody asks. `end` puts everything back; it is harmless to repeat.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from logging import WARNING

from bridge.diagnostics.catalogue import CATALOGUE
from bridge.diagnostics.events import Event, emit, stream
from bridge.diagnostics.places import Place
from bridge.loop.forgotten import RemembersOrigins
from bridge.strict.executors import Executors
from bridge.strict.garbage import Garbage, Span
from bridge.strict.loops import Loops
from bridge.strict.patches import Patches
from bridge.strict.tasks import Tasks
from bridge.strict.threads import Threads
from bridge.strict.trio_runs import watch_trio

#: Reported together with another code, which fails the test.
_COMPANIONS = frozenset({"BRG102"})
#: Less than a warning, and a leak all the same.
_LEAKS = frozenset({"BRG501"})


class Observation:
    """What goes wrong during one test."""

    def __init__(self, loops: Loops, tasks: Tasks, garbage: Garbage, ignored: frozenset[str]):
        self._ignored = ignored
        self._loops = loops
        self._tasks = tasks
        self._garbage = garbage
        self._patches = Patches()
        self._since = time.time()
        self._collected: list[Span] = []
        self._wider = 0
        self._heard: list[Event] = []
        self._not_closed: set[Place | None] = set()  # what has been told of by a code of its own
        self._told: set[tuple[str, Place | None, str]] = set()
        self._executors = Executors(self._is_own)
        self._threads = Threads(self._is_own, self._executors)
        self._origins = RemembersOrigins()
        self._subscription = stream.on_event_directly(self._heard.append)
        self._thread = threading.get_ident()

    def begin(self) -> None:
        """From now on, what happens is this test's."""
        try:
            self._loops.begin(self._patches, self._tasks.on_destroyed)
            watch_trio(self._patches)
            self._tasks.begin(self._patches)
            self._executors.begin(self._patches)
            self._threads.begin(self._patches)
            self._origins.begin()
        except BaseException:
            self.end()
            raise

    # -- fixtures ------------------------------------------------------------------------------------------------------

    def _is_own(self) -> bool:
        return not self._wider

    def enter_wider_fixture(self) -> None:
        """A fixture that outlives the test is set up: what it starts may stay."""
        self._wider += 1

    def leave_wider_fixture(self) -> None:
        """It is there now."""
        self._wider -= 1
        self._tasks.know_all()

    # -- findings ------------------------------------------------------------------------------------------------------

    def heard(self) -> list[Event]:
        """What has been told of until now."""
        return self._new(self._tasks.told())

    def certain(self) -> list[Event]:
        """What has gone wrong until now, but for what a fixture may still put away."""
        self._settle()
        return self.heard()

    def everything(self) -> list[Event]:
        """Likewise, with all that is left of the test."""
        self._settle()
        found = self._new([])
        threads = self._threads.left()
        left = [*threads.values(), *self._tasks.left(threads), *self._executors.left(self._not_closed)]
        return found + self._new(left)

    def _settle(self) -> None:
        self._loops.settle()
        self._collected.append(self._garbage.collect())

    def _new(self, left: Iterable[Event]) -> list[Event]:
        for event in left:
            emit(event, log=False)  # heard here, too
        found = []
        while self._heard:
            event = self._heard.pop(0)
            if event.code in _LEAKS:
                self._not_closed.add(event.place)
            key = event.code, event.place, event.headline if event.place is None else ""
            if self._counts(event) and key not in self._told:
                self._told.add(key)
                found.append(event)
        return found

    def _counts(self, event: Event) -> bool:
        code = CATALOGUE[event.code]
        if code.code in self._ignored or code.code in _COMPANIONS or code.is_silenced:
            return False
        if code.area == "bridge.loop" and self._is_not_to_blame(event):
            return False
        return code.level >= WARNING or code.code in _LEAKS

    def _is_not_to_blame(self, event: Event) -> bool:
        """Was the loop blocked already when the test began, or kept from running by our own collection of garbage?"""
        began = event.time - float(event.attributes.get("bridge.duration", 0.0))
        collecting = event.code == "BRG104" and any(begun < event.time and began < end for begun, end in self._collected)
        return began < self._since or collecting

    def end(self) -> None:
        """Put everything back."""
        self._patches.undo()
        self._subscription.close()
        if threading.get_ident() == self._thread:
            self._origins.end()
        self._loops.end()

"""Tasks that a test has left pending.

    bridge.run or a Runner ends its loop ── what is pending is cancelled; before, it is noted ─┐
    a task is destroyed, pending ── asyncio's own message ─────────────────────────────────────┤
    any other loop, at the end of the test ── what is pending now and was not before ──────────┴─> BRG502

A task that was told to end (`cancel`) is none; nor are those in which a runner of tests or of bridge carries the test
itself, or in which the loop closes an async generator. A loop that runs in a thread of the test's own is left to the
thread's leak. Owner: `_known` holds what is not this test's (made before it, by a fixture of wider scope, or told
already) until it is done: it must not be destroyed during a later test, which would be blamed.
"""

from __future__ import annotations

import asyncio
import os
import time
from asyncio import runners
from collections.abc import Callable, Collection, Iterator
from typing import Any

import anyio

import bridge
from bridge.callables import last_name, qualname_of
from bridge.diagnostics.advice import awaited
from bridge.diagnostics.events import Event
from bridge.diagnostics.places import is_installed, place_of, where
from bridge.loop import runner
from bridge.loop.lost import place_of_task
from bridge.strict.loops import Loops
from bridge.strict.patches import Patches

#: Seconds that a task of a running loop has to end after the test.
PATIENCE = 1.0
#: Where the coroutines are written that runners make for themselves.
_RUNNERS = tuple(
    os.path.join(os.path.dirname(package.__file__ or ""), folder, "")
    for package, folder in ((anyio, "_backends"), (bridge, "loop"))
)
#: What `aclose()` of an async generator returns. The loop makes a task of it, where a program has left an iteration.
_CLOSES_A_GENERATOR = "async_generator_athrow"


class Tasks:
    """The tasks of all loops that have been seen."""

    def __init__(self, loops: Loops):
        self._loops = loops
        self._known: set[Any] = set()
        self._left: list[Event] = []

    def begin(self, patches: Patches) -> None:
        """What is pending now is not the next test's."""
        self._left = []
        self._known = {task for task in self._known if not task.done()}
        self.know_all()
        for module, name in ((runners, "_cancel_all_tasks"), (runner, "end_tasks")):
            patches.replace(module, name, lambda original: self._cancelling(patches, original))

    def know_all(self) -> None:
        """Nor is this."""
        for loop, _ in self._loops.seen():
            self._known.update(asyncio.all_tasks(loop))

    def on_destroyed(self, task: Any) -> None:
        """asyncio has said that a task was destroyed while it was pending."""
        self._left.append(_event_of(task, "was destroyed while it was pending"))

    def told(self) -> list[Event]:
        """What was certain until now, each once."""
        left, self._left = self._left, []
        return left

    def left(self, threads: Collection[int]) -> list[Event]:
        """Likewise, and what is pending now, but for the loops of these `threads`. May wait a little for tasks that are
        about to end."""
        give_up = time.monotonic() + PATIENCE
        while any(runs for _, runs in self._pending(threads)) and time.monotonic() < give_up:
            time.sleep(0.005)
        for task, _ in list(self._pending(threads)):
            self._note(task, "is still pending")
        return self.told()

    def _pending(self, threads: Collection[int]) -> Iterator[tuple[Any, bool]]:
        """With each, whether its loop runs in another thread just now."""
        for loop, thread in self._loops.seen():
            if thread not in threads:
                yield from ((task, thread is not None) for task in asyncio.all_tasks(loop) if self._counts(task))

    def _cancelling(self, patches: Patches, original: Callable[..., None]) -> Callable[..., None]:
        def cancel_all_tasks(loop: Any, *how: Any) -> None:
            if patches.active:
                for task in asyncio.all_tasks(loop) - _of_callers(loop):
                    if self._counts(task):
                        self._note(task, "was still pending when its loop was closed, and was cancelled")
            original(loop, *how)

        return cancel_all_tasks

    def _counts(self, task: Any) -> bool:
        if task in self._known or task.cancelling():
            return False
        coro = task.get_coro()
        if type(coro).__name__ == _CLOSES_A_GENERATOR:
            return False
        code = _code_of(coro)
        return code is None or not code.co_filename.startswith(_RUNNERS)

    def _note(self, task: Any, what: str) -> None:
        if task not in self._known:
            self._known.add(task)
            self._left.append(_event_of(task, what))


def _of_callers(loop: Any) -> set[Any]:
    """Tasks of calls through a portal: whoever has called is told that the loop ends, so they are nobody's leak."""
    host = getattr(loop, "_bridge_host", None)
    return set() if host is None else {getattr(waiting, "task", None) for waiting in list(host.waits)}


def _code_of(coro: Any) -> Any:
    return getattr(coro, "cr_code", None) or getattr(coro, "gi_code", None)


def _event_of(task: Any, what: str) -> Event:
    coro = task.get_coro()
    qualified = qualname_of(coro)
    short = last_name(coro)
    place = place_of_task(task, coro, getattr(task, "_source_traceback", None))
    call = ((awaited(place, short) if place is not None else None) or f"{short}(...)").removeprefix("await ")
    frame = getattr(coro, "cr_frame", None)
    stands = [] if frame is None else [place_of((frame.f_code, frame.f_lasti))]
    return Event(
        code="BRG502",
        headline=f"the test left a task: {task.get_name()!r} running {qualified.rpartition('<locals>.')[2]}() {what}"
        f"{where(place, 'created at')}",
        details=tuple(f"it stands at {each.with_source}" for each in stands if not is_installed(each.file)),
        advice=f"task = asyncio.create_task({call}); ...; task.cancel()  # or: await task",
        place=place,
        attributes={"bridge.resource": "task", "bridge.resource.name": task.get_name()},
    )

"""Loops that run during a test: those that are not bridge's are watched as bridge's own watch themselves.

    run_forever ──> seen ── bridge's own? ──> as ever: it is watched, or is not to be
                         └─ another's ──> Watch ── resume ── runs ── pause
    call_exception_handler ──> asyncio's message as ever ── lost exception ──> BRG202
                                                         └─ task destroyed ──> `on_destroyed`

The methods are replaced on the classes, so that it does not matter who makes the loop and when: pytest-asyncio, anyio's
plugin, `asyncio.run` in the test. Owner: the run, since a loop may outlive a test. A Watch belongs to the thread that
runs the loop. uvloop is watched from the test on that begins with uvloop imported.
"""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from threading import get_ident
from typing import Any
from weakref import WeakKeyDictionary

from bridge.loop.event_loop import EventLoop
from bridge.loop.forgotten import RemembersOrigins
from bridge.loop.lost import report
from bridge.loop.watch.foreign_loops import view_of
from bridge.loop.watch.thresholds import adopt_threshold
from bridge.loop.watch.views import OpaqueView, View
from bridge.loop.watch.watching import Watch
from bridge.strict.patches import Patches
from bridge.threads.loaded import from_loaded

#: Seconds that loops of other threads have for what they are at.
PATIENCE = 1.0
#: How asyncio's message ends.
_DESTROYED = "was destroyed but it is pending!"


class Loops:
    """Every loop that was seen running in a strict test, for as long as it lives."""

    def __init__(self) -> None:
        #: In which thread each has run last.
        self._threads: WeakKeyDictionary[Any, int] = WeakKeyDictionary()
        #: None between two strict tests.
        self._on_destroyed: Callable[[Any], object] | None = None
        self._watches: WeakKeyDictionary[Any, tuple[Watch, View]] = WeakKeyDictionary()

    def begin(self, patches: Patches, on_destroyed: Callable[[Any], object]) -> None:
        """Watch what runs from now on."""
        self._on_destroyed = on_destroyed
        for kind in (asyncio.BaseEventLoop, from_loaded("uvloop", "Loop")):
            if kind is not None:
                patches.replace(kind, "run_forever", self._running)
                patches.replace(kind, "call_exception_handler", self._hearing)

    def end(self) -> None:
        """Watch no longer what has stopped."""
        self._on_destroyed = None
        for loop, (watch, _) in list(self._watches.items()):
            if not loop.is_running():
                del self._watches[loop]
                watch.close()

    def seen(self) -> Iterator[tuple[Any, int | None]]:
        """Each loop that is still there, and the thread in which it runs just now, if that is not the calling one."""
        for loop, thread in list(self._threads.items()):
            yield loop, thread if thread != get_ident() and loop.is_running() else None

    def settle(self) -> None:
        """Have the loops of other threads end the callback that they are at, if they can do so soon: it was sent to them
        before, and is told of now."""
        give_up = time.monotonic() + PATIENCE
        for loop, thread in self.seen():
            if thread is not None:
                answered = threading.Event()
                with suppress(RuntimeError):  # closed meanwhile
                    loop.call_soon_threadsafe(answered.set)
                    answered.wait(max(0.0, give_up - time.monotonic()))

    def _running(self, original: Callable[[Any], None]) -> Callable[[Any], None]:
        def run_forever(loop: Any) -> None:
            if self._on_destroyed is None or loop.is_closed() or loop.is_running():  # the latter two raise
                original(loop)
                return
            self._threads[loop] = get_ident()
            if isinstance(loop, EventLoop):  # watched already, or not to be
                original(loop)
                return
            watch, view = self._watch_of(loop)
            if isinstance(view, OpaqueView):
                view.run_by(sys._getframe())
            watch.resume()
            try:
                with RemembersOrigins():
                    original(loop)
            finally:
                watch.pause()
                if isinstance(view, OpaqueView):
                    view.run_by(None)  # whose variables hold the loop

        return run_forever

    def _watch_of(self, loop: Any) -> tuple[Watch, View]:
        watched = self._watches.get(loop)
        if watched is None or not watched[0].serves():
            if watched is not None:
                watched[0].close()
            adopt_threshold(loop)
            view = view_of(loop)
            watched = self._watches[loop] = Watch(view), view
        return watched

    def _hearing(self, original: Callable[[Any, dict[str, Any]], None]) -> Callable[[Any, dict[str, Any]], None]:
        """What a loop's block of `bridge.watch` keeps of this may be called in a later test, and hears for that one. Lost
        exceptions are told by the block."""

        def call_exception_handler(loop: Any, context: dict[str, Any]) -> None:
            try:
                original(loop, context)
            finally:
                on_destroyed = self._on_destroyed
                if on_destroyed is not None:
                    with suppress(Exception):  # a finalizer has called
                        if str(context.get("message")).endswith(_DESTROYED):
                            on_destroyed(context.get("task"))
                        if not isinstance(loop, EventLoop) and "call_exception_handler" not in getattr(
                            loop, "__dict__", ()
                        ):
                            report(loop, context, log=loop.get_exception_handler() is None)

        return call_exception_handler

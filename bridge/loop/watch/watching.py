"""From when until when a loop is watched.

    run_forever ──> Watch made (once for each thread that runs the loop) ── resume ── ... ── pause ── resume ── ...
    loop closed, collected, or run by another thread ──> Watch closed (by its watcher, if that was interrupted)

A Watch stays between two runs of its loop, so that `run_until_complete` in a sync program costs no more than two small
steps. The loop owns it, and what it looks with holds the loop weakly: both go together. What a forked child inherits is
watched by nobody there: the child makes its own.
"""

from __future__ import annotations

from asyncio import AbstractEventLoop
from threading import get_native_id
from time import monotonic

from bridge.diagnostics.watchdog import watchdog
from bridge.loop.sleeper import Sleeper
from bridge.loop.watch.garbage import collections
from bridge.loop.watch.readings import LoopClocks
from bridge.loop.watch.views import AsyncioView, View
from bridge.loop.watch.watcher import LoopWatcher


class Watch:
    """One loop, watched while it runs in the thread that made this."""

    def __init__(self, view: View):
        self._thread = get_native_id()  # idents are given to new threads at once
        self._generation = watchdog.generation
        self.watcher: LoopWatcher = LoopWatcher(view, LoopClocks(), monotonic())
        collections.start(self.watcher)
        watchdog.watch(self.watcher)

    def serves(self) -> bool:
        """Can it be used in the calling thread, of this process?"""
        return self._thread == get_native_id() and self._generation == watchdog.generation

    @property
    def closed(self) -> bool:
        """Is it watched no longer?"""
        return self.watcher.closed

    def resume(self) -> None:
        """The loop begins to run."""
        self.watcher.resume()

    def pause(self) -> None:
        """The loop has stopped running."""
        self.watcher.pause()

    def close(self) -> None:
        """Watch no longer. Harmless to repeat, and in finalizers."""
        self.watcher.close()

    def __del__(self) -> None:
        if watchdog is not None:  # at the interpreter's exit there is none any more
            self.close()


def watch_of(loop: AbstractEventLoop, old: Watch | None) -> Watch:
    """The Watch for one of bridge's loops in this thread: the `old` one, or a new one in its place."""
    if old is not None:
        if old.serves():
            return old
        old.close()
    return Watch(AsyncioView(loop, wakes=isinstance(getattr(loop, "_selector", None), Sleeper)))

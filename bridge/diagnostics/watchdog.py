"""The watchdog: one thread that looks at everything there is to watch, and that sleeps while there is nothing to see.

    watch(watcher) ──> thread ── look(tick) at each that is due or rests ── wait until the next is due ──┐
                         ^───────────────────────────────────────────────────────────────────────────────┘
    one rests (its look returned None): parked = True ── look at those once more ── wait ── parked = False
    wake(): ends the wait

What is watched pays nothing while nobody rests, and one look at `parked` where it wakes up itself. Owners: `_watchers`
maps each to when it is due; watchers are put in and taken out by single operations of the dict, without a lock, because
finalizers do so as well; only the thread writes when they are due. `_lock` guards the thread's coming and going.
`parked` is written by the thread; whoever changes what a resting watcher would see changes it first and reads `parked`
then, the watchdog sets `parked` first and looks then: one sees the other. The gate is a lock that is shut while nobody
has called; opening it twice is harmless. When that was is noted first by whoever calls, and forgotten by the thread
when the call has ended its sleep; if one overtakes the other the time is lost, and the call is not. If a watcher raises
it is logged and dropped: the program goes on without it. In a forked child there is no thread and nothing to watch.
"""

from __future__ import annotations

import atexit
import logging
import os
import threading
import time
from _thread import allocate_lock
from collections.abc import Callable
from typing import Protocol

from bridge.diagnostics.delivery import log_elsewhere
from bridge.diagnostics.punctuality import Punctuality, Tick

#: Seconds for which the thread stays when there is nothing to watch any more.
LINGER = 5.0
#: When a watcher is due that wants no look before somebody calls.
RESTING = float("inf")

THREAD_NAME = "bridge-watchdog"

logger: logging.Logger = logging.getLogger("bridge")


class Watcher(Protocol):
    """Something that is looked at, in the watchdog's thread; a look should take well under a millisecond."""

    def look(self, tick: Tick) -> float | None:
        """Look once; return the seconds until the next look, or None to rest until somebody calls `wake`.

        While it rests it may be looked at all the same, when others are.
        """


class _Due:
    """When a watcher is to be looked at."""

    __slots__ = ("at",)

    def __init__(self) -> None:
        self.at = 0.0


class Watchdog:
    """One thread for all watchers. `clock` can be faked."""

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        #: True while the thread sleeps and somebody rests: call `wake` after a change that a watcher should see.
        self.parked: bool = False
        #: Another number in each forked child, where nothing is watched of what its parent had watched.
        self.generation: int = 0
        self._clock = clock
        self._start_afresh()

    def _start_afresh(self) -> None:
        self.parked = False
        self._lock = threading.RLock()  # what a finalizer or a signal handler submits may have to be watched
        self._gate = allocate_lock()
        self._gate.acquire()
        self._watchers: dict[Watcher, _Due] = {}
        self._thread: threading.Thread | None = None
        self._started_at = 0.0
        self._called_at: float | None = None
        self._stopping = False
        self.generation += 1

    # -- from any thread -----------------------------------------------------------------------------------------------

    def watch(self, watcher: Watcher) -> None:
        """Look at `watcher` from now on."""
        self._watchers[watcher] = _Due()
        thread = None
        if self._needs_thread():
            new, now = threading.Thread(target=self._serve, name=THREAD_NAME, daemon=True), self._clock()
            with self._lock:
                if self._needs_thread():
                    self._thread = thread = new
                    self._started_at = now
        if thread is not None:
            try:
                thread.start()
            except RuntimeError as error:  # no thread can be started, now or at the interpreter's exit
                logger.debug("nothing is watched: %s", error)
                self._thread = None
        else:
            self.wake()

    def _needs_thread(self) -> bool:
        """There is none, or it has not started: the thread that starts it is slow, or was interrupted."""
        with self._lock:
            return not self._stopping and (self._thread is None or self._thread.ident is None)

    def unwatch(self, watcher: Watcher) -> None:
        """Look at it no more. It may be looked at once more, by a look that has begun."""
        self._watchers.pop(watcher, None)
        if not self._watchers:  # the thread may leave
            self.wake()

    def wake(self) -> None:
        """Something has changed while the watchdog was parked."""
        if self._called_at is None:
            self._called_at = self._clock()
        try:
            self._gate.release()
        except RuntimeError:  # open already
            pass

    def runs_here(self) -> bool:
        """Is the calling thread the watchdog's?"""
        thread = self._thread
        return thread is not None and thread.ident == threading.get_ident()

    def stop(self) -> None:
        """At the interpreter's exit: end the thread."""
        self._stopping = True
        self.wake()
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(0.5)

    # -- in the watchdog's thread --------------------------------------------------------------------------------------

    def _serve(self) -> None:
        with self._lock:
            if self._thread is not threading.current_thread():
                return  # another one was started at the same time
        self._run()

    def _run(self) -> None:
        punctuality = Punctuality(self._started_at, self._clock)
        tick = punctuality.tick(self._started_at, sleeps=0)
        while not self._stopping:
            due = self.look(tick)
            if self._anybody_rests():
                self.parked = True
                due = self.look(punctuality.between(tick.now), resting=True)
            if not self._watchers:
                due = self._clock() + LINGER
            called_at = self._sleep(due)
            self.parked = False
            could = due if called_at is None else min(due, called_at)
            tick = punctuality.tick(could, called=called_at is not None)
            if not self._watchers and called_at is None and self._leave():
                return

    def _leave(self) -> bool:
        with self._lock:
            if self._watchers:
                return False
            self._thread = None
            return True

    def _sleep(self, due: float) -> float | None:
        """Wait until then, or until somebody calls; when that was, as far as it is known, else now."""
        if not self._gate.acquire(timeout=-1 if due == RESTING else max(0.0, due - self._clock())):
            return None
        called_at, self._called_at = self._called_at, None
        return self._clock() if called_at is None else called_at

    def look(self, tick: Tick, *, resting: bool = False) -> float:
        """Look at each watcher that is due or rests, or only at the `resting` ones; when the next is due."""
        for watcher, due in self._watchers.copy().items():
            if due.at == RESTING or (due.at <= tick.now and not resting):
                due.at = self._look_at(watcher, tick)
        return min((due.at for due in self._watchers.copy().values()), default=RESTING)

    def _look_at(self, watcher: Watcher, tick: Tick) -> float:
        try:
            wait = watcher.look(tick)
        except Exception as error:
            log_elsewhere(logger.name, logging.ERROR, f"{watcher!r} is watched no longer: looking at it failed", error)
            self.unwatch(watcher)
            return RESTING
        return RESTING if wait is None else tick.now + wait

    def _anybody_rests(self) -> bool:
        return any(due.at == RESTING for due in self._watchers.copy().values())

    def after_fork_in_child(self) -> None:
        self._start_afresh()


#: The one watchdog of this process.
watchdog: Watchdog = Watchdog()
atexit.register(watchdog.stop)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=watchdog.after_fork_in_child)

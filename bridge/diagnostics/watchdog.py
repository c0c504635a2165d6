"""The watchdog: one thread that looks at everything there is to watch, and that sleeps while there is nothing to see.

    watch(watcher) ──> thread ── look(tick) at each watcher ── wait until the first of them wants the next look ──┐
                         ^────────────────────────────────────────────────────────────────────────────────────────┘
    nobody wants one: parked = True ── look at each once more ── wait for wake()          wake(): parked? ──> gate opens

What is watched pays nothing while the watchdog is awake, and one look at `parked` where it wakes up itself.
Owners: `_watchers` changes under `_lock`. `parked` is written by the thread; whoever changes what a watcher would see
changes it first and reads `parked` then, the watchdog sets `parked` first and looks then: one sees the other. The gate is
a lock that is shut while nobody has called; opening it twice is harmless. If a watcher raises it is logged and dropped:
the program goes on without it. In a forked child there is no thread and nothing to watch.
"""

from __future__ import annotations

import atexit
import logging
import os
import threading
import time
from _thread import allocate_lock
from collections.abc import Callable
from typing import NamedTuple, Protocol

from bridge.diagnostics.clocks import times_slept

#: Seconds for which the thread stays when there is nothing to watch any more.
LINGER = 5.0
#: While a thread waits for the GIL, it wakes up about this often to ask for it (`sys.getswitchinterval`), in seconds.
_GIL_REQUEST = 0.005
_NEVER = float("inf")

THREAD_NAME = "bridge-watchdog"

logger: logging.Logger = logging.getLogger("bridge")


class Tick(NamedTuple):
    """One look. `now` as `time.monotonic`; `late` is how many seconds later than intended the watchdog came to it,
    `kept_out` how many of these it has spent waiting for the GIL, as far as the system tells (None: it does not)."""

    now: float
    late: float = 0.0
    kept_out: float | None = None


class Watcher(Protocol):
    """Something that is looked at, in the watchdog's thread; a look should take well under a millisecond."""

    def look(self, tick: Tick) -> float | None:
        """Look once; return the seconds until the next look, or None for "not before somebody calls `wake`"."""


class Watchdog:
    """One thread for all watchers. `clock` can be faked."""

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        #: True while the thread sleeps until it is woken.
        self.parked: bool = False
        self._clock = clock
        self._start_afresh()

    def _start_afresh(self) -> None:
        self.parked = False
        self._lock = threading.Lock()
        self._gate = allocate_lock()
        self._gate.acquire()
        self._watchers: dict[Watcher, float] = {}  # each with the time at which it wants to be looked at
        self._thread: threading.Thread | None = None
        self._stopping = False

    # -- from any thread -----------------------------------------------------------------------------------------------

    def watch(self, watcher: Watcher) -> None:
        """Look at `watcher` from now on."""
        with self._lock:
            self._watchers = {**self._watchers, watcher: 0.0}
            start = self._thread is None and not self._stopping
            if start:
                self._thread = threading.Thread(target=self._run, name=THREAD_NAME, daemon=True)
                thread = self._thread
        if start:
            try:
                thread.start()
            except RuntimeError as error:  # no thread can be started, now or at the interpreter's exit
                logger.debug("nothing is watched: %s", error)
                self._thread = None
        else:
            self.wake()

    def unwatch(self, watcher: Watcher) -> None:
        """Look at it no more. It may be looked at once more, by a look that has begun."""
        with self._lock:
            self._watchers = {each: when for each, when in self._watchers.items() if each is not watcher}

    def wake(self) -> None:
        """Something has changed while the watchdog was parked."""
        try:
            self._gate.release()
        except RuntimeError:  # open already
            pass

    def stop(self) -> None:
        """At the interpreter's exit: end the thread."""
        self._stopping = True
        self.wake()
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(0.5)

    # -- in the watchdog's thread --------------------------------------------------------------------------------------

    def _run(self) -> None:
        tick, everyone = Tick(self._clock()), True
        while not self._stopping:
            wait = self.look(tick, everyone)
            if wait is None:
                self.parked = True
                wait = self.look(Tick(self._clock()), everyone=True)
            if wait is None:
                lonely = not self._watchers
                if not self._gate.acquire(timeout=LINGER if lonely else -1) and self._leave():
                    return
                tick, everyone = Tick(self._clock()), True
                self.parked = False
            else:
                self.parked = False
                tick, everyone = self._sleep(wait)

    def _leave(self) -> bool:
        with self._lock:
            if self._watchers:
                return False
            self.parked = False
            self._thread = None
            return True

    def _sleep(self, seconds: float) -> tuple[Tick, bool]:
        """Wait; tell how late it became and why, and whether the wait was cut short because something has changed.

        A thread that waits for the GIL wakes up every few milliseconds to ask for it, of its own accord; one that is
        stopped, or that does not get a core, does not.
        """
        slept = times_slept()
        due = self._clock() + seconds
        if self._gate.acquire(timeout=max(0.0, seconds)):
            return Tick(self._clock()), True
        now = self._clock()
        late = max(0.0, now - due)
        asked = times_slept()
        if slept is None or asked is None:
            return Tick(now, late), False
        return Tick(now, late, min(late, max(0, asked - slept - 1) * _GIL_REQUEST)), False

    def look(self, tick: Tick, everyone: bool) -> float | None:
        """Look at each watcher whose time has come, or at all; the seconds until the next one's, None if none has any."""
        watchers = self._watchers
        soonest = _NEVER
        for watcher, when in list(watchers.items()):
            if everyone or when <= tick.now:
                watchers[watcher] = self._look_at(watcher, tick)
            soonest = min(soonest, watchers[watcher])
        return None if soonest == _NEVER else max(0.0, soonest - self._clock())

    def _look_at(self, watcher: Watcher, tick: Tick) -> float:
        try:
            wait = watcher.look(tick)
        except Exception:
            logger.exception("%r is watched no longer: looking at it failed", watcher)
            self.unwatch(watcher)
            return _NEVER
        return _NEVER if wait is None else tick.now + wait

    def after_fork_in_child(self) -> None:
        self._start_afresh()


#: The one watchdog of this process.
watchdog: Watchdog = Watchdog()
atexit.register(watchdog.stop)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=watchdog.after_fork_in_child)

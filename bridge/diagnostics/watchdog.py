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
has called; opening it twice is harmless. If a watcher raises it is logged and dropped: the program goes on without it.
In a forked child there is no thread and nothing to watch.
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
#: When a watcher is due that wants no look before somebody calls.
RESTING = float("inf")

THREAD_NAME = "bridge-watchdog"

logger: logging.Logger = logging.getLogger("bridge")


class Tick(NamedTuple):
    """One look. `now` as `time.monotonic`; `late` is how many seconds later than intended the watchdog came to it,
    `kept_out` how many of these it has spent waiting for the GIL, as far as the system tells (None: it does not). If it
    was `called` it is not known since when it could have come, and these are no more than upper limits."""

    now: float
    late: float = 0.0
    kept_out: float | None = None
    called: bool = False


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
        self._stopping = False
        self.generation += 1

    # -- from any thread -----------------------------------------------------------------------------------------------

    def watch(self, watcher: Watcher) -> None:
        """Look at `watcher` from now on."""
        self._watchers[watcher] = _Due()
        thread = None
        with self._lock:
            needed = self._thread is None
        if needed:  # made outside: between the second look and the store there is nothing that could be interrupted
            new, now = threading.Thread(target=self._run, name=THREAD_NAME, daemon=True), self._clock()
            with self._lock:
                if self._thread is None and not self._stopping:
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

    def unwatch(self, watcher: Watcher) -> None:
        """Look at it no more. It may be looked at once more, by a look that has begun."""
        self._watchers.pop(watcher, None)
        if not self._watchers:  # the thread may leave
            self.wake()

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
        tick = self._first_tick()
        while not self._stopping:
            wait = self.look(tick)
            if self._anybody_rests():
                self.parked = True
                wait = self.look(Tick(self._clock()), resting=True)
            if not self._watchers:
                wait = LINGER
            tick, called = self._sleep(wait)
            self.parked = False
            if not self._watchers and not called and self._leave():
                return

    def _first_tick(self) -> Tick:
        """A thread that has just begun has slept for nothing but the GIL."""
        now = self._clock()
        late = max(0.0, now - self._started_at)
        slept = times_slept()
        return Tick(now, late, None if slept is None else min(late, slept * _GIL_REQUEST))

    def _leave(self) -> bool:
        with self._lock:
            if self._watchers:
                return False
            self._thread = None
            return True

    def _sleep(self, seconds: float | None) -> tuple[Tick, bool]:
        """Wait; tell how late it became and why, and whether somebody called meanwhile.

        A thread that waits for the GIL wakes up every few milliseconds to ask for it, of its own accord; one that is
        stopped, or that does not get a core, does not.
        """
        slept = times_slept()
        due = self._clock() + (seconds or 0.0)
        called = self._gate.acquire(timeout=-1 if seconds is None else max(0.0, seconds))
        now = self._clock()
        woken = times_slept()
        asking = None if slept is None or woken is None else max(0, woken - slept - 1) * _GIL_REQUEST
        if called:  # when that was is not known
            return Tick(now, asking or 0.0, asking, called=True), True
        late = max(0.0, now - due)
        return Tick(now, late, None if asking is None else min(late, asking)), False

    def look(self, tick: Tick, *, resting: bool = False) -> float | None:
        """Look at each watcher that is due or rests, or only at the `resting` ones; the seconds until the next is due."""
        for watcher, due in self._watchers.copy().items():
            if due.at == RESTING or (due.at <= tick.now and not resting):
                due.at = self._look_at(watcher, tick)
        return self._until_next()

    def _look_at(self, watcher: Watcher, tick: Tick) -> float:
        try:
            wait = watcher.look(tick)
        except Exception:
            logger.exception("%r is watched no longer: looking at it failed", watcher)
            self.unwatch(watcher)
            return RESTING
        return RESTING if wait is None else tick.now + wait

    def _anybody_rests(self) -> bool:
        return any(due.at == RESTING for due in self._watchers.copy().values())

    def _until_next(self) -> float | None:
        """Seconds until somebody is due; None if nobody is, before a call."""
        soonest = min((due.at for due in self._watchers.copy().values()), default=RESTING)
        return None if soonest == RESTING else max(0.0, soonest - self._clock())

    def after_fork_in_child(self) -> None:
        self._start_afresh()


#: The one watchdog of this process.
watchdog: Watchdog = Watchdog()
atexit.register(watchdog.stop)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=watchdog.after_fork_in_child)

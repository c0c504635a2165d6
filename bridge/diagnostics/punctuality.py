"""How late the watchdog comes to each look, and why: the evidence that the process stood still, or that somebody held the
GIL.

    look ── works: CPU time of its own ── sleeps until the next is due ── asks for the GIL ── next look
                 ^ stopped here, or there ^                             ^ or there

Between two looks all of the time is accounted for: what the watchdog has worked or was to sleep is no lateness; for what
it has asked for the GIL it was kept out; for the rest it did not run: the process was stopped, or there was no core. In
and out: the watchdog's thread.
"""

from __future__ import annotations

from collections.abc import Callable
from time import thread_time
from typing import NamedTuple

from bridge.diagnostics.clocks import times_slept

#: While a thread waits for the GIL, it wakes up about this often to ask for it (`sys.getswitchinterval`), in seconds.
_GIL_REQUEST = 0.005


class Tick(NamedTuple):
    """One look. `now` as `time.monotonic`; `late` is how many seconds later than it could the watchdog came to it,
    `kept_out` how many of these it has spent waiting for the GIL, as far as the system tells (None: it does not). If
    somebody `called`, it could have come since then."""

    now: float
    late: float = 0.0
    kept_out: float | None = None
    called: bool = False


class Punctuality:
    """Of the calling thread, which was started then (as `clock`, which can be faked)."""

    def __init__(self, started_at: float, clock: Callable[[], float]):
        self._clock = clock
        self._last = started_at
        self._worked = 0.0
        self._slept: int | None = 0

    def tick(self, due: float, *, sleeps: int = 1, called: bool = False) -> Tick:
        """The look that begins now, was `due` then (as `clock`), and before which the thread has slept so many times
        because it wanted to.

        A thread that waits for the GIL wakes up every few milliseconds to ask for it, of its own accord; one that is
        stopped, or that does not get a core, does not.
        """
        now, worked, slept = self._clock(), thread_time(), times_slept()
        late = max(0.0, now - max(due, self._last + worked - self._worked))
        kept_out = None
        if slept is not None and self._slept is not None:
            kept_out = min(late, max(0, slept - self._slept - sleeps) * _GIL_REQUEST)
        self._last, self._worked, self._slept = now, worked, slept
        return Tick(now, late, kept_out, called)

    def between(self, due: float) -> Tick:
        """As `tick`, for a look in between, after no sleep; the next tick tells of this time as well."""
        last = self._last, self._worked, self._slept
        tick = self.tick(due, sleeps=0)
        self._last, self._worked, self._slept = last
        return tick

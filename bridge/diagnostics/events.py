"""The one stream of events: each is logged as one message, once a minute for each place, and handed to every listener.

In: `Event`s, from any thread, from finalizers, and from the watchdog. Out: log records, and calls of listeners in the
thread that noticed. Owners: `_lock` guards the table of what was logged when; it is reentrant, because a finalizer may
emit while its thread is emitting. No listener and no logging handler is called with the lock held.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Self

from bridge.diagnostics.catalogue import CATALOGUE
from bridge.diagnostics.places import Place

#: Seconds in which one place is logged once for one code.
WINDOW = 60.0
#: Places that are remembered; the oldest goes first.
_MOST_PLACES = 1024

logger: logging.Logger = logging.getLogger("bridge")

AttributeValue = str | int | float | bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something that bridge has noticed.

    `code` is one of docs/diagnostics.md, `headline` the sentence that says it all, without the code; `details` are
    further lines (cause, task, stacks), `advice` what to write instead. `place` is the line of the program to look at.
    `attributes` are for metrics: durations in seconds, names dotted as OpenTelemetry has them. `time` is Unix time.
    `repeats` counts the events of the same code and place that were not logged since the last one that was.
    """

    code: str
    headline: str
    details: tuple[str, ...] = ()
    advice: str = ""
    place: Place | None = None
    attributes: Mapping[str, AttributeValue] = field(default_factory=dict)
    exception: BaseException | None = None
    repeats: int = 0
    time: float = field(default_factory=time.time)

    @property
    def name(self) -> str:
        """The event's name for OpenTelemetry, such as `bridge.loop.blocked`."""
        return CATALOGUE[self.code].name

    @property
    def level(self) -> int:
        """One of logging's levels."""
        return CATALOGUE[self.code].level

    @property
    def title(self) -> str:
        """The first line of the message."""
        more = f" (and {self.repeats} more times since it was last logged)" if self.repeats else ""
        return f"{self.code} {self.headline}{more}"

    @property
    def message(self) -> str:
        """The message as it is logged: the headline, then the details and the advice, indented."""
        advice = [f"write: {self.advice}"] if self.advice else []
        lines = [line for part in (*advice, *self.details) for line in part.splitlines()]
        return "\n".join([self.title, *(f"  {line}" for line in lines)])


class Subscription:
    """What `on_event` returns: `close()` it, or leave it as a context manager, to hear no more."""

    def __init__(self, close: Callable[[], None]):
        self._close = close

    def close(self) -> None:
        """Stop listening. Harmless to repeat."""
        self._close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


class _Logged:
    """When a code was last logged for one place, and what was held back since."""

    __slots__ = ("at", "held_back", "weight")

    def __init__(self, at: float, weight: float):
        self.at = at
        self.weight = weight
        self.held_back = 0


class Stream:
    """Where events come together. `clock` is in seconds and can be faked."""

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        self._clock = clock
        self._lock = threading.RLock()
        self._listeners: tuple[Callable[[Event], object], ...] = ()
        self._logged: dict[tuple[str, object], _Logged] = {}

    def on_event(self, callback: Callable[[Event], object]) -> Subscription:
        """Have `callback(event)` called for every event, logged or not, in the thread that noticed it."""
        if not callable(callback):
            raise TypeError(f"on_event needs a function that takes the event, not {callback!r}")

        def listener(event: Event) -> object:  # of its own, so that a callback may be given twice
            return callback(event)

        def close() -> None:
            with self._lock:
                self._listeners = tuple(each for each in self._listeners if each is not listener)

        with self._lock:
            self._listeners += (listener,)
        return Subscription(close)

    def emit(
        self, event: Event, *, weight: float = 0.0, every_time: bool = False, log: bool = True, traceback: bool = True
    ) -> bool:
        """Log `event` and hand it to the listeners; from any thread, never raises. True if it was logged.

        A place that was logged for the same code within WINDOW is not logged again, unless it weighs more than before
        or `every_time` is set. With `log` False only the listeners are told; with `traceback` False the log goes without
        the traceback of the event's exception, because that has been logged already.
        """
        try:
            repeats = self._admit(event, weight, every_time) if log else None
            if repeats is not None:
                event = replace(event, repeats=repeats)
            try:
                if repeats is not None:
                    _log(event, traceback)
            finally:
                for listener in self._listeners:
                    _tell(listener, event)
        except Exception:  # a diagnostic must not become the program's trouble
            with suppress(Exception):
                logger.debug("an event could not be reported", exc_info=True)
            return False
        return repeats is not None

    def _admit(self, event: Event, weight: float, every_time: bool) -> int | None:
        """How many were held back, if this one is to be logged; None, and it counts as held back, if not."""
        key = event.code, event.place or event.headline
        now = self._clock()
        with self._lock:
            last = self._logged.get(key)
            recent = last is not None and now - last.at < WINDOW
            if last is not None and recent and weight <= last.weight and not every_time:
                last.held_back += weight == 0  # what merely goes on is counted once
                return None
            held_back = last.held_back if last is not None else 0
            self._logged.pop(key, None)  # so that the newest is the last
            self._logged[key] = _Logged(now, weight)
            while len(self._logged) > _MOST_PLACES:
                del self._logged[next(iter(self._logged))]
        return held_back

    def forget(self) -> None:
        """Log every place anew."""
        with self._lock:
            self._logged.clear()

    def after_fork_in_child(self) -> None:
        self._lock = threading.RLock()


def _log(event: Event, traceback: bool) -> None:
    own = CATALOGUE[event.code].logger
    if own.isEnabledFor(event.level):
        # Already formatted: the text of a message is never a format string.
        exception = event.exception if traceback else None
        own.log(event.level, "%s", event.message, exc_info=exception, extra={"bridge_event": event})


def _tell(listener: Callable[[Event], object], event: Event) -> None:
    try:
        listener(event)
    except Exception:
        logger.exception("an on_event callback raised; the event was %s", event.title)


#: The one stream of this process.
stream: Stream = Stream()


def on_event(callback: Callable[[Event], object]) -> Subscription:
    """Have `callback(event)` called for every `Event`, whether it is logged or held back as a repeat.

    It is called in the thread that noticed: the loop's, a worker's, or the watchdog's. It should be quick, and must not
    wait for a loop; what it raises is logged. Close what is returned, or use it in a `with` block, to hear no more.
    """
    return stream.on_event(callback)


def emit(
    event: Event, *, weight: float = 0.0, every_time: bool = False, log: bool = True, traceback: bool = True
) -> bool:
    """As `Stream.emit`, on the one stream of this process."""
    return stream.emit(event, weight=weight, every_time=every_time, log=log, traceback=traceback)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=stream.after_fork_in_child)

"""The one stream of events: each is handed to every listener, and logged as one message, once a minute for each place.

    emit, in any thread ──> each listener's thread ── has heard of it ──> the logging thread ──> handlers
            '── waits for them, a little; the watchdog does not

In: `Event`s, from any thread, from finalizers, and from the watchdog. Out: calls of listeners and log records, none of
them in the thread that emits (`delivery` says why). Owners: `_lock` guards the table of what was logged when; it is
reentrant, because a finalizer may emit while its thread is emitting.

A listener or a log handler that does not return is reported as well (BRG303), by a `StuckWatch`, which the watchdog looks
at from when somebody's wait for it was in vain until it has returned.
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

from bridge.callables import as_kind, async_kind, qualname_of, shown
from bridge.diagnostics.catalogue import CATALOGUE
from bridge.diagnostics.delivery import (
    PATIENCE,
    Busy,
    Delivery,
    DeliveryThread,
    log_elsewhere,
    logging_thread,
    record_of,
    to_stderr,
)
from bridge.diagnostics.places import Place, where
from bridge.diagnostics.punctuality import Tick
from bridge.diagnostics.stacks import stack_of_thread
from bridge.diagnostics.watchdog import watchdog

#: Seconds in which one place is logged once for one code.
WINDOW = 60.0
#: Places that are remembered; the oldest goes first.
_MOST_PLACES = 1024
#: Seconds after which a listener or a log handler should have returned.
STUCK = 5.0
#: Seconds between looks at one that has not.
_LOOK = 0.5
#: Messages that are shown of those that wait for it.
_MOST_TITLES = 10

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
    """What `on_event` returns: `close()` it, or leave it as a context manager, to end the calls."""

    def __init__(self, close: Callable[[], None]):
        self._close = close

    def close(self) -> None:
        """Wait for the calls that are due, half a second at most; none begins after that. Harmless to repeat."""
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
        self._listeners: tuple[_Listener, ...] = ()
        self._direct: tuple[Callable[[Event], object], ...] = ()
        self._logged: dict[tuple[str, object], _Logged] = {}

    def on_event(self, callback: Callable[[Event], object]) -> Subscription:
        """Have `callback(event)` called for every event, logged or not, in a thread of its own, one after the other."""
        if not callable(callback):
            raise TypeError(f"on_event needs a function that takes the event, not {shown(callback)}")
        kind = async_kind(callback)
        if kind is not None:
            raise TypeError(
                f"{as_kind(callback, kind)}: on_event calls it in a thread, and awaits nothing. Write a plain function, "
                f"which hands the event on with portal.call_soon_threadsafe(...)."
            )
        listener = _Listener(callback)

        def close() -> None:
            with self._lock:
                self._listeners = tuple(each for each in self._listeners if each is not listener)
            listener.thread.end()

        with self._lock:
            self._listeners += (listener,)
        return Subscription(close)

    def on_event_directly(self, callback: Callable[[Event], object]) -> Subscription:
        """As `on_event`, in the thread that emits: for what is bridge's own and returns at once."""

        def direct(event: Event) -> object:  # of its own, so that a callback may be given twice
            return callback(event)

        def close() -> None:
            with self._lock:
                self._direct = tuple(each for each in self._direct if each is not direct)

        with self._lock:
            self._direct += (direct,)
        return Subscription(close)

    def emit(
        self, event: Event, *, weight: float = 0.0, every_time: bool = False, log: bool = True, traceback: bool = True
    ) -> bool:
        """Hand `event` to the listeners and log it; from any thread, never raises. True if it is logged.

        It returns when the listeners and the log handlers have returned, or after a while if they do not. A place that
        was logged for the same code within WINDOW is not logged again, unless it weighs more than before or `every_time`
        is set. With `log` False only listeners get the event; with `traceback` False the log goes without the traceback
        of the event's exception, because that has been logged already.
        """
        try:
            repeats = self._admit(event, weight, every_time) if log else None
            if repeats is not None:
                event = replace(event, repeats=repeats)
            for direct in self._direct:
                direct(event)
            told: list[tuple[StuckWatch, Delivery]] = [(each, each.thread.put(event)) for each in self._listeners]
            if repeats is not None:
                after = [(each.thread, delivery) for each, delivery in told if not each.thread.runs_here()]
                record = record_of(
                    CATALOGUE[event.code].logger_name,
                    event.level,
                    event.message,
                    event.exception if traceback else None,
                    after,
                    bridge_event=event,
                )
                told.append((_logging, logging_thread.put(record)))
            patience = PATIENCE if not watchdog.runs_here() else 0.0
            for deliverer, delivery in told:
                if not deliverer.thread.wait(delivery, patience):
                    watchdog.watch(deliverer)
        except Exception as error:  # a diagnostic must not become the program's trouble
            with suppress(Exception):
                log_elsewhere("bridge", logging.DEBUG, "an event could not be reported", error)
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


class StuckWatch:
    """Looks at a delivery thread that somebody has waited for in vain, until it has returned: BRG303.

    `what` is stuck then; `advice` is what to write so that it is not.
    """

    def __init__(self, what: str, advice: str):
        self.thread: DeliveryThread
        self._what = what
        self._advice = advice
        self._number = 0
        self._mark = 0  # reported for STUCK * 2**(mark-1)
        self._stopped = 0.0  # seconds for which the whole process was stopped since then

    def look(self, tick: Tick) -> float | None:
        """As `Watcher.look`."""
        busy = self.thread.busy
        if not self.thread.undelivered():
            watchdog.unwatch(self)
            if self.thread.undelivered():  # since we looked
                watchdog.watch(self)
            return None
        if busy is not None:
            if busy.number != self._number:
                self._number, self._mark, self._stopped = busy.number, 0, 0.0
            else:
                self._stopped += tick.late - (tick.kept_out or 0.0)
            waited = tick.now - busy.since - self._stopped
            if waited >= STUCK * 2**self._mark:
                while waited >= STUCK * 2**self._mark:
                    self._mark += 1
                self.report(busy, waited)
        return _LOOK

    def report(self, busy: Busy, waited: float) -> None:
        """It has not returned for so many seconds."""
        emit(self.event(busy, waited), weight=self._mark)

    def event(self, busy: Busy, waited: float, *details: str) -> Event:
        """What is reported of it."""
        stack = stack_of_thread(self.thread.ident)
        place = None if stack is None else stack.place
        return Event(
            code="BRG303",
            headline=f"{self._what} has not returned for {waited:.1f} s{where(place, 'at')}",
            details=(*details, *(() if stack is None else ("stack, innermost first:", *stack.indented()))),
            advice=self._advice,
            place=place,
            attributes={"bridge.duration": waited, "thread.name": self.thread.name},
        )


class _Listener(StuckWatch):
    """One callback and its thread."""

    def __init__(self, callback: Callable[[Event], object]):
        name = qualname_of(callback).rpartition("<locals>.")[2]
        super().__init__(
            f"the on_event callback {name}",
            "a queue.SimpleQueue: put the event in, in the callback, and have another thread wait for what it takes",
        )
        self._name = name
        self._raised = False
        self.thread = DeliveryThread("listener", callback, failed=self._failed)

    def _failed(self, error: BaseException) -> None:
        """Once: it will raise the next time, too."""
        if not self._raised:
            self._raised = True
            text = f"the on_event callback {self._name} raised; this is not said again"
            log_elsewhere("bridge", logging.ERROR, text, error)


class _LoggingWatch(StuckWatch):
    """The log handlers. While one of them is stuck nothing can be logged; so it is said on standard error, too."""

    def __init__(self) -> None:
        super().__init__(
            "a log handler",
            "logging.handlers.QueueHandler(queue) instead of the handler, which a QueueListener calls in its own thread",
        )
        self.thread = logging_thread

    def report(self, busy: Busy, waited: float) -> None:
        titles = [f"  {made.record.getMessage().splitlines()[0]}" for made in self.thread.undelivered()]
        if len(titles) > _MOST_TITLES:
            titles[_MOST_TITLES:] = [f"  and {len(titles) + self.thread.lost - _MOST_TITLES} more"]
        event = self.event(busy, waited, "what cannot be logged:", *titles)
        emit(event, weight=self._mark)
        to_stderr(event.message)


#: The one stream of this process.
stream: Stream = Stream()
_logging: _LoggingWatch = _LoggingWatch()


def on_event(callback: Callable[[Event], object]) -> Subscription:
    """Have `callback(event)` called for every `Event`, whether it is logged or held back as a repeat.

    It is called in a thread that serves this callback alone, for one event after the other, before the event is logged,
    with the contextvars of the thread that noticed it. That thread waits for it, half a second at most; so it should be
    quick. What it raises first is logged; if it does not return, that is reported (BRG303), and nothing else stands
    still. Close what is returned, or use it in a `with` block, to end it.
    """
    return stream.on_event(callback)


def emit(
    event: Event, *, weight: float = 0.0, every_time: bool = False, log: bool = True, traceback: bool = True
) -> bool:
    """As `Stream.emit`, on the one stream of this process."""
    return stream.emit(event, weight=weight, every_time=every_time, log=log, traceback=traceback)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=stream.after_fork_in_child)

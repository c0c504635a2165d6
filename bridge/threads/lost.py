"""Exceptions that nobody has looked at (BRG202), and the concurrent futures that notice when they lose one.

    set_exception ── nobody listens yet ──> a Loss is tied to the future ── result, exception or a callback ──> untied
    the future goes away with its Loss ──> BRG202

Owners: the thread that sets the exception makes the Loss before it wakes anybody, so that whoever asks then finds it.
Where there is no exception there is no Loss, and nothing to pay for. A Loss speaks from a finalizer, in any thread.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import CancelledError, Future, InvalidStateError
from typing import TYPE_CHECKING, Any

from bridge.diagnostics.events import AttributeValue, Event, emit
from bridge.diagnostics.places import Place, Site, place_of, where
from bridge.diagnostics.stacks import Stack
from bridge.diagnostics.switch import wanted
from bridge.errors import ExecutorClosed, LoopClosed
from bridge.threads.job import name_of
from bridge.threads.safe_future import SafeFuture
from bridge.threads.trail import Step, described

if TYPE_CHECKING:
    from types import TracebackType

    from bridge.threads.host import Host

#: What is set on futures because somebody left, or closed what would have answered them.
_FAREWELLS = (CancelledError, LoopClosed, ExecutorClosed)


def lost(
    error: BaseException,
    who: str,
    made: str,
    place: Place | None,
    last: Step | None,
    advice: str,
    attributes: Mapping[str, AttributeValue],
) -> Event:
    """The event: `error` was raised by `who`, which was `made` ("created", "sent") at `place`, after `last`.

    Where the place is not known, that is where it was raised, if it was.
    """
    raised = _raised_at(error.__traceback__)
    details = [f"raised at {raised.with_source}"] if raised is not None and place is not None else []
    if place is None:
        place, made = raised, "raised"
    kind = type(error).__qualname__
    text = str(error).partition("\n")[0]
    return Event(
        code="BRG202",
        headline=f"an exception went unnoticed: {f'{kind}: {text}' if text else kind}, {who}{where(place, f'{made} at')}",
        details=(*details, *described(last)),
        advice=advice,
        place=place,
        attributes={**attributes, "exception.type": kind, "exception.message": str(error)},
        exception=error,
    )


def _raised_at(traceback: TracebackType | None) -> Place | None:
    sites: list[Site] = []
    while traceback is not None:
        sites.append((traceback.tb_frame.f_code, traceback.tb_lasti))
        traceback = traceback.tb_next
    return Stack(tuple(reversed(sites))).place


class Loss:
    """Goes away together with a future, and tells of its exception then, unless it was untied before."""

    __slots__ = ("advice", "armed", "error", "fn", "last", "site")

    def __init__(self, error: BaseException, fn: object, advice: str, site: Site, last: Step | None):
        self.error: BaseException = error
        self.fn: object = fn
        self.advice: str = advice
        self.site: Site = site
        self.last: Step | None = last
        self.armed: bool = True

    def __del__(self) -> None:
        if not self.armed:
            return
        try:
            name = self.fn if isinstance(self.fn, str) else name_of(self.fn)
            emit(lost(self.error, f"in {name}()", "sent", place_of(self.site), self.last, self.advice, {}))
        except Exception:  # at the interpreter's exit, when there is nothing left to tell it with
            return


class AttendedFuture(SafeFuture):
    """A concurrent Future that tells if it goes away with an exception that nobody has asked for."""

    _attended: bool = False
    _sent: tuple[object, str, Site, Step | None] | None = None
    _loss: Loss | None = None

    def tell_if_lost(self, fn: object, advice: str, site: Site | None, last: Step | None) -> None:
        """Until this was called, nothing is told. `fn` runs (or what has this name), sent off at `site`, where `last` had
        led; `advice` is what to write so that the exception is seen."""
        if site is not None:
            self._sent = fn, advice, site, last

    def tell_nothing(self) -> None:
        """Whatever its exception will be has been reported already."""
        self._sent = None

    def add_done_callback(self, fn: Callable[[Future[Any]], object]) -> None:
        """As `Future.add_done_callback`."""
        self._attended = True
        self._untie()
        super().add_done_callback(fn)

    def set_exception(self, exception: BaseException | None) -> None:
        """As `Future.set_exception`."""
        sent = self._sent
        if sent is not None and exception is not None and not self._attended and not isinstance(exception, _FAREWELLS):
            self._loss = Loss(exception, *sent)
        try:
            super().set_exception(exception)
        except InvalidStateError:
            self._untie()
            raise

    def result(self, timeout: float | None = None) -> Any:
        """As `Future.result`; `timeout` in seconds."""
        try:
            return super().result(timeout)
        finally:
            self._untie()

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """As `Future.exception`; `timeout` in seconds."""
        try:
            return super().exception(timeout)
        finally:
            self._untie()

    def _untie(self) -> None:
        loss = self._loss
        if loss is not None:
            loss.armed = False
            self._loss = None


def is_told(host: Host | None) -> bool:
    """Are losses told of what was sent by, or to, this loop?"""
    watched: bool | None = getattr(getattr(host, "loop", None), "is_watched", None)
    return wanted(watched)

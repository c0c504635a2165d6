"""BRG302: waits that cannot end, with both ends. What bridge itself is asked to do is refused; other circles are found.

    refuse_blocking, standing_still, refuse_own_worker ──> tell_refused ──> the caller raises
    wait_graph.find_deadlock ──> Deadlock ──> tell: the event
                                         ──> answer: WouldDeadlock for one wait that bridge can answer

In: threads and loops, by name. Out: events; and, for a circle, one answer, by which everybody in it can go on. A circle
of waits that are not bridge's own can only be reported. `tell` is called in the watchdog's thread, `answer` in one of its
own, since callbacks of the program may follow; it is given as by whoever notices the end of a loop (`Call.refuse`), so it
counts only if nobody was quicker.
"""

from __future__ import annotations

import ast
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import InvalidStateError
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple

from bridge.callables import last_name
from bridge.diagnostics.advice import called_at, offloaded
from bridge.diagnostics.events import AttributeValue, Event, emit
from bridge.diagnostics.stacks import Stack, capture, stack_of_thread
from bridge.diagnostics.switch import wanted
from bridge.errors import WouldDeadlock

if TYPE_CHECKING:
    from bridge.threads.calls import Call
    from bridge.threads.future_job import FutureJob
    from bridge.threads.host import Host

#: Longer lines of advice are of no use.
_LONGEST = 100


def thread_of(host: Host) -> int | None:
    """The thread that runs a host's loop, or that ran it when bridge first met it; None if it does not run."""
    loop = host.loop
    if host.trouble() is not None:
        return None
    ident: int | None = getattr(loop, "_thread_id", None)
    return host.made_in if ident is None else ident


# -- refused -------------------------------------------------------------------------------------------------------------


def tell_refused(
    headline: str,
    waits: int | None,
    answers: int | None,
    advice: str,
    attributes: dict[str, AttributeValue] | None = None,
) -> None:
    """Say that thread `waits` was not allowed to wait for what thread `answers` would have to do (idents)."""
    if not wanted():
        return
    ours = stack_of_thread(waits) or Stack(())
    details = [f"thread {name_of_thread(waits)!r}, which would wait:", *ours.indented()]
    if answers is not None and answers != waits:
        theirs = stack_of_thread(answers) or Stack(())
        details += [f"thread {name_of_thread(answers)!r}, which would have to answer:", *theirs.indented()]
    elif answers is not None:
        details.append("the very same thread would have to answer")
    event = Event(
        code="BRG302",
        headline=headline,
        details=tuple(details),
        advice=advice,
        place=ours.place,
        attributes={"thread.name": name_of_thread(waits), "bridge.refused": True, **(attributes or {})},
    )
    emit(event)


def instead_of_call(instead: str) -> str:
    """`await fn(arguments)` for the `portal.call(fn, arguments)` that the calling thread executes; else `instead`."""
    site = capture(sys._getframe(1)).blamed
    call = None if site is None else called_at(site)
    if call is None or not call.args or not (isinstance(call.func, ast.Attribute) and call.func.attr == "call"):
        return instead
    fn, *arguments = (ast.unparse(each) for each in (*call.args, *call.keywords))
    line = f"{'await ' * instead.startswith('await ')}{fn}({', '.join(arguments)})"
    return line if len(line) <= _LONGEST else instead


# -- circles -------------------------------------------------------------------------------------------------------------


class Participant(NamedTuple):
    """One thread of a circle. `what` it waits for; `answer` is what bridge can answer in another's stead."""

    ident: int
    what: str
    stack: Stack
    timed: bool
    answer: Call | FutureJob | None
    coroutine: Any


class Deadlock:
    """Threads none of which can go on before another one has. The first is the one that was asked about."""

    def __init__(self, participants: Sequence[Participant]):
        self.participants: tuple[Participant, ...] = tuple(participants)

    def __repr__(self) -> str:
        return f"<Deadlock of {', '.join(name_of_thread(each.ident) for each in self.participants)}>"

    @property
    def event(self) -> Event:
        """What is reported: every thread, what it waits for, and its stack."""
        first = self.participants[0]
        name = name_of_thread(first.ident)
        if len(self.participants) == 1:
            until = " until its time is up" if first.timed else ""
            headline = f"thread {name!r} waits for itself{until}: for {first.what}, which only it can run"
        else:
            others = ", ".join(repr(name_of_thread(each.ident)) for each in self.participants[1:])
            headline = f"thread {name!r} and {others} wait for one another, and none can go on"
        details: list[str] = []
        for each in self.participants:
            details += [f"thread {name_of_thread(each.ident)!r} waits for {each.what}:", *each.stack.indented()]
        return Event(
            code="BRG302",
            headline=headline,
            details=tuple(details),
            advice=_advice(first),
            place=first.stack.place,
            attributes={"thread.name": name, "bridge.threads": len(self.participants), "bridge.refused": False},
        )

    def tell(self) -> None:
        """Report it."""
        emit(self.event)

    def answer(self) -> bool:
        """Answer one wait with WouldDeadlock, if one is bridge's own: True, and everybody can go on."""
        event = self.event
        answers = [each.answer for each in self.participants if each.answer is not None and not each.timed]
        if not answers:
            return False
        # Last the blocked loop's own: the others' functions can deal with the error, and then it gets its result.
        chosen = answers[-1]
        error = WouldDeadlock(f"{event.headline}. Write: {event.advice or 'an await instead of a blocking call'}")
        refuse = getattr(chosen, "refuse", None)
        if refuse is not None:
            refuse(error)
        else:
            _fail(chosen, error)
        return True


def _fail(job: Any, error: WouldDeadlock) -> None:
    """Answer a job's future while its function waits, or before it begins, which it never will then."""
    future = getattr(job, "future", None)
    if future is not None:
        with suppress(InvalidStateError):
            future._withdraw_from(job)
            future.set_exception(error)


def _advice(blocked: Participant) -> str:
    site = blocked.stack.blamed
    if site is None:
        return ""
    call = called_at(site)
    if call is not None and isinstance(call.func, ast.Attribute) and call.func.attr in ("result", "exception"):
        line = f"await {_awaited(call.func.value)}"
        if len(line) <= _LONGEST:
            return line
    if blocked.coroutine is not None:
        return f"await {last_name(blocked.coroutine)}(...)"
    return offloaded(site, "thread") or ""


def _awaited(future: ast.expr) -> str:
    """What to await in the place of a future's result: the coroutine it was made of, if the line shows it."""
    made_of = ast.unparse(future.func) if isinstance(future, ast.Call) else ""
    if isinstance(future, ast.Call) and made_of == "asyncio.run_coroutine_threadsafe" and len(future.args) == 2:
        return ast.unparse(future.args[0])
    return f"asyncio.wrap_future({ast.unparse(future)})"


def name_of_thread(ident: int | None) -> str:
    """The name of a thread; "?" if it is none of the threading module's."""
    return next((thread.name for thread in threading.enumerate() if thread.ident == ident), "?")

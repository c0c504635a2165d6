"""BRG403: a worker process died, and nobody had asked it to. One event for each process, whatever becomes of its calls.

In: a worker that has just been buried, on the home's thread, under the crew's turn. Out: events, emitted after the turn,
because listeners and log handlers are code of users. What bridge ends itself (a timeout, a cancellation, a retirement,
the end of the executor) is no news; that a worker had to be ended for its memory is.
"""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import CancelledError
from functools import partial

from bridge.diagnostics.events import AttributeValue, Event, emit
from bridge.diagnostics.places import place_of
from bridge.diagnostics.switch import wanted
from bridge.executors.process import obituary
from bridge.executors.process.member import Member
from bridge.threads.job import Job, name_of
from bridge.threads.site import site_of


def tell(
    member: Member, code: int | None, phase: str, casualty: Job | None, ran_for: float, not_begun: Iterable[Job]
) -> None:
    """Say that `member` died: the call that it had begun, if it had, fails; those `not_begun` go to another worker."""
    for_memory = member.condemned is not None and member.verdict is not CancelledError
    if (member.retiring and not for_memory) or (member.condemned is not None and not for_memory) or not wanted():
        return
    crew = member.crew
    if for_memory and casualty is not None:
        headline = (
            f"worker process {member.pid} of {crew.name!r} was ended because {name_of(casualty.named)} took more memory "
            f"than it may: {obituary.in_bytes(member.most_memory)}, with memory_limit={crew.options.memory_limit}"
        )
        details = []
    else:
        name = name_of(casualty.named) if casualty is not None else "the next call"
        headline = obituary.how_it_died(name, member.pid, code, crew.name, phase=phase, ran_for=ran_for)
        details = [f"probable cause: {obituary.cause(code, phase)}"]
        if member.most_memory:
            details.append(f"memory: {obituary.in_bytes(member.most_memory)} at the most, as far as was seen")
    details += _bystanders(member, list(not_begun))
    site = None if casualty is None else site_of(casualty)
    event = Event(
        code="BRG403",
        headline=headline,
        details=tuple(details),
        advice=_advice(code, for_memory),
        place=None if site is None else place_of(site),
        attributes=_attributes(member, code, casualty),
    )
    crew.todo.append(partial(emit, event))


def tell_setup_failed(member: Member, how: str) -> None:
    """Say that a worker could not be made ready."""
    if not wanted():
        return
    event = Event(
        code="BRG403",
        headline=how,
        details=("calls that wait for a worker fail; the next call starts one anew",),
        attributes={"bridge.executor.name": member.crew.name, "process.pid": member.pid},
    )
    member.crew.todo.append(partial(emit, event))


def _bystanders(member: Member, not_begun: list[Job]) -> list[str]:
    """What becomes of the other calls."""
    lines = []
    others = sum(len(other.in_flight) for other in member.crew.roster.members)
    if others:
        lines.append(f"{_calls(others)} in other workers of it, and {'goes' if others == 1 else 'go'} on")
    if not_begun:
        lines.append(f"{_calls(len(not_begun))} given to it, and had not begun: another worker takes over")
    return lines


def _calls(count: int) -> str:
    return "1 call is" if count == 1 else f"{count} calls are"


def _advice(code: int | None, for_memory: bool) -> str:
    if for_memory:
        return "bridge.ProcessExecutor(memory_limit=...) with a higher limit, or less for one call to do"
    number = obituary.signal_of(code)
    name = "" if number is None else obituary.signal_name(number)
    if name in ("SIGSEGV", "SIGBUS", "SIGABRT", "SIGFPE", "SIGILL"):
        return "bridge.ProcessExecutor(initializer=faulthandler.enable), which prints the line that crashed"
    if name == "SIGKILL" and obituary.out_of_memory.strikes():
        return "bridge.ProcessExecutor(memory_limit=...), which ends a function before the system has to"
    return ""


def _attributes(member: Member, code: int | None, casualty: Job | None) -> dict[str, AttributeValue]:
    attributes: dict[str, AttributeValue] = {"bridge.executor.name": member.crew.name, "process.pid": member.pid}
    number = obituary.signal_of(code)
    if code is not None:
        attributes["process.exit.code"] = code
    if number is not None:
        attributes["process.exit.signal"] = obituary.signal_name(number)
    if casualty is not None:
        attributes["bridge.function"] = name_of(casualty.named)
    if member.most_memory:
        attributes["bridge.worker.memory"] = member.most_memory
    return attributes

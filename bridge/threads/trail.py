"""The lines that have sent off the work that is being done: loop -> thread -> loop -> process -> loop.

    a job's function calls into a loop ── Step(the job's site, and the steps before it) ──> a ContextVar, in its context
    what the loop runs for it, and every task made there, copies that context ──> steps_in(context), if one fails unseen

Nobody pays for it but the first call into a loop that a job makes. A chain is cut where it becomes too long, because work
that sends itself off again, for ever, would lengthen it for ever.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from contextvars import Context, ContextVar
from typing import TYPE_CHECKING, NamedTuple

from bridge.diagnostics.places import Site, place_of
from bridge.threads.here import current_job
from bridge.threads.site import site_of

if TYPE_CHECKING:
    from bridge.threads.job import Job

#: Steps of one chain.
_LONGEST = 8


class Step(NamedTuple):
    """One way out of a loop."""

    #: When the job was queued (`time.perf_counter`), which tells one job from another.
    job: float
    #: Where it was sent from, if that is known.
    site: Site | None
    #: "thread" or "process".
    to: str
    before: Step | None
    length: int


_trail: ContextVar[Step | None] = ContextVar("bridge_trail", default=None)


def trail_here() -> Step | None:
    """In any thread, in the context of what it does: the last step that has led here."""
    last = _trail.get()
    job = current_job()
    if job is not None and (last is None or last.job != job.queued_at):
        last = _after(last, job, "thread")
        _trail.set(last)
    return last


def leave_in_context_of(job: Job) -> None:
    """For a job whose function runs in a process, before its context is copied for what it asks of a loop."""
    context = job.context
    if context is None:
        return
    last = context.get(_trail)
    if last is None or last.job != job.queued_at:
        with suppress(RuntimeError):  # somebody is in there just now
            context.run(_trail.set, _after(last, job, "process"))


def _after(last: Step | None, job: Job, to: str) -> Step:
    before = last if last is not None and last.length < _LONGEST else None
    return Step(job.queued_at, site_of(job), to, before, 1 if before is None else before.length + 1)


#: The last step that has led to what runs here, if its job was heard of before.
last_step = _trail.get


def last_in(context: Context) -> Step | None:
    """The last step that has led to what runs in `context`."""
    return context.get(_trail)


def described(last: Step | None) -> Iterator[str]:
    """A line for each step whose line is known, the last one first."""
    while last is not None:
        if last.site is not None:
            place = place_of(last.site)
            source = f": {place.source}" if place.source else ""
            yield f"on behalf of what was sent to a {last.to} at {place}{source}"
        last = last.before

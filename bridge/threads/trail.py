"""The lines that have sent off the work that is being done: loop -> thread -> loop -> process -> loop.

    a job's function calls into a loop ── Step(the job, and the steps before it) ──> a ContextVar, in the job's context
    the loop begins with that ── where does the task stand that awaits the job? ──> Step.site
    what the loop runs for it, and every task made there, copies that context ──> last_in(context), if one fails unseen

Nobody pays for it but the first call into a loop that a job makes. A Step is made in the worker's thread and settled in
the loop's, because only there the task is certain to have come to its line. A chain is cut where it becomes too long:
work that sends itself off again, for ever, would lengthen it for ever.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from contextvars import Context, ContextVar
from typing import TYPE_CHECKING

from bridge.diagnostics.places import Site, place_of
from bridge.threads.here import current_job
from bridge.threads.site import site_of

if TYPE_CHECKING:
    from bridge.threads.job import Job

#: Steps of one chain.
_LONGEST = 8


class Step:
    """One way out of a loop: a job, sent to a "thread" or a "process", and the steps `before`."""

    __slots__ = ("before", "job", "length", "queued_at", "site", "to")

    def __init__(self, job: Job, to: str, before: Step | None):
        self.before: Step | None = before if before is not None and before.length < _LONGEST else None
        self.length: int = 1 if self.before is None else self.before.length + 1
        self.to: str = to
        #: Where it was sent from, once `settle` has found out.
        self.site: Site | None = None
        self.job: Job | None = job
        self.queued_at: float = job.queued_at  # which tells one job from another

    def settle(self) -> None:
        """On the loop, while the job is on its way: what awaits it stands at the line that sent it."""
        job, self.job = self.job, None
        if job is not None:
            self.site = site_of(job)


_trail: ContextVar[Step | None] = ContextVar("bridge_trail", default=None)


def trail_here() -> Step | None:
    """In any thread, in the context of what it does: the last step that has led here."""
    last = _trail.get()
    job = current_job()
    if job is not None and (last is None or last.queued_at != job.queued_at):
        last = Step(job, "thread", last)
        _trail.set(last)
    return last


def leave_in_context_of(job: Job) -> None:
    """For a job whose function runs in a process, before its context is copied for what it asks of a loop."""
    context = job.context
    if context is None:
        return
    last = context.get(_trail)
    if last is None or last.queued_at != job.queued_at:
        with suppress(RuntimeError):  # somebody is in there just now
            context.run(_trail.set, Step(job, "process", last))


#: The last step that has led to what runs here, if its job was heard of before.
last_step: Callable[[], Step | None] = _trail.get


def settle_in(context: Context) -> None:
    """On the loop, before what was asked for by a job is begun in `context`."""
    last = context.get(_trail)
    if last is not None and last.job is not None:
        last.settle()


def last_in(context: Context) -> Step | None:
    """The last step that has led to what runs in `context`."""
    return context.get(_trail)


def described(last: Step | None) -> Iterator[str]:
    """A line for each step whose line is known, the last one first."""
    while last is not None:
        if last.site is not None:
            yield f"on behalf of what was sent to a {last.to} at {place_of(last.site).with_source}"
        last = last.before

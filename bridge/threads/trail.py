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
    """One way out of a loop: a job, sent to a "thread" or a "process", and the steps `before`.

    `depth` is how many functions, one within the other, had begun and not ended above the job: 0 if nothing that runs
    has sent it. It counts all of them, however short the chain of lines is cut (`threads.lending` is what it is for).
    """

    __slots__ = ("before", "called", "depth", "ended", "job", "length", "outer", "site", "to")

    def __init__(self, to: str, before: Step | None):
        self.before: Step | None = before if before is not None and before.length < _LONGEST else None
        self.length: int = 1 if self.before is None else self.before.length + 1
        self.to: str = to
        #: Where it was sent from, once `settle` has found out.
        self.site: Site | None = None
        self.job: Job | None = None  # until then
        self.called: bool = False  # has the job called into a loop?
        self.ended: bool = False  # has the job ended?
        #: The innermost function above this one that had not ended when this step was made, or when this one ended.
        self.outer: Step | None = _open(before)
        self.depth: int = 0 if self.outer is None else self.outer.depth + 1

    def settle(self) -> None:
        """On the loop, while the job is on its way: what awaits it stands at the line that sent it."""
        job, self.job = self.job, None
        if job is not None:
            self.site = site_of(job)

    def end(self) -> None:
        """The job has ended: what it has left behind on a loop is no longer nested in it. Harmless to repeat."""
        self.ended = True
        self.outer = _open(self.outer)  # so that no chain of ended steps grows


def _open(step: Step | None) -> Step | None:
    """The innermost of these functions that has not ended."""
    while step is not None and step.ended:
        step = step.outer
    return step


_trail: ContextVar[Step | None] = ContextVar("bridge_trail", default=None)


def trail_here() -> Step | None:
    """In any thread, in the context of what it does: the last step that has led here. The thread calls into a loop."""
    step = nest_here()
    job = current_job()
    if step is not None and job is not None and not step.called:
        step.called = True
        step.job = job
    return step


def nest_here() -> Step | None:
    """As `trail_here`, for what a thread sends off without a loop: it is nested in the job at hand, if there is one."""
    last = _trail.get()
    job = current_job()
    if job is None:
        return last
    step = job.step
    if step is None:
        step = job.step = Step("thread", last)
    if last is not step:
        _trail.set(step)
    return step


class Consumer:
    """Around the consumption of the stream that `job` makes, and waits with: what is sent from there is nested in it."""

    __slots__ = ("_before", "_step")

    def __init__(self, job: Job, to: str):
        self._before = _trail.get()
        self._step = job.step = Step(to, self._before)

    def __enter__(self) -> None:
        _trail.set(self._step)

    def __exit__(self, *exc: object) -> None:
        self._step.end()
        if _trail.get() is self._step:
            _trail.set(self._before)


def leave_in_context_of(job: Job) -> None:
    """For a job whose function runs in a process, before its context is copied for what it asks of a loop."""
    context = job.context
    if context is None:
        return
    last = context.get(_trail)
    step = job.step
    if step is None:
        step = job.step = Step("process", last)
    if not step.called:
        step.called = True
        step.job = job
    if last is not step:
        with suppress(RuntimeError):  # somebody is in there just now
            context.run(_trail.set, step)


def depth_of(job: Job, to: str) -> int:
    """How many functions that have not ended are above a job that has not begun, which is on its way to a worker.

    From then on it stays so deep, even if one of them ends.
    """
    context = job.context
    last = None if context is None else context.get(_trail)
    if last is None:
        return 0
    step = job.step
    if step is None:
        if _open(last) is None:
            return 0
        step = job.step = Step(to, last)
    return step.depth


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

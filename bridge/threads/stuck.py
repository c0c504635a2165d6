"""BRG404: something has not ended when its time was up. Said each time, because each time something is left behind.

In: threads, and jobs that run where no stack can be had. Out: events. Nothing is waited for here.
"""

from __future__ import annotations

from bridge.diagnostics.events import AttributeValue, Event, emit
from bridge.diagnostics.places import place_of
from bridge.diagnostics.stacks import Stack, stack_of_thread
from bridge.diagnostics.switch import wanted
from bridge.threads.job import Job, name_of
from bridge.threads.site import site_of


def report_thread(ident: int | None, headline: str, advice: str, attributes: dict[str, AttributeValue]) -> None:
    """A thread of this process is left behind, with the stack that it has now."""
    report_stack(stack_of_thread(ident), headline, advice, attributes)


def report_stack(stack: Stack | None, headline: str, advice: str, attributes: dict[str, AttributeValue]) -> None:
    """Something is left behind which stands at the end of `stack`."""
    if not wanted():
        return
    event = Event(
        code="BRG404",
        headline=headline,
        details=() if stack is None else ("stack, innermost first:", *stack.indented()),
        advice=advice,
        place=None if stack is None else stack.place,
        attributes=attributes,
    )
    emit(event, every_time=True)


def report_job(job: Job, headline: str, advice: str, attributes: dict[str, AttributeValue]) -> None:
    """A job that runs elsewhere, in a process for example, is left to itself or killed; all there is, is its site."""
    if not wanted():
        return
    site = site_of(job)
    event = Event(
        code="BRG404",
        headline=headline,
        advice=advice,
        place=None if site is None else place_of(site),
        attributes={"bridge.function": name_of(job.named), **attributes},
    )
    emit(event, every_time=True)

"""The queue of a crew of processes, watched for work that waits too long; see `bridge.threads.queue_watch`.

What a worker process is at cannot be seen from here: told is which function it runs, and which line has sent that.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from time import perf_counter
from typing import TYPE_CHECKING
from weakref import ref

from bridge.diagnostics.events import Event, emit
from bridge.diagnostics.places import where
from bridge.executors.process import obituary, tree
from bridge.threads.job import Job, name_of
from bridge.threads.lending_report import lent_out
from bridge.threads.lost import is_told
from bridge.threads.queue_watch import Occupant, QueueWatch, saturated
from bridge.threads.site import place_of_job

if TYPE_CHECKING:
    from bridge.executors.process.crew import Crew


class CrewWatch(QueueWatch):
    """Holds the crew weakly, which holds it while it rests. It is the home that calls it, after giving work away."""

    def __init__(self, crew: Crew, limit: float):
        super().__init__(limit)
        self._crew = ref(crew)
        self._busy_since: float | None = None

    def queue(self) -> Sequence[Job] | None:
        crew = self._crew()
        # Whoever closes it waits for the end of all that is queued, and knows why.
        return None if crew is None or crew.closing else crew.roster.queued

    def since(self) -> float:
        """Processes take their time to come up, and that is not for lack of them."""
        crew = self._crew()
        if crew is None or crew.roster.running < crew.options.max_workers:
            self._busy_since = None
            return perf_counter()
        if self._busy_since is None:  # since the last of them has begun what it runs
            jobs = [member.job for member in list(crew.roster.members)]
            self._busy_since = max((job.started_at for job in jobs if job is not None), default=perf_counter())
        return self._busy_since

    def workers(self) -> int:
        crew = self._crew()
        return 0 if crew is None else crew.options.max_workers

    def begun(self, now: float) -> list[float]:
        crew = self._crew()
        members = [] if crew is None else [each for each in list(crew.roster.members) if each.placed and not each.lent]
        # As far as is known here: when it was given to the worker, which may have had a few short calls to run first.
        return [job.started_at or now for each in members if (job := each.job) is not None]

    def last_begun(self) -> float:
        crew = self._crew()
        samples = () if crew is None else crew.roster.outcomes.samples
        return samples[-1][1] if samples else 0.0

    def resting(self) -> list[QueueWatch] | None:
        crew = self._crew()
        return None if crew is None else crew.resting

    def rest(self) -> None:
        self._busy_since = None
        super().rest()

    def report(self, job: Job, seconds: float, queued: int) -> Event:
        crew = self._crew()
        assert crew is not None
        workers = crew.options.max_workers
        stopped = _stopped(crew)
        event = saturated(job, seconds, queued, crew.name, "ProcessExecutor", workers, _occupants(crew, stopped))
        if not stopped:
            return event
        lines = [f"process {pid} is stopped by {by}: {obituary.WHY_STOPPED}" for pid, by in stopped.items()]
        busy, name, rest = event.headline.partition(repr(crew.name))
        state = "stopped by a signal" if len(stopped) == workers else "busy, or stopped by a signal"
        return replace(
            event,
            headline=f"{busy}{name}{rest.replace('busy', state, 1)}",
            details=(*lines, *event.details),
            advice=f"kill -CONT {next(iter(stopped))}",
        )


def report_lent_out(crew: Crew, begun: int, job: Job) -> None:
    """BRG405: so many functions have begun that `job` may not, though a worker has lent its place."""
    if is_told(job.origin):
        options = crew.options
        waiting = list(_occupants(crew, {}, lent=True))
        emit(lent_out(job, crew.name, "ProcessExecutor", begun, options.max_workers, options.max_lent, waiting))


def _stopped(crew: Crew) -> dict[int, str]:
    """The workers that a signal has stopped, by their process ID, with the name of the signal."""
    found = ((member.pid, tree.stopping_signal(member.pid)) for member in list(crew.roster.members) if member.job)
    return {pid: by for pid, by in found if by is not None}


def _occupants(crew: Crew, stopped: Mapping[int, str], lent: bool = False) -> Iterator[Occupant]:
    """What runs, or is stopped, and holds a place, or has `lent` it."""
    now = perf_counter()
    for member in list(crew.roster.members):
        job = member.job
        if job is None or not member.placed or member.lent is not lent:
            continue
        sent = where(place_of_job(job), "sent at")
        began = job.started_at or now
        state = f", stopped by {stopped[member.pid]}" if member.pid in stopped else ""
        yield Occupant(name_of(job.named), f" in process {member.pid}{state}{sent}", now - began)

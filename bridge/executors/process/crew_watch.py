"""The queue of a crew of processes, watched for work that waits too long; see `bridge.threads.queue_watch`.

What a worker process is at cannot be seen from here: told is which function it runs, and which line has sent that.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from time import perf_counter
from typing import TYPE_CHECKING
from weakref import ref

from bridge.diagnostics.events import Event
from bridge.diagnostics.places import where
from bridge.threads.job import Job, name_of
from bridge.threads.queue_watch import Occupant, QueueWatch, saturated
from bridge.threads.site import place_of_job

if TYPE_CHECKING:
    from bridge.executors.process.crew import Crew


class CrewWatch(QueueWatch):
    """Holds the crew weakly, which holds it while it rests. It is the home that calls it, after giving work away."""

    def __init__(self, crew: Crew, limit: float):
        super().__init__(limit)
        self._crew = ref(crew)
        self._since: float | None = None

    def queue(self) -> Sequence[Job] | None:
        crew = self._crew()
        # Whoever closes it waits for the end of all that is queued, and knows why.
        return None if crew is None or crew.closing else crew.roster.queue

    def since(self) -> float:
        """Processes take their time to come up, and that is not for lack of them."""
        crew = self._crew()
        if crew is None or crew.roster.running < crew.options.max_workers:
            self._since = None
            return perf_counter()
        if self._since is None:  # since the last of them has begun what it runs
            jobs = [member.job for member in list(crew.roster.members)]
            self._since = max((job.started_at for job in jobs if job is not None), default=perf_counter())
        return self._since

    def resting(self) -> list[QueueWatch] | None:
        crew = self._crew()
        return None if crew is None else crew.resting

    def rest(self) -> None:
        self._since = None
        super().rest()

    def report(self, job: Job, seconds: float, queued: int) -> Event:
        crew = self._crew()
        assert crew is not None
        workers = crew.options.max_workers
        return saturated(job, seconds, queued, crew.name, "ProcessExecutor", workers, _occupants(crew))


def _occupants(crew: Crew) -> Iterator[Occupant]:
    """What runs, and holds a place."""
    now = perf_counter()
    for member in list(crew.roster.members):
        job = member.job
        if job is None or not member.placed or member.lent:
            continue
        sent = where(place_of_job(job), "sent at")
        began = job.started_at or now
        yield Occupant(name_of(job.named), f" in process {member.pid}{sent}", now - began)

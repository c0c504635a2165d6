"""What is left of a crew when an exception (Ctrl-C, say) has come while its state was being changed.

Nothing is certain then but which processes there are, and which calls have not been answered. So the processes are
ended, the calls fail, and the crew goes on with a new state. Should that be interrupted too, the next `close` does it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bridge.errors import WorkerDied
from bridge.executors.process.member import StreamJob
from bridge.threads.future_job import FutureJob
from bridge.threads.job import Job, name_of

if TYPE_CHECKING:
    from bridge.executors.process.home import Home
    from bridge.executors.process.roster import Roster


class Wreck:
    """A state that is no longer used. `error` is what has come; None: its processes have not ended when they should."""

    def __init__(self, roster: Roster, home: Home | None, error: BaseException | None):
        self.roster: Roster = roster
        self.home: Home | None = home
        self._why = (
            "they did not end" if error is None else f"{type(error).__name__} came while bridge was at work on them"
        )

    def jobs(self) -> list[Job]:
        """The calls of which the state knows, in their order."""
        found: list[Job] = []
        for member in list(self.roster.members):
            found += [job for job, _ in list(member.in_flight.values())]
            if member.packing is not None:
                found.append(member.packing)
            member.packing = None
        return found + self.roster.queued

    def fail(self, job: Job, executor_name: str) -> None:
        """Answer a call with an error, unless it has been answered or withdrawn."""
        if isinstance(job, FutureJob) and not hasattr(job, "future"):
            return
        if job.error is None and job.value is None:
            if job.withdrawn and not isinstance(job, FutureJob):
                return
            if not job.begin() and isinstance(job, FutureJob) and job.future.cancelled():
                return
            job.error = WorkerDied(
                f"{name_of(job.named) if job.fn is not None else 'a function'} was lost: the worker processes of "
                f"{executor_name!r} were ended, because {self._why}. It may have run or not: call it again only if that "
                f"does no harm."
            )
        job.args = job.kwargs = job.context = job.call = job.remote = None
        if isinstance(job, StreamJob):
            job.drop_held()
        job.deliver()

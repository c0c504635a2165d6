"""The end of a crew from outside: wait for it, but not for ever, and say what it was doing when patience ended."""

from __future__ import annotations

import atexit
import multiprocessing.util  # noqa: F401 - at exit it waits for its processes, without a limit, unless we have been before
from threading import Event
from time import monotonic, perf_counter

from bridge.executors.process.crew import Crew, crews
from bridge.executors.process.member import Member
from bridge.threads.closing import SHUTDOWN_TIMEOUT
from bridge.threads.job import Job, name_of
from bridge.threads.stuck import report_job

#: Seconds for which killed processes are waited for.
AFTER_KILLING = 5.0


def close_within(crew: Crew, timeout: float) -> None:
    """Close, wait for at most `timeout` seconds; then report what still runs, and kill it."""
    crew.close()
    finished = Event()
    crew.when_finished(finished.set)
    if finished.wait(timeout):
        return
    for member in list(crew.roster.members):
        job = member.job
        if job is not None:
            _report(crew, member, job)
    crew.post(crew.roster.outcomes.drop_queued)
    crew.post(crew.roster.kill_all)
    finished.wait(AFTER_KILLING)


def _report(crew: Crew, member: Member, job: Job) -> None:
    waited = monotonic() - crew.closed_at
    report_job(
        job,
        f"{name_of(job.named)} has run for {perf_counter() - job.started_at:.1f} s in process {member.pid} and has not "
        f"ended {waited:.1f} s after {crew.name!r} was told to close; the process is killed.",
        "offload(timeout=...) for the function, or bridge.check_cancelled() in it",
        {"bridge.executor.name": crew.name, "bridge.duration": waited, "process.pid": member.pid},
    )


def _at_exit() -> None:
    deadline = monotonic() + SHUTDOWN_TIMEOUT
    for crew in list(crews):
        try:
            close_within(crew, max(0.0, deadline - monotonic()))
        except RuntimeError:  # its loop is gone, and Python 3.12 starts no thread for another one now
            for member in list(crew.roster.members):
                member.close()  # which ends it; multiprocessing would wait for it without a limit


# What is registered later is run earlier: before multiprocessing's own.
atexit.register(_at_exit)

"""The end of a crew from outside: wait for it, but not for ever, and say what it was doing when patience ended."""

from __future__ import annotations

from contextlib import ExitStack, suppress
from threading import Event
from time import monotonic, perf_counter

from bridge.executors.process import obituary, tree
from bridge.executors.process.child import AFTER_KILLING
from bridge.executors.process.crew import Crew, crews
from bridge.executors.process.launch import end_all
from bridge.executors.process.member import Member
from bridge.threads.closing import SHUTDOWN_TIMEOUT
from bridge.threads.job import Job, name_of
from bridge.threads.program_end import at_exit
from bridge.threads.seconds import for_wait
from bridge.threads.stuck import report_job


def close_within(crew: Crew, timeout: float, since: float | None = None) -> None:
    """Close, wait for at most `timeout` seconds; then report what still runs, and kill it. The whole wait began at
    `since` (`time.monotonic`; None: now)."""
    if since is None:
        since = monotonic()
    crew.close()
    finished = Event()
    crew.when_finished(finished.set)
    if finished.wait(for_wait(timeout)):
        return
    for member in list(crew.roster.members):
        job = member.job
        if job is not None:
            _report(crew, member, job, monotonic() - since)
    crew.given_up = True
    crew.post(crew.roster.outcomes.drop_queued)
    crew.post(crew.roster.kill_all)
    if not finished.wait(AFTER_KILLING):
        crew.reset(None)


def _report(crew: Crew, member: Member, job: Job, waited: float) -> None:
    now = perf_counter()
    by = tree.stopping_signal(member.pid)
    stopped = "" if by is None else f" is stopped by {by}: {obituary.WHY_STOPPED}. It"
    report_job(
        job,
        f"{name_of(job.named)}{stopped} has run for {now - (job.started_at or now):.1f} s in process {member.pid} of "
        f"{crew.name!r} and has not ended {waited:.1f} s after the wait for its end began; the process is killed.",
        "offload(timeout=...) for the function, or bridge.check_cancelled() in it",
        {"bridge.executor.name": crew.name, "bridge.duration": waited, "process.pid": member.pid},
    )


def _at_exit() -> None:
    since = monotonic()
    deadline = since + SHUTDOWN_TIMEOUT
    with ExitStack() as each:  # one that is interrupted does not keep the others from being closed
        each.callback(end_all, AFTER_KILLING)
        for crew in list(crews):
            each.callback(_close_at_exit, crew, since, deadline)


def _close_at_exit(crew: Crew, since: float, deadline: float) -> None:
    with suppress(RuntimeError):  # its loop is gone, and Python 3.12 starts no thread for another one now
        close_within(crew, max(0.0, deadline - monotonic()), since)


at_exit(_at_exit)

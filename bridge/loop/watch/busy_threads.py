"""BRG402: a function in a worker thread that keeps the GIL busy, so that the loop has to wait for its turn each time.

    a look at the loop ── did a worker's thread run meanwhile? ──> a Span of half a second begins, in which the loop is
    looked at even while it sleeps ── the worker had nearly all of a core, the loop wanted to run, and whoever wanted the
    GIL had to wait for it ──> BRG402

Owner is the watchdog's thread, by the loop's watcher. While no worker runs for long, a look costs a few comparisons; a
loop that only sleeps suffers nothing, and is left to sleep. It takes clocks of single threads: Linux.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from typing import NamedTuple

from bridge.diagnostics.advice import in_a_process
from bridge.diagnostics.clocks import Scheduler
from bridge.diagnostics.events import Event, emit
from bridge.diagnostics.places import is_bridges, where
from bridge.diagnostics.punctuality import Tick
from bridge.diagnostics.stacks import Stack, capture, current_frames
from bridge.loop.watch.readings import Reading, between
from bridge.threads.job import Job, last_name, name_of
from bridge.threads.pool import pools
from bridge.threads.site import place_of_job
from bridge.threads.worker import Worker

#: Seconds that are judged together, and looks that it takes, at least.
SPAN, _LOOKS = 0.5, 5
#: Share of a core from which on a thread is worth a closer look, and from which on it keeps the GIL busy.
_NOTABLE, BUSY = 0.2, 0.8
#: Share of a core that all others may have beside it, the loop among them: else it is not certain who has the GIL.
_BESIDE = 0.25
#: Seconds for which each look had to wait for the GIL, on average.
_KEPT_OUT = 0.003
#: Times in a second that the loop's thread was given a core: it woke up, and asked for the GIL.
_WANTED = 20


class Suspect(NamedTuple):
    """A worker that runs one function all the while; `cpu` and `starved` as they were at first."""

    worker: Worker
    job: Job
    ident: int
    cpu: float
    starved: float
    scheduler: Scheduler


class Culprit(NamedTuple):
    """A function in a thread, and the share of its time for which it was on the CPU."""

    name: str
    job: Job
    worker: Worker
    share: float


class Span:
    """What is seen from one reading on."""

    def __init__(self, reading: Reading, suspects: list[Suspect]):
        self.began = reading
        self.suspects = suspects
        self.looks: int = 0
        self.kept_out: float = 0.0

    def note(self, tick: Tick) -> None:
        """One look. Where somebody has called the watchdog it was he who had the GIL, the loop itself for instance."""
        if tick.kept_out is not None and not tick.called:
            self.looks += 1
            self.kept_out += tick.kept_out

    def is_over(self, now: Reading) -> bool:
        """Has enough been seen?"""
        return now.at - self.began.at >= SPAN and self.looks >= _LOOKS

    def __del__(self) -> None:
        for suspect in self.suspects:
            suspect.scheduler.close()

    def culprits(self, now: Reading) -> list[Culprit]:
        """Those who have kept the GIL busy together; the busiest comes first."""
        window = between(self.began, now)
        if self.kept_out < _KEPT_OUT * self.looks or window.slices < _WANTED * window.wall:
            return []
        culprits, cpu, runnable = [], 0.0, 0.0
        for suspect in self.suspects:
            ran = now.others.get(suspect.ident, 0.0) - suspect.cpu
            if suspect.worker.job is not suspect.job or ran < _NOTABLE * window.wall:
                continue
            schedule = suspect.scheduler.schedule()
            starved = 0.0 if schedule is None else schedule.waited - suspect.starved
            share = min(1.0, ran / max(ran, window.wall - starved))
            culprits.append(Culprit(name_of(suspect.job.named), suspect.job, suspect.worker, share))
            cpu += ran
            runnable += ran + starved
        beside = window.process - cpu
        if beside > _BESIDE * window.wall or runnable > (1 + _BESIDE) * window.wall:
            return []  # it is another one who has the GIL, or these run without: whoever waits for it asks for no core
        if sum(culprit.share for culprit in culprits) < BUSY:
            return []
        return sorted(culprits, key=lambda culprit: culprit.share, reverse=True)


class BusyThreads:
    """Looks at the worker threads on behalf of one loop."""

    def __init__(self) -> None:
        self._span: Span | None = None
        self._told: dict[int, float] = {}  # by a thread's ident, when the job began that has been told of

    @property
    def follows(self) -> bool:
        """Does it want the loop looked at, even if that sleeps?"""
        return self._span is not None

    def look(self, tick: Tick, before: Reading, after: Reading) -> None:
        """One look at the loop, and the clocks at the look before it."""
        span = self._span
        if span is None:
            least = _NOTABLE * (after.at - before.at)
            ran = [i for i, seconds in after.others.items() if seconds - before.others.get(i, 0.0) >= least > 0]
            suspects = _suspects(ran, after) if ran else []
            self._span = Span(after, suspects) if suspects else None
            return
        span.note(tick)
        if not any(suspect.worker.job is suspect.job for suspect in span.suspects):
            self.forget()
        elif span.is_over(after):
            culprits = span.culprits(after)
            self.forget()  # if the loop wants to run it is looked at soon, and another one begins
            if culprits:
                self._tell(culprits, after.at - span.began.at)

    def forget(self) -> None:
        """The loop has stopped, or nothing is to be seen any more."""
        self._span = None

    def _tell(self, culprits: list[Culprit], seconds: float) -> None:
        worker, job = culprits[0].worker, culprits[0].job
        ident = worker.thread.ident or 0
        if self._told.get(ident) == job.started_at:
            return
        self._told[ident] = job.started_at
        emit(cpu_bound(culprits, seconds, capture(current_frames().get(ident))))


def _is_own(fn: object) -> bool:
    """Is this a function of bridge itself, which the program has not sent?"""
    return is_bridges(getattr(getattr(fn, "__code__", None), "co_filename", ""))


def _suspects(idents: Iterable[int], reading: Reading) -> list[Suspect]:
    """Those of the threads that are workers, and run a function."""
    workers = {worker.thread.ident: worker for pool in list(pools) for worker in list(pool.workers)}
    suspects = []
    for ident in idents:
        worker = workers.get(ident)
        job = None if worker is None else worker.job
        if worker is None or job is None or job.internal or _is_own(job.named):
            continue
        scheduler = Scheduler(worker.thread.native_id)
        schedule = scheduler.schedule()
        starved = 0.0 if schedule is None else schedule.waited
        suspects.append(Suspect(worker, job, ident, reading.others[ident], starved, scheduler))
    return suspects


def cpu_bound(culprits: list[Culprit], seconds: float, stack: Stack) -> Event:
    """The event: the first of `culprits` for the place and the advice, the others beside it."""
    name, job, worker, share = culprits[0]
    place = place_of_job(job)
    also = [f"so is {each.name} in thread {each.worker.thread.name!r}, {each.share * 100:.0f} %" for each in culprits[1:]]
    at = ["stack of the thread, innermost first:", *stack.indented()] if stack.sites else []
    function = last_name(job.named)
    advice = None if place is None else in_a_process(place, function)
    streams = inspect.isgeneratorfunction(job.named)
    in_short = f'bridge.stream({function}, ..., to="process")' if streams else f"await bridge.to_process({function}, ...)"
    return Event(
        code="BRG402",
        headline=f"{name} is on the CPU for {share * 100:.0f} % of its time, in thread {worker.thread.name!r}, "
        f"and the loop has to wait for the GIL each time it wakes up{where(place, 'sent at')}",
        details=(*also, *at),
        advice=advice or in_short,
        place=place or stack.place,
        attributes={
            "bridge.function": name,
            "bridge.cpu.share": share,
            "bridge.duration": seconds,
            "bridge.executor.name": worker.pool.name,
            "thread.name": worker.thread.name,
        },
    )

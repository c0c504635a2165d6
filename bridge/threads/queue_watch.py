"""BRG401: work that waits for a worker for too long, and what keeps the workers busy meanwhile.

    a job finds no worker that is idle ── is the watch resting? ──> call ──> the watchdog looks at it
    nothing is queued any more ──> it rests, and costs nothing, until it is called again

A long wait is not reported while the queue moves as fast as its workers could: thousands of short calls that were sent at
once wait for one another, and that is all right. So it is looked at what has happened in the second half of the wait. A
worker is stuck if it still runs what it ran when that half began. The queue does not move as fast as it could if half of
the workers are stuck, or more, or if no call at all was begun since then. A worker that waits in a portal call has lent
its place, which another one has; it counts as neither.

Owners: a resting watch lies in its queue's `resting` list; whoever takes it out, in any thread, hands it to the watchdog.
From then on it belongs to the watchdog's thread, which puts it back, and only then looks at the queue once more: either a
submitter finds it there, or it finds what he has queued. Nothing is stored for a job that it has not already.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from math import inf
from time import perf_counter
from typing import TYPE_CHECKING, NamedTuple

from bridge.diagnostics.events import Event, emit
from bridge.diagnostics.places import where
from bridge.diagnostics.punctuality import Tick
from bridge.diagnostics.watchdog import watchdog
from bridge.threads.job import Job, last_name, name_of
from bridge.threads.lost import is_told
from bridge.threads.seconds import check_seconds
from bridge.threads.site import place_of_job

if TYPE_CHECKING:
    from collections.abc import Sequence

#: Seconds for which a job may wait for a worker.
DEFAULT_QUEUE_LIMIT = 1.0
#: Jobs at the head of a queue that are looked at.
_MOST_JOBS = 256
#: Kinds of occupants that are shown.
_MOST_LINES = 10
#: Lateness of the watchdog, in seconds, from which on it tells of a process that was stopped.
_LATE = 0.01
#: Seconds between looks, at least.
_SHORTEST = 0.01
#: Looks at a long wait in a queue that moves, in each `limit`.
_LOOKS = 4


class Occupant(NamedTuple):
    """A function that keeps a worker busy, where it is just now or was sent, and for how many seconds."""

    name: str
    where: str
    seconds: float


class QueueWatch(ABC):
    """Looks at one queue, while there is anything in it. `limit` is in seconds."""

    def __init__(self, limit: float):
        self._limit = limit
        self._mark = 0  # reported for limit * 2**(mark-1)
        self._stops: list[tuple[float, float]] = []  # when the process went on, and how long it had stood still

    # -- what each kind brings -----------------------------------------------------------------------------------------

    @abstractmethod
    def queue(self) -> Sequence[Job] | None:
        """What waits for a worker; None if there will be no more, or if nobody needs to care."""

    @abstractmethod
    def since(self) -> float:
        """Since when the workers are all there and all busy (`time.perf_counter`), as far as it matters; 0: long ago."""

    @abstractmethod
    def workers(self) -> int:
        """How many functions may run at once."""

    @abstractmethod
    def begun(self, now: float) -> list[float]:
        """When each function was begun that keeps a worker busy now (`time.perf_counter`)."""

    @abstractmethod
    def last_begun(self) -> float:
        """When the function was begun that has ended last; 0: none has."""

    @abstractmethod
    def resting(self) -> list[QueueWatch] | None:
        """Where submitters find it while it rests; None if there will be no more."""

    @abstractmethod
    def report(self, job: Job, seconds: float, queued: int) -> Event:
        """`job` has waited for so long, at the head of so many."""

    # -- in the watchdog's thread --------------------------------------------------------------------------------------

    def look(self, tick: Tick) -> float | None:
        """As `Watcher.look`."""
        now = perf_counter()
        queue = self.queue()
        if not queue:
            self._mark = 0
            self._stops.clear()
            watchdog.unwatch(self)
            if queue is not None:
                self.rest()
            return None
        self._note_stop(tick, now)
        job = _oldest(queue)
        if job is None:
            return self._limit
        began = max(job.queued_at, self.since())
        self._stops = [stop for stop in self._stops if stop[0] > began]
        waited = now - began - sum(seconds for _, seconds in self._stops)
        if waited < self._limit:
            self._mark = 0
        elif waited >= self._limit * 2**self._mark:
            if self._moves(now, waited):
                return max(_SHORTEST, self._limit / _LOOKS)
            self._tell(job, waited, len(queue))
        left: float = self._limit * 2**self._mark - waited
        return max(_SHORTEST, left)

    def rest(self) -> None:
        """Lie down where submitters find it; then look whether anything was queued meanwhile."""
        resting = self.resting()
        if resting is not None:
            resting.append(self)
            if self.queue():
                call(resting)

    def _note_stop(self, tick: Tick, now: float) -> None:
        """While the whole process stood still, or got no core, nobody could have done the work."""
        stopped = tick.late if tick.kept_out is None else tick.late - tick.kept_out
        if stopped >= _LATE:
            self._stops.append((now, stopped))

    def _moves(self, now: float, waited: float) -> bool:
        """Is the queue worked off as fast as its workers could?"""
        half = waited / 2
        begun = self.begun(now)
        stuck = sum(self._since(at, now) >= half for at in begun)
        return 2 * stuck < self.workers() and self._since(max([*begun, self.last_begun()]), now) < half

    def _since(self, at: float, now: float) -> float:
        """Seconds since then, without those for which the process stood still."""
        return now - at - sum(seconds for stop, seconds in self._stops if stop > at)

    def _tell(self, job: Job, waited: float, queued: int) -> None:
        while waited >= self._limit * 2**self._mark:
            self._mark += 1
        if is_told(job.origin):
            emit(self.report(job, waited, queued), weight=self._mark - 1)


def _oldest(queue: Sequence[Job]) -> Job | None:
    """The first one that somebody waits for. The queue goes on meanwhile."""
    try:
        for index in range(_MOST_JOBS):
            job = queue[index]
            if not job.withdrawn and not job.patient:
                return job
    except IndexError:
        pass
    return None


def call(resting: list[QueueWatch]) -> None:
    """Work is queued: have it watched, if it is not. From any thread, signal handlers and finalizers included."""
    try:
        watch = resting.pop()
    except IndexError:  # somebody else has called it
        return
    watchdog.watch(watch)


def saturated(
    job: Job,
    seconds: float,
    queued: int,
    name: str,
    kind: str,
    workers: int,
    occupants: Iterable[Occupant],
) -> Event:
    """BRG401: `job` has waited for so many seconds in the queue of the executor `name`, a bridge.<kind>."""
    place = place_of_job(job)
    function = name_of(job.named)
    all_busy = f"the only worker of {name!r} is busy" if workers == 1 else f"all {workers} workers of {name!r} are busy"
    calls = "1 call" if queued == 1 else f"{queued} calls"
    return Event(
        code="BRG401",
        headline=f"{all_busy}: {function} has waited for {seconds:.1f} s, in a queue of {calls}{where(place, 'sent at')}",
        details=("what keeps the workers busy:", *lines_of(occupants)),
        advice=f"bridge.map({last_name(job.named)}, ..., in_flight={workers}) for fewer calls at a time, "
        f"or bridge.{kind}({2 * workers}) for more workers",
        place=place,
        attributes={
            "bridge.executor.name": name,
            "bridge.function": function,
            "bridge.duration": seconds,
            "bridge.queued": queued,
            "bridge.workers": workers,
        },
    )


def lines_of(occupants: Iterable[Occupant]) -> list[str]:
    """One line for all that do the same at the same line, those that have run longest first."""
    alike: dict[tuple[str, str], list[float]] = {}
    for occupant in occupants:
        alike.setdefault((occupant.name, occupant.where), []).append(occupant.seconds)
    ranked = sorted(alike, key=lambda each: max(alike[each]), reverse=True)
    lines = [
        f"  {len(alike[each])} x {each[0]} for {'up to ' * (len(alike[each]) > 1)}{max(alike[each]):.1f} s{each[1]}"
        for each in ranked[:_MOST_LINES]
    ]
    return [*lines, f"  and {len(ranked) - _MOST_LINES} other functions"] if len(ranked) > _MOST_LINES else lines


def checked_limit(queue_limit: float | None) -> float:
    """`queue_limit`, in seconds; infinity for None. Raises TypeError, ValueError."""
    if queue_limit is None:
        return inf
    check_seconds("queue_limit", queue_limit, "queue_limit=5.0, or None for no limit", positive=True)
    return float(queue_limit)

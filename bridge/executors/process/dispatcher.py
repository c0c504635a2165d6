"""Giving work away: which worker gets the next job of the queue, and how the job gets into its pipe.

    queue ── choose ──> begin ── alone: pack ──────────────> give        too large: a helper packs ──> give
                              └─ alike: one parcel for all ─> give_alike

Rules: the worker used last comes first, its caches are warm and one process awake is cheaper than two. Jobs that are
known to be short are put behind one another, up to `FAR` seconds of expected work for a worker, so that neither side
sleeps for each; those of one function travel in one parcel. All of it belongs to the crew's home, under its turn.
"""

from __future__ import annotations

import pickle
from collections import deque
from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING

from bridge.executors.process.logs import LevelWatch
from bridge.executors.process.member import Member, StreamJob
from bridge.executors.process.outcomes import pace_key
from bridge.executors.process.wire import frames
from bridge.executors.process.wire.alike import are_harmless, can_be_shared, pack_alike
from bridge.executors.process.wire.context import values_for
from bridge.executors.process.wire.pickling import TooLarge
from bridge.threads.job import Job

if TYPE_CHECKING:
    from bridge.executors.process.roster import Roster

#: Seconds of expected work that may lie in one worker's pipe; and up to which a second worker is not worth waking.
FAR = 0.001
NEAR = 0.0002
#: Bytes up to which arguments are pickled on the loop; what is larger is left to a helper thread.
DIRECT = 1 << 16


class Dispatcher:
    """Takes jobs from one roster's queue, and gives them to its workers."""

    def __init__(self, roster: Roster):
        self._roster = roster
        self._crew = roster.crew
        self._variables = self._crew.options.context_vars
        self._max = self._crew.options.max_workers
        self._levels = LevelWatch()
        self._hot: Member | None = None

    def dispatch(self) -> None:
        """Give away as much of the queue as there are workers for."""
        roster = self._roster
        backlog, limit, paces = roster.backlog, roster.bound.limit, roster.outcomes.paces
        now = perf_counter()
        levels = self._levels.changed()
        if levels is not None:
            self._tell_levels(levels)
        queue: deque[Job] | None
        while roster.queue or backlog.lines:
            queue = roster.queue
            if backlog.lines or roster.running + roster.lent >= limit:
                queue = roster.line()
                if not queue:
                    return
            job = queue[0]
            if job.context is None:  # withdrawn
                queue.popleft()
                continue
            member = None
            try:
                pace = None if job.on_the_wire else paces.get(pace_key(job.fn))
                member = self._choose(pace)
                if member is None:
                    return
                room = 1
                if pace is not None and not self._variables:
                    room = member.room(pace, NEAR if member is self._hot else FAR)
                jobs = self._take(queue, room, now, member)
                if len(jobs) > 1:
                    self._assign_alike(jobs, member, pace or 0.0)
                elif jobs:
                    self._assign(jobs[0], member, pace or 0.0)
                elif not member.busy:
                    roster.rest(member)
            except Exception as error:  # something about this job; those behind it go on
                self._fail_alone(job, queue, member, error)

    def _fail_alone(self, job: Job, queue: deque[Job], member: Member | None, error: Exception) -> None:
        """Fail the job at the head of the queue, or the one just taken from there; `member` is free for the next."""
        if queue and queue[0] is job:
            queue.popleft()
        if job.remote is not None or job.begin():
            self._roster.outcomes.fail(job, error)
        if member is not None and not member.busy:
            self._roster.rest(member)

    def forget(self, member: Member) -> None:
        """It has ended."""
        if self._hot is member:
            self._hot = None

    def _tell_levels(self, levels: dict[str, int]) -> None:
        """Before the next job: loggers have got other levels."""
        parcel = pickle.dumps(levels)
        for member in self._roster.members:
            member.send(frames.LEVELS, 0, parcel)
            self._roster.to_flush(member)

    def _choose(self, pace: float | None) -> Member | None:
        hot, roster = self._hot, self._roster
        if pace is not None and hot is not None and hot.can_take(pace, NEAR):
            return hot
        if roster.idle and roster.running < self._max:
            member = self._hot = roster.idle.pop()
            roster.running += 1
            member.placed = True
            return member
        if pace is None or pace > FAR:
            return None
        able = [member for member in roster.members if member.can_take(pace, FAR)]
        return min(able, key=lambda member: member.backlog) if able else None

    def _take(self, queue: deque[Job], room: int, now: float, member: Member) -> list[Job]:
        """The next job, and those right behind it that can travel in its parcel, begun for that worker."""
        fn = queue[0].fn
        if room > 1 and not (_goes_along(queue[0]) and can_be_shared(fn)):
            room = 1
        jobs: list[Job] = []
        while True:
            job = queue.popleft()
            if job.remote is not None or job.begin():
                job.started_at = now
                job.remote = member
                jobs.append(job)
            if len(jobs) >= room or not queue or queue[0].fn is not fn or not _goes_along(queue[0]):
                return jobs

    # -- into the pipe -------------------------------------------------------------------------------------------------

    def _assign_alike(self, jobs: list[Job], member: Member, pace: float) -> None:
        try:
            parcel = pack_alike(jobs[0].fn, [job.args for job in jobs])
        except BaseException as error:
            self._roster.put_back(jobs[1:])
            if isinstance(error, Exception):  # something odd about the function or its module: _assign says what
                self._assign(jobs[0], member, pace)
            else:
                self._could_not_pack(member, jobs[0], error)
            return
        member.give_alike(jobs, parcel, pace)
        self._roster.given(member)

    def _assign(self, job: Job, member: Member, pace: float) -> None:
        context = values_for(self._variables, job.context) if self._variables and job.context is not None else None
        call = (job.fn, job.args, job.kwargs, context)
        try:
            parcel = member.packer.pack(call, limit=DIRECT)
        except TooLarge:
            member.packing = job
            self._crew.aside(partial(self._packed, member, job), member.packer.pack_patiently, call)
        except BaseException as error:
            self._could_not_pack(member, job, error)
        else:
            self._give(job, member, parcel, pace)

    def _give(self, job: Job, member: Member, parcel: bytes, pace: float) -> None:
        seq = member.give(job, parcel, job.on_the_wire, pace)
        if isinstance(job, StreamJob):
            member.stuck = True  # nothing is put behind a stream
            job.given(member, seq)
        self._roster.given(member)

    def _packed(self, member: Member, job: Job, parcel: bytes | None, error: BaseException | None) -> None:
        if member.packing is not job:  # cancelled meanwhile
            if parcel is not None:
                member.packer.discard(parcel)
            return
        member.packing = None
        if member not in self._roster.members:  # it has died meanwhile
            self._roster.put_back([job])
        elif error is not None:
            self._could_not_pack(member, job, error)
        else:
            assert parcel is not None
            self._give(job, member, parcel, 0.0)

    def _could_not_pack(self, member: Member, job: Job, error: BaseException) -> None:
        self._roster.outcomes.fail(job, error)
        if not member.busy:
            self._roster.rest(member)


def _goes_along(job: Job) -> bool:
    """Could this call be one of several in a parcel? Another thread may withdraw it meanwhile."""
    args = job.args
    return args is not None and not job.kwargs and not job.on_the_wire and are_harmless(args)

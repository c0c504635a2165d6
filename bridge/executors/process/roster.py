"""Who does what: the queue, the workers, and the places of those that run.

    queue ── dispatcher ──> a worker        reply ──> rest: a returner's turn? idle? retire?
      └── nobody free, room left ──> hire ──> READY

Rules: at most `max_workers` functions run at once. One that waits for the parent does not count, and has to get its place
back before its answer. Once `max_workers + max_lent` have begun, running or waiting, the queue is sorted into `backlog`,
and only what is nested deep enough is given away, or has a process started for it (`bridge.threads.lending`). What turns
out longer than it looked is noticed after `OVERDUE`, and what lies behind it is taken back. All of it belongs to the
crew's home, under its turn.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING

from bridge.executors.process.crew_watch import report_lent_out
from bridge.executors.process.dispatcher import Dispatcher
from bridge.executors.process.endings import Endings
from bridge.executors.process.exchange import Exchange
from bridge.executors.process.launch import Lifelines, launch
from bridge.executors.process.member import Member
from bridge.executors.process.options import Options
from bridge.executors.process.outcomes import Outcomes
from bridge.executors.process.wire import frames
from bridge.threads.job import Job
from bridge.threads.lending import Backlog, Bound
from bridge.threads.queue_watch import call

if TYPE_CHECKING:
    from bridge.executors.process.crew import Crew

#: Seconds without a reply after which the job ahead is taken to be longer than expected.
OVERDUE = 0.003
#: Seconds after which an idle worker's blocks are no longer kept for reuse.
TRIM = 5.0
#: Seconds between looks at the idle workers, at least.
SOON = 0.01


class Roster:
    """The workers of a crew, and the jobs that wait for one."""

    def __init__(self, crew: Crew):
        self.crew: Crew = crew
        self.queue: deque[Job] = deque()
        self.members: set[Member] = set()
        self.idle: list[Member] = []
        #: What is queued, sorted, while too many functions have begun; what comes then is in `queue` for a moment only.
        self.backlog: Backlog = Backlog("process")
        self.running: int = 0  # workers with a job that does not wait for the parent
        self.lent: int = 0  # workers with a job that does
        self.starting: int = 0
        self.paused: bool = False  # starting: the last one could not be started
        self.spare: bool = False  # keep one worker more than there is work for
        self.wanted: int = 0  # workers that were asked for before there is work
        self.awaited: list[tuple[int, Callable[[BaseException | None], object]]] = []
        self.outcomes: Outcomes = Outcomes(self)
        self.endings: Endings = Endings(self)
        self.exchange: Exchange = Exchange(self)
        self._max = crew.options.max_workers
        self.bound: Bound = Bound(self._max, crew.options.max_lent, self._max)
        self._announced = False  # that it was reached
        self.dispatcher: Dispatcher = Dispatcher(self)
        self._limits_memory = crew.options.memory_limit is not None
        self._to_flush: set[Member] = set()
        self._returners: deque[tuple[Member, Callable[[], object]]] = deque()
        self._watching_paces = False
        self._sweeping = False

    @property
    def at_rest(self) -> bool:
        """Is there nothing to do, and nothing under way?"""
        return not self.has_queued and not self.crew.asides and not any(member.busy for member in self.members)

    @property
    def has_queued(self) -> bool:
        """Does anything wait for a worker?"""
        return bool(self.queue or self.backlog.lines)

    @property
    def queued(self) -> list[Job]:
        """What waits for a worker; from any thread."""
        return [*self.backlog, *list(self.queue)]

    def drop_queue(self) -> list[Job]:
        """Everything that waits for a worker, which it does no longer."""
        jobs = self.queued
        self.backlog.lines.clear()
        self.queue.clear()
        return jobs

    # -- giving work ---------------------------------------------------------------------------------------------------

    def dispatch(self) -> None:
        """Give away as much of the queue as there are workers for, and call for more workers if that helps."""
        if self.queue or self.backlog.lines:
            self.dispatcher.dispatch()
            if self.queue or self.backlog.lines:
                if self.crew.resting:
                    call(self.crew.resting)
                self._hire()
                return
        if self.wanted or self.spare:
            self._hire()

    def line(self) -> deque[Job] | None:
        """At the bound, or while what came to it is not worked off: where the next job is that may begin, if anywhere."""
        self.backlog.take_over(self.queue)
        line = self.backlog.next_line(self.bound.depth(self.running + self.lent))
        if line is None and self.backlog.lines and self.running < self._max and not self._announced:
            self._announced = True
            crew, job = self.crew, next(iter(self.backlog))
            crew.todo.append(partial(report_lent_out, crew, self.running + self.lent, job))
        return line

    def given(self, member: Member) -> None:
        """Something was put into its pipe to be done."""
        self._to_flush.add(member)
        if not self._watching_paces and len(member.in_flight) > 1:
            self._watching_paces = True
            self.crew.timers.after(OVERDUE, self._look_for_overdue)
        if self._limits_memory:
            self.endings.watch_memory()

    def to_flush(self, member: Member) -> None:
        """It has something to be sent."""
        self._to_flush.add(member)

    def flush(self) -> None:
        """Send everything that was put into pipes since the last time."""
        while self._to_flush:
            member = self._to_flush.pop()
            if member in self.members and not member.flush():
                self.exchange.wait_until_writable(member)

    # -- workers that have time ----------------------------------------------------------------------------------------

    def rest(self, member: Member) -> None:
        """A worker has nothing in flight any more, and holds a place among those that run."""
        self.running -= 1
        member.placed = member.stuck = False
        self._next_returner()
        if member.retiring or member.tasks_left == 0:
            self.endings.retire(member)
            return
        member.idle_since = perf_counter()
        member.trimmed = False
        self.idle.append(member)
        if not self._sweeping:
            self._sweeping = True
            self.crew.timers.after(min(TRIM, self.crew.options.idle_timeout), self._sweep)

    def lend(self, member: Member) -> None:
        """Its job waits for the parent: another worker may run one meanwhile, and nothing waits behind this one."""
        if member.lent or not member.in_flight:
            return
        member.lent = True
        self.running -= 1
        self.lent += 1
        self.take_back(member)
        self._next_returner()

    def reclaim(self, member: Member, then: Callable[[], object]) -> None:
        """Its job can go on: `then` is done as soon as there is a place for it."""
        if not member.lent:
            then()
        elif self.running < self._max:
            self.goes_on(member)
            then()
        else:
            self._returners.append((member, then))

    def _next_returner(self) -> None:
        while self._returners and self.running < self._max:
            member, then = self._returners.popleft()
            if member in self.members and member.lent:
                self.goes_on(member)
                then()

    def goes_on(self, member: Member) -> None:
        """Its job waits no longer."""
        member.lent = False
        self.running += 1
        self.lent -= 1

    def leave(self, member: Member) -> None:
        """A worker has ended: it holds no place any more."""
        self.members.discard(member)
        if member in self.idle:
            self.idle.remove(member)
        if member.lent:
            self.lent -= 1
        elif member.placed:
            self.running -= 1
        self.dispatcher.forget(member)
        self._next_returner()

    def put_back(self, jobs: list[Job]) -> None:
        """Jobs that were given away and have not begun: to the front of the queue, in their order."""
        for job in jobs:
            job.remote, job.started_at = self.crew, 0.0
        if self.backlog.lines:
            self.backlog.put_back(jobs)
        else:
            self.queue.extendleft(reversed(jobs))

    def remove(self, job: Job) -> None:
        """Take out of the queue what was put back."""
        if job in self.queue:
            self.queue.remove(job)
        else:
            self.backlog.remove(job)

    def take_back(self, member: Member) -> None:
        """Get back what has not begun there; nothing is put behind anything there until it has answered."""
        if len(member.in_flight) > 1:
            self.put_back(member.take_back())
            if member.placed and not member.lent and not member.busy:  # it had begun none of them
                self.rest(member)
                if member in self.idle:  # the last to be chosen
                    self.idle.remove(member)
                    self.idle.insert(0, member)
            member.stuck = True

    def _look_for_overdue(self) -> None:
        again = False
        for member in list(self.members):
            if len(member.in_flight) > 1:
                if member.replies == member.replies_seen:
                    self.exchange.hear_unsent(member)
                    self.take_back(member)
                member.replies_seen = member.replies
                again = again or len(member.in_flight) > 1
        self._watching_paces = again
        if again:
            self.crew.timers.after(OVERDUE, self._look_for_overdue)

    def _sweep(self) -> None:
        """Let workers go that have been idle for too long, and have those that stay let go of memory."""
        timeout = self.crew.options.idle_timeout
        now = perf_counter()
        old = [member for member in self.idle if now - member.idle_since >= timeout and not self.awaited]
        for member in old:
            self.idle.remove(member)
            self.endings.retire(member)
        if old:
            self.wanted, self.spare = 0, False
        for member in self.idle:
            if now - member.idle_since >= TRIM and not member.trimmed:
                self._trim(member)
        self._sweeping = bool(self.idle)
        if self.idle:
            self.crew.timers.after(min(TRIM, max(SOON, timeout - (now - self.idle[0].idle_since))), self._sweep)

    def _trim(self, member: Member) -> None:
        """Let go of the blocks that lie ready, here and there."""
        member.trimmed = True
        for ident in member.store.trim():
            member.send(frames.FORGET, ident)
        member.send(frames.TRIM, 0)
        self._to_flush.add(member)

    # -- hiring --------------------------------------------------------------------------------------------------------

    def _hire(self) -> None:
        if self.paused:
            return
        crew = self.crew
        needed = min(self._startable(), self._max - self.running)
        if not crew.closing:
            needed = max(needed, self.wanted - self.running - len(self.idle))
            if self.spare and not self.idle and self.running:
                needed = max(needed, 1)
        for _ in range(needed - self.starting):
            self.starting += 1
            number = next(crew.numbers)
            crew.aside(self.endings.launched, _launch, f"{crew.name}-{number}", crew.options)

    def _startable(self) -> int:
        """The queued jobs that may begin as soon as there are workers for them."""
        begun = self.running + self.lent
        room = self.bound.limit - begun
        if not self.backlog.lines and (len(self.queue) <= room or self._max - self.running <= room):
            return min(len(self.queue), room)
        self.backlog.take_over(self.queue)
        return min(self.backlog.count(self.bound.depth(begun)), self.bound.room(begun))

    def prestart(self, count: int, ready: Callable[[BaseException | None], object]) -> None:
        """Have `count` workers and a spare, whether there is work for them or not; `ready` is told when, or why not."""
        self.wanted = max(self.wanted, count + 1)
        self.awaited.append((count + 1, ready))
        self._tell_who_waits_for_workers()

    def _tell_who_waits_for_workers(self) -> None:
        there = self.running + len(self.idle)
        for count, ready in [each for each in self.awaited if each[0] <= there]:
            self.awaited.remove((count, ready))
            self.crew.todo.append(partial(ready, None))

    def joined(self, member: Member) -> None:
        """A worker is ready."""
        member.ready = True
        self.starting -= 1
        if self.crew.closing and not self.has_queued:
            self.endings.retire(member)
            return
        self.running += 1
        self.rest(member)
        self._tell_who_waits_for_workers()

    def watch(self, member: Member) -> None:
        """Notice what it says, and its end."""
        crew, home = self.crew, self.crew.home
        lines = member.lifelines
        home.watch(lines, lines.sock.fileno(), crew.look, home, partial(self.exchange.hear, member))
        home.watch(lines, lines.child.ended, crew.look, home, partial(self.endings.ended, member))
        if member.blocked:
            self.exchange.wait_until_writable(member)

    def unwatch(self, member: Member) -> None:
        """Notice nothing of it any more."""
        home, lines = self.crew.home, member.lifelines
        home.unwatch(lines.sock.fileno())
        home.unwatch(lines.child.ended)

    def kill_all(self) -> None:
        """End every worker at once, with what it runs."""
        for member in list(self.members):
            self.endings.kill(member)

    def dismiss(self) -> None:
        """There will be no more work: let everybody go."""
        for member in list(self.idle):
            self.idle.remove(member)
            self.endings.retire(member)
        for member in self.members:
            if not member.ready and not member.retiring:
                self.endings.kill(member)


def _launch(name: str, options: Options) -> Lifelines:
    return launch(name, options.environment())

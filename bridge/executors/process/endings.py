"""How worker processes begin and end: start-up, retirement, kills, crashes, memory.

    launch ──> SETUP ──> READY ──> ... ──> QUIT ──> exit 0
                 '── three deaths in a row: those who wait are told
    condemn: soft flag ── grace ──> SIGTERM ── grace ──> SIGKILL; a spare is started at once, so that the next job need
    not wait for a process
    ended: hear the rest -> bury: the job that had begun fails (or was cancelled), the others go back to the queue

All of it runs on the home's thread, under the crew's turn. Signals are sent by a helper thread, because finding the
descendants of a process means reading all of /proc.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from concurrent.futures import CancelledError
from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING

from bridge.executors.process import deaths, obituary, tree
from bridge.executors.process.calls import RemoteCalls
from bridge.executors.process.launch import Lifelines, end_at_once
from bridge.executors.process.logs import levels
from bridge.executors.process.member import Member
from bridge.executors.process.wire import frames
from bridge.executors.process.wire.errors import unpack_error
from bridge.executors.process.wire.page import INITIALIZING, STARTING
from bridge.threads.future_job import FutureJob
from bridge.threads.job import Job, name_of

if TYPE_CHECKING:
    from bridge.executors.process.roster import Roster

#: Workers that may die in a row while they start, before those who wait are told.
ATTEMPTS = 3
#: Seconds before another worker is started when one could not be; twice as long each time, up to the longest.
PAUSE, LONGEST_PAUSE = 0.25, 10.0
#: Seconds after which a worker that was killed and has not ended is killed once more.
AGAIN = 1.0
#: Seconds between two looks at the memory of those that run.
MEMORY_INTERVAL = 0.02
#: Seconds that an ended worker has to leave, at least, before it is killed.
LEAVE = 5.0


class Endings:
    """The lives of one roster's workers."""

    def __init__(self, roster: Roster):
        self._roster = roster
        self._crew = roster.crew
        self._failed_starts = 0
        self._watching_memory = False

    # -- the beginning -------------------------------------------------------------------------------------------------

    def launched(self, lifelines: Lifelines | None, error: BaseException | None) -> None:
        """A process was started, or could not be."""
        crew, roster = self._crew, self._roster
        if lifelines is None:
            assert error is not None
            roster.starting -= 1
            self._start_failed(partial(obituary.could_not_start, crew.name, error))
            return
        member = Member(crew, lifelines, crew.options.max_tasks_per_child)
        member.calls = RemoteCalls(crew, member)
        try:
            roster.watch(member)
        except Exception as reason:  # the loop can watch no more
            roster.unwatch(member)
            crew.aside(_ignore, end_at_once, lifelines)
            roster.starting -= 1
            self._start_failed(partial(obituary.could_not_start, crew.name, reason))
            return
        roster.members.add(member)
        member.send(frames.PREPARE, 0, lifelines.preparation)
        options = crew.options
        try:
            setup = frames.Setup(options.initializer, options.initargs, options.context_specs, levels())
            parcel = member.packer.pack(setup)
        except BaseException as reason:
            self._could_not_set_up(member, reason, began=False)
            return
        member.send(frames.SETUP, 0, parcel)
        roster.to_flush(member)

    def set_up(self, member: Member) -> None:
        """It is ready."""
        self._failed_starts = 0
        self._roster.joined(member)

    def could_not_set_up(self, member: Member, payload: bytes) -> None:
        """Its initializer raised, or could not be unpickled there; it ends by itself."""
        reason = unpack_error(payload, member.unpacker)
        self._could_not_set_up(member, reason, began=member.phase == INITIALIZING)

    def _could_not_set_up(self, member: Member, reason: BaseException, *, began: bool) -> None:
        member.retiring = True
        self._failed_starts = ATTEMPTS
        crew = self._crew
        initializer = crew.options.initializer
        deaths.tell_setup_failed(member, obituary.how_setup_failed(crew.name, member.pid, initializer, reason, began))
        member.verdict = partial(obituary.initializer_failed, crew.name, member.pid, initializer, reason, began=began)
        self.kill(member)

    def _start_failed(self, error_for: Callable[[Job], BaseException]) -> None:
        roster = self._roster
        roster.spare = False
        pause = min(PAUSE * 2**self._failed_starts, LONGEST_PAUSE)
        self._failed_starts += 1
        if self._failed_starts >= ATTEMPTS:
            roster.wanted = 0
            roster.outcomes.fail_awaited(error_for)
            if not any(member.ready for member in roster.members):
                roster.outcomes.fail_queued(error_for)
                return
        roster.paused = True
        self._crew.timers.after(pause, self._go_on)

    def _go_on(self) -> None:
        self._roster.paused = False

    # -- retirement ----------------------------------------------------------------------------------------------------

    def retire(self, member: Member) -> None:
        """It is idle, and off the idle list: let it go."""
        member.retiring = True
        member.send(frames.QUIT, 0)
        self._roster.to_flush(member)
        patience = max(LEAVE, self._crew.options.grace)
        member.alarms.append(self._crew.timers.after(patience, partial(self.kill, member)))

    # -- killing -------------------------------------------------------------------------------------------------------

    def condemn(self, member: Member, job: Job) -> None:
        """End the job that it runs, and itself if need be."""
        if member.condemned is not None:
            return
        member.condemned = job
        member.verdict = CancelledError
        member.stopped_by = tree.stopping_signal(member.pid)
        self._roster.spare = True
        self._after(member, self._crew.options.grace, self._terminate)

    def condemn_for_memory(self, member: Member, job: Job, rss: int) -> None:
        """It uses more than it may: end it now."""
        member.condemned = job
        limit = self._crew.options.memory_limit or 0
        member.verdict = partial(obituary.memory_exceeded, member.pid, name_of(job.named), rss, limit, self._crew.name)
        self._roster.spare = True
        member.retiring = True
        self.kill(member)

    def reprieve(self, member: Member) -> None:
        """The job has ended by itself. The worker stays, unless a signal is on its way to it."""
        member.condemned = None
        if not member.retiring:
            member.verdict = None
            for alarm in member.alarms:
                alarm.cancel()
            member.alarms.clear()

    def _terminate(self, member: Member) -> None:
        member.retiring = True
        self._crew.aside(_ignore, tree.end, member.lifelines.child, signal.SIGTERM)
        self._after(member, self._crew.options.grace, self.kill)

    def kill(self, member: Member) -> None:
        """End a worker and its descendants at once."""
        member.retiring = True
        if member in self._roster.members:
            self._crew.aside(_ignore, tree.end, member.lifelines.child, signal.SIGKILL)
            member.alarms.append(self._crew.timers.after(AGAIN, partial(self._kill_again, member)))

    def _kill_again(self, member: Member) -> None:
        if member.lifelines.child.poll():
            self.ended(member)  # and nothing has said so
        else:
            self.kill(member)

    def _after(self, member: Member, seconds: float, step: Callable[[Member], object]) -> None:
        if seconds <= 0:
            step(member)
        else:
            member.alarms.append(self._crew.timers.after(seconds, partial(step, member)))

    # -- death ---------------------------------------------------------------------------------------------------------

    def ended(self, member: Member) -> None:
        """The process is no more."""
        if member.gone:
            return
        crew, roster = self._crew, self._roster
        roster.exchange.hear_the_rest(member)
        code = member.exit_code()
        phase = member.phase
        ran_since = {job: job.started_at for job, _ in member.in_flight.values()}
        roster.leave(member)
        member.gone = True
        had_begun, had_not = member.bury()
        if member.condemned in had_not and member.verdict is CancelledError:
            had_not.remove(member.condemned)  # killed on its way into the function: it must not begin elsewhere
            had_begun.append(member.condemned)
        roster.put_back(had_not)
        if crew.given_up:
            roster.outcomes.drop_queued()
        if member.ready:
            victim = next(iter(had_begun), None)
            ran_for = 0.0 if victim is None else perf_counter() - ran_since[victim]
            deaths.tell(member, code, "idle" if victim is None else "running", victim, ran_for, had_not)
        for job in had_begun:
            self._casualty(member, job, code, perf_counter() - ran_since[job])
        crew.todo.append(member.calls.drop_all)
        roster.unwatch(member)
        member.close()
        if not member.ready:
            roster.starting -= 1
            self._died_starting(member, code, phase)
        elif had_begun or not member.retiring:
            roster.spare = True

    def _casualty(self, member: Member, job: Job, code: int | None, ran_for: float) -> None:
        roster = self._roster
        if job.is_chunk:
            job.died_in = member.call_of_chunk
        if member.condemned is job and member.verdict is CancelledError:
            roster.outcomes.cancelled += 1
            roster.outcomes.failed -= 1
            error: BaseException = CancelledError(
                obituary.ended_with_its_worker(name_of(job.named), member.pid, member.stopped_by)
            )
        elif member.condemned is job and member.verdict is not None:
            error = member.verdict()
        elif self._crew.given_up and member.retiring:
            error = obituary.ended_at_close(name_of(job.named), member.pid, code, self._crew.name, ran_for)
            if isinstance(job, FutureJob):
                job.future.tell_nothing()  # closing the executor has reported this function
        elif member.retiring and obituary.signal_of(code) in (signal.SIGTERM, signal.SIGKILL):
            error = obituary.ended_with_another(name_of(job.named), member.pid, code, self._crew.name)
        else:
            error = obituary.worker_died(
                name_of(job.named), member.pid, code, self._crew.name, phase="running", ran_for=ran_for
            )
        roster.outcomes.fail(job, error)

    def _died_starting(self, member: Member, code: int | None, phase: int) -> None:
        if self._crew.closing and not self._roster.has_queued:
            return
        if member.verdict is not None:
            self._start_failed(lambda job: member.verdict())
            return
        name = {STARTING: "starting", INITIALIZING: "initializer"}.get(phase, "starting")
        deaths.tell(member, code, name, None, 0.0, ())
        self._start_failed(
            lambda job: obituary.worker_died(
                name_of(job.named), member.pid, code, self._crew.name, phase=name, ran_for=0.0
            )
        )

    # -- memory --------------------------------------------------------------------------------------------------------

    def watch_memory(self) -> None:
        """Look at the memory of those that run, as long as any does, if there is a limit."""
        if self._crew.options.memory_limit is not None and not self._watching_memory:
            self._watching_memory = True
            self._crew.timers.after(MEMORY_INTERVAL, self._look_at_memory)

    def _look_at_memory(self) -> None:
        limit = self._crew.options.memory_limit
        assert limit is not None
        busy = [member for member in self._roster.members if member.in_flight]
        for member in busy:
            rss = tree.rss(member.pid)
            member.most_memory = max(member.most_memory, rss)
            if rss > limit and not member.retiring:
                self._roster.take_back(member)
                job = member.job or next(iter(member.in_flight.values()))[0]
                self.condemn_for_memory(member, job, rss)
        self._watching_memory = False
        if busy:
            self.watch_memory()


def _ignore(value: object, error: BaseException | None) -> None: ...

"""The crew: everything that happens with one executor's jobs and worker processes, on one loop's thread at a time.

    submit_job, cancel, post: _incoming.append ── first since the last look? ──> ring the home
    home's thread: look: take in -> dispatch -> flush -> hand over what has come out, outside the turn -> look again

Owners and order:
- All state but `_incoming`, `_rung` and `closing` belongs to the home's thread, and is touched while it holds `_turn` and
  the crew still lives there. `_turn` is only ever held for one look; no code of users runs under it but their pickling.
- The crew lives on the loop that uses it, as long as nobody else does; then a reply is read by the very loop that waits
  for it. As soon as another loop, a thread or a trio run uses it as well, it moves to a background loop that nobody can
  block. Whoever moves it holds `_turn`: `_home` changes, the old home is told to forget, the new one to begin.
- Submitters append, then read `_rung`; a look clears `_rung`, then takes. One sees the other. If the home's loop is
  closed meanwhile, ringing says so, and the submitter moves the crew.
- What is left in the child of a fork is a copy of descriptors, which are closed there, so that a worker still notices the
  end of its real parent.
"""

from __future__ import annotations

from _thread import allocate_lock
from asyncio import TimerHandle
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import nullcontext, suppress
from contextvars import copy_context
from functools import partial
from itertools import count
from math import inf
from time import monotonic
from typing import Any
from weakref import WeakSet

from anyio import Event

from bridge.errors import ExecutorClosed, LoopClosed
from bridge.executors.process.crew_watch import CrewWatch
from bridge.executors.process.home import BackgroundHome, Home
from bridge.executors.process.launch import Lifelines, end_at_once
from bridge.executors.process.options import Options
from bridge.executors.process.roster import Roster
from bridge.executors.process.timers import Timers
from bridge.executors.process.wreck import Wreck
from bridge.loop.asyncio_host import AsyncioHost, AsyncioJob
from bridge.threads.fork import tell_after_fork
from bridge.threads.future_job import pending_of
from bridge.threads.host import Host
from bridge.threads.importing import refuse_in_an_import
from bridge.threads.inbox import Item
from bridge.threads.job import Job
from bridge.threads.locks import wait_until_free
from bridge.threads.pool import WorkerPool
from bridge.threads.queue_watch import QueueWatch

#: Threads that start processes and pickle what is large; they leave when idle.
HELPERS = 4
#: Seconds for which what starts the crew anew waits for a look to end.
WAIT_FOR_TURN = 1.0
#: Seconds for which a crew that had to move to a background loop stays there, even if one loop alone uses it again.
STAY = 1.0

crews: WeakSet[Crew] = WeakSet()


class _Ring(Item):
    """A look at the crew, through a home's door."""

    __slots__ = ("crew", "home")

    def __init__(self, crew: Crew, home: Home):
        self.crew = crew
        self.home = home

    def _run(self) -> None:
        self.crew.look(self.home)


class _Aside(Job):
    """Something that would block the home for too long, on its way to a helper thread and back."""

    __slots__ = ("crew", "roster", "then")
    internal = True
    crew: Crew
    roster: Roster
    then: Callable[[Any, BaseException | None], object]

    def deliver(self) -> None:
        value, error = self.take_outcome()
        if not self.crew.post(partial(self.come_back, value, error)) and isinstance(value, Lifelines):
            end_at_once(value)  # started for a crew that is finished

    def come_back(self, value: Any, error: BaseException | None) -> None:
        if self.roster is self.crew.roster:
            self.crew.asides -= 1
        elif isinstance(value, Lifelines):  # started for a roster that is gone
            end_at_once(value)
            return
        self.then(value, error)


class Crew:
    """The worker processes of one executor, and the jobs they have to do."""

    def __init__(self, options: Options):
        self.options: Options = options
        self.name: str = options.name
        self.helpers: WorkerPool = WorkerPool(HELPERS, f"{options.name}-helper", 10.0, inf)
        self._start_afresh()
        crews.add(self)
        tell_after_fork(self)

    def _start_afresh(self) -> None:
        self.closing: bool = False
        self.finished: bool = False
        self.given_up: bool = False  # what still ran was reported, and its workers are killed
        #: Jobs with their outcome, and other things to be done outside the turn.
        self.todo: deque[Job | Callable[[], object]] = deque()
        self.timers: Timers = Timers(self._arm)
        self.roster: Roster = Roster(self)
        self._incoming: deque[Job | Callable[[], object]] = deque()
        self._rung = False
        self._turn = allocate_lock()
        self._home: Home | None = None
        self._stay_until = 0.0
        #: Holds the watch of the queue, while it does not watch.
        limit = self.options.queue_limit
        self.resting: list[QueueWatch] = [] if limit == inf else [CrewWatch(self, limit)]
        self.asides: int = 0  # under way in helper threads
        self.numbers: Iterator[int] = count(1)
        self._when_finished: list[Callable[[], object]] = []
        self._wrecks: list[Wreck] = []

    # -- in, from any thread -------------------------------------------------------------------------------------------

    def submit_job(self, job: Job) -> None:
        """Accept a job; it is begun at most once. Raises ExecutorClosed."""
        if self.closing:
            raise self._closed_error()
        home = self._home
        if home is None:
            refuse_in_an_import(f"a function of {self.name!r}, for which processes are started,")
        self._incoming.append(job)
        try:
            if home is None or home.host is not job.origin or not job.awaited:
                home = self._home_for(job.origin if job.awaited else None)
            if not self._rung:
                self._ring(home)
        except Exception:  # no descriptor, or no thread, for a background loop
            if job.withdraw():
                raise
        if self.closing and job.withdraw():  # type: ignore[unreachable]  # closed since we looked
            raise self._closed_error()

    def withdraw(self, job: Job) -> bool:
        """Take back a job that has not been given to a worker; an empty shell is left in the queue."""
        if not job.withdraw():
            return False
        self.post(self.roster.outcomes.count_cancelled)
        return True

    def cancel(self, job: Job, kill: bool) -> None:
        """Nobody wants the result of a job that was given to a worker."""
        self.post(partial(self.roster.outcomes.cancel, job, kill))

    def post(self, action: Callable[[], object]) -> bool:
        """Have `action` done on the home's thread, under its turn. False, and not done, if there is nothing it could be
        done to: the crew is finished, or has never been used."""
        if self.finished or not (self.used or self._incoming or self.asides):
            return False
        self._incoming.append(action)
        if not self._rung or self._stands_still():
            self._ring(self._awake_home())
        return True

    def aside(self, then: Callable[[Any, BaseException | None], object], fn: Callable[..., Any], *args: Any) -> None:
        """Have `fn(*args)` done in a helper thread, and `then(value, error)` on the home's thread, under its turn."""
        job = _Aside(fn, args, {}, None)
        job.crew = self
        job.roster = self.roster
        job.then = then
        self.asides += 1
        try:
            self.helpers.submit_job(job)
        except RuntimeError:  # no thread can be started, because the interpreter is ending: nobody minds a short wait now
            job.fn, job.args, job.kwargs, job.context = fn, args, {}, copy_context()
            job.run()
            job.deliver()

    @property
    def used(self) -> bool:
        """Has it processes, or had it anything to do? From any thread."""
        outcomes = self.roster.outcomes
        return self._home is not None or bool(self.roster.members or outcomes.completed or outcomes.failed)

    def not_taken_in(self) -> list[Job]:
        """Jobs that were accepted and that the home has not seen yet."""
        return [each for each in list(self._incoming) if isinstance(each, Job)]

    async def prestart(self, host: Host, count: int) -> None:
        """Return when so many workers, and a spare one, are ready. Raises what keeps them from it."""
        ready = Event()
        outcome: list[BaseException | None] = []

        def told(error: BaseException | None) -> None:
            outcome.append(error)
            with suppress(LoopClosed):
                host.call_soon(ready.set, ())

        if self.closing:
            raise self._closed_error()
        self._incoming.append(partial(self.roster.prestart, count, told))
        self._ring(self._home or self._home_for(host))
        await ready.wait()
        if outcome[0] is not None:
            raise outcome[0]

    def _closed_error(self) -> ExecutorClosed:
        return ExecutorClosed(
            f"{self.name!r} was shut down and takes no more work. Submit inside its `with` block, "
            f"or keep the executor open for as long as anything uses it."
        )

    # -- where it lives ------------------------------------------------------------------------------------------------

    @property
    def home(self) -> Home:
        """Where the crew lives, for those that run there."""
        assert self._home is not None
        return self._home

    def _ring(self, home: Home) -> None:
        while True:
            try:
                self._rung = True
                if home.is_here:
                    home.loop.call_soon(self.look, home)
                else:
                    home.host.post(_Ring(self, home))
                return
            except RuntimeError:  # LoopClosed is one
                self._rung = False
                home = self._any_home()
            except BaseException:  # Ctrl-C
                self._rung = False
                raise

    def _home_for(self, host: Host | None) -> Home:
        """The home for what a task on `host`'s loop waits for; None for what somebody else waits for.

        The loop itself if it alone uses the crew, else a background loop.
        """
        alone = isinstance(host, AsyncioHost) and host.runs_here()
        home = self._home
        if home is not None and home.is_here and self._turn.locked():
            return home  # inside a look: a signal handler, a finalizer, or somebody's pickling
        with self._turn:
            home = self._home
            if home is not None and not home.is_gone:
                if home.host is host if not home.own else not (alone and self._may_move_onto_a_loop()):
                    return home
                alone = alone and home.own
            if alone:
                assert isinstance(host, AsyncioHost)
                return self._move(Home(host, self._home_ends))
            return self._move_to_background()

    def _any_home(self) -> Home:
        with self._turn:
            home = self._home
            alive = home is not None and not home.is_gone and not self._stands_still()
            return home if home is not None and alive else self._move_to_background()

    def _stands_still(self) -> bool:
        """Does it live on a loop that was stopped, and perhaps never runs again?"""
        home = self._home
        return home is not None and not home.own and not home.loop.is_running()

    def _awake_home(self) -> Home:
        """A home that runs, for what is not to wait until its loop runs again."""
        home = self._home
        return self._any_home() if home is None or self._stands_still() else home

    def _move_to_background(self) -> Home:
        self._stay_until = monotonic() + STAY
        return self._move(BackgroundHome(self.name, self._home_ends))

    def _may_move_onto_a_loop(self) -> bool:
        return monotonic() >= self._stay_until and self.roster.at_rest and len(self._incoming) <= 1

    def _move(self, home: Home) -> Home:
        # The assignment is what counts: the first look at a home begins there, a look at a home that was left ends it.
        old, self._home = self._home, home
        if old is not None:
            old.end()
        try:
            self._rung = True
            if home.is_here:
                home.loop.call_soon(self.look, home)
            else:
                home.host.call_soon(self.look, (home,))
        except BaseException:
            self._rung = False
            raise
        return home

    def _begin(self, home: Home) -> None:
        home.move_in()
        for member in self.roster.members:
            self.roster.watch(member)
        self.timers.moved()

    def _home_ends(self, home: Home) -> None:
        """The loop is being closed. Its own jobs are over; the workers, and what was left to itself, need another."""
        try:
            with self._turn:
                if home is not self._home:
                    return
                if self.roster.members or self.roster.starting or self._incoming or not self.roster.at_rest:
                    self._move_to_background()
                else:
                    self._home = None
                    self._rung = False
        except OSError:  # no descriptor for another one: who uses the crew next makes it
            self._home = None
            self._rung = False
        except RuntimeError as error:
            self._end_without_home(error)

    def move_off_this_loop(self) -> None:
        """The calling thread is going to block: if the crew lives here, it must not."""
        with self._turn:
            home = self._home
            if home is not None and home.is_here:
                self._move_to_background()

    # -- on the home's thread ------------------------------------------------------------------------------------------

    def look(self, home: Home, hear: Callable[[], object] | None = None) -> None:
        """Do whatever there is to do. `hear` first, if something can be read from a worker."""
        while True:
            try:
                with self._turn:
                    if home is not self._home:
                        home.end()
                        return
                    if not home.begun:
                        self._begin(home)
                    if hear is not None:
                        hear()
                        hear = None
                    self._rung = False
                    self._take_in()
                    self.roster.dispatch()
                    if self.closing:
                        self._end_if_done()
                    self.roster.flush()
                    if not self.todo:
                        return
                    self._rung = True  # what is submitted from now on is seen by the next turn of this loop
            except BaseException as error:  # Ctrl-C, at any instruction
                self.reset(error)
                raise
            self._hand_over(home)

    def _take_in(self) -> None:
        incoming, queue = self._incoming, self.roster.queue
        while incoming:
            thing = incoming.popleft()
            if isinstance(thing, Job):
                queue.append(thing)
            else:
                thing()

    def _hand_over(self, home: Home) -> None:
        todo = self.todo
        host = None if home.loop.get_debug() else home.host  # in debug mode each step is timed by itself
        try:
            while todo:
                thing = todo.popleft()
                if type(thing) is AsyncioJob and thing.origin is host:
                    thing._run()  # the task goes on at once, and what it submits is sent with this look
                elif isinstance(thing, Job):
                    thing.deliver()
                else:
                    thing()
        except BaseException:  # Ctrl-C
            self._rung = False
            self._ring(home)
            raise

    def _arm(self, seconds: float) -> TimerHandle:
        home = self.home
        return home.loop.call_later(seconds, self.look, home, self.timers.ring)

    # -- the end -------------------------------------------------------------------------------------------------------

    def close(self, cancel_queued: bool = False) -> None:
        """Take no more jobs; the workers end when all is done. Does not wait."""
        self.closing = True
        self._clear_wrecks()
        if self.finished:
            self._finish()  # perhaps that was interrupted
            return
        if cancel_queued:
            self._incoming.append(self._drop_queued)
        if self._home is None and not (self._incoming or self.todo):
            with self._turn:
                if self._home is None and not (self._incoming or self.todo):
                    self._finish()
                    return
        try:
            self._ring(self._awake_home())  # even if it has been rung already: that may have been interrupted
        except RuntimeError as error:
            self._end_without_home(error)

    def _end_without_home(self, error: RuntimeError) -> None:
        """No thread can be started for a home, because the interpreter is ending: nothing more can be done."""
        self.closing = True
        wreck = Wreck(self.roster, self._home, error)
        self._wrecks.append(wreck)
        self._clear_wrecks()
        for things in (self._incoming, self.todo):
            while things:
                thing = things.popleft()
                if isinstance(thing, Job):
                    wreck.fail(thing, self.name)
        self._finish()

    def _drop_queued(self) -> None:
        self.roster.outcomes.drop_queued()

    def when_finished(self, callback: Callable[[], object]) -> None:
        """Have `callback` called, in whatever thread, once the crew is closed and its last process has ended."""
        self._when_finished.append(callback)
        if self.finished:
            self._tell_finished()

    def _end_if_done(self) -> None:
        roster = self.roster
        if roster.at_rest and not self._incoming and not self.todo:
            roster.dismiss()
            if not roster.members and not roster.starting:
                self._finish()

    def _finish(self) -> None:
        # Whatever of this is interrupted, the next `close` does again.
        self.helpers.close()
        self.roster.outcomes.fail_awaited(lambda job: self._closed_error())
        home, self._home = self._home, None
        if home is not None:
            home.end()
        self.finished = True
        self._tell_finished()

    def _tell_finished(self) -> None:
        for callback in list(self._when_finished):
            with suppress(LoopClosed):
                callback()
            with suppress(ValueError):  # another thread was quicker
                self._when_finished.remove(callback)

    # -- after an interruption -----------------------------------------------------------------------------------------

    def reset(self, error: BaseException | None) -> None:
        """Start anew, in whatever state the crew is: end every worker, and fail every call that was taken in.

        `error` has interrupted a look; None: workers that were killed have not ended. From any thread, without the turn.
        """
        self._wrecks.append(Wreck(self.roster, self._home, error))
        self._clear_wrecks()
        if self.closing:
            self.close()
        elif self._incoming or self.todo:
            self._ring(self._any_home())

    def _clear_wrecks(self) -> None:
        """Do what is still to be done of it; each step may be done twice."""
        while self._wrecks:
            wreck = self._wrecks[-1]
            if self.roster is wreck.roster:
                self._leave(wreck)
            if wreck.home is not None:
                wreck.home.end()
            members = list(wreck.roster.members)
            for member in members:
                member.end_at_once()
            coming = {id(each) for each in (*self._incoming, *self.todo)}
            for job in (*wreck.jobs(), *pending_of(self)):
                if id(job) not in coming:
                    wreck.fail(job, self.name)
            for member in members:
                member.calls.drop_all()
            with suppress(ValueError):  # another thread was quicker
                self._wrecks.remove(wreck)

    def _leave(self, wreck: Wreck) -> None:
        with self._turn if wait_until_free(self._turn, WAIT_FOR_TURN) else nullcontext():
            self._home = None
            self._rung = False
            self.asides = 0
            self.timers = Timers(self._arm)
            self.roster = Roster(self)

    def after_fork_in_child(self) -> None:
        """The processes, and the jobs they have, are the parent's; new work finds new workers."""
        for member in self.roster.members:
            member.after_fork_in_child()
        closing = self.closing
        self._start_afresh()
        self.closing = self.finished = closing

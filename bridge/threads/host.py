"""What every event loop must offer so that the ground floor can serve it. The loop room implements it per loop.

A Host stands for one loop from the first time bridge meets it until the loop's end. It owns the door (`post`), the set
of callers who wait for the loop (`waits`), and the answer to "is it still there?" (`trouble`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Container, Iterator
from contextlib import contextmanager, suppress
from threading import get_ident
from typing import TYPE_CHECKING, Any, Literal, NoReturn, Protocol

from bridge.errors import BridgeError, LoopClosed, WouldDeadlock
from bridge.threads.deadlock import tell_refused, thread_of
from bridge.threads.fork import tell_after_fork
from bridge.threads.inbox import Item
from bridge.threads.job import name_of
from bridge.threads.pool import DEFAULT_IDLE_TIMEOUT, DEFAULT_MAX_WORKERS, WorkerPool
from bridge.threads.sentry import sentry

if TYPE_CHECKING:
    from bridge.threads.calls import Call
    from bridge.threads.job import Job
    from bridge.threads.worker import Worker

#: What happens to a running function when the side that awaits it gives up (docs/cancellation.md).
CancelMode = Literal["wait", "abandon", "kill"]


#: Seconds for which a call may hold up the end of the program, unless its loop is given less time to shut down.
EXIT_TIMEOUT = 5.0


class Waiting(Protocol):
    """A thread that waits for a loop: something that can be answered in the loop's stead."""

    #: False for what the loop's own tasks have begun; it ends with them.
    from_a_thread: bool

    def refuse(self, error: BridgeError) -> None: ...

    def leave_behind(self, reason: str) -> None: ...

    def blocks_any_of(self, threads: Container[int]) -> bool: ...


class Named(Protocol):
    """What workers belong to."""

    name: str


class Carrier(Protocol):
    """What takes jobs to workers."""

    def submit_job(self, job: Job) -> None: ...

    def withdraw(self, job: Job) -> bool: ...


class Host(ABC):
    """One event loop, as seen by threads. Created on the loop's own thread."""

    #: The loop, or whatever identifies it: an asyncio loop, a trio token.
    loop: Any
    #: Accept an item to be run once on the loop, in order; from any thread. Raises LoopClosed.
    post: Callable[[Item], None]

    #: Make a job of `fn, args, kwargs` whose outcome comes back to a waiter on this loop.
    new_job: Callable[[Callable[..., Any], tuple[Any, ...], dict[str, Any]], Job]

    def __init__(self) -> None:
        #: Who waits for this loop, and in which worker (None: a thread that is not one).
        self.waits: dict[Waiting, Worker | None] = {}
        #: Executors by name, for `to=`: the one opened last of each name.
        self.lanes: dict[str, Any] = {}
        self._opened: dict[str, list[Any]] = {}
        #: Those of them that were made for this loop and end with it.
        self.owned: dict[str, Any] = {}
        #: When the program, having begun to end, stops waiting for functions (`time.monotonic`); None before.
        self.deadline: float | None = None
        self._when_idle: Callable[[], object] | None = None
        #: Called, in whatever thread, when the loop ends. Added to on the loop's thread, by `at_end`.
        self.when_closed: set[Callable[[], object]] = set()
        self._standing: tuple[Named, str] | None = None
        self.closed: str | None = None
        self.left_behind: bool = False
        #: Seconds for which a thread that waits for this loop may hold up the end of the program.
        self.exit_timeout: float = EXIT_TIMEOUT
        #: The thread in which bridge met the loop; loops of asyncio know themselves which thread runs them.
        self.made_in: int = get_ident()
        #: True once the loop is being shut down and waits for functions no longer; then each of `patient` is called.
        self.leaving: bool = False
        self.patient: set[Callable[[], object]] = set()
        self._pool: WorkerPool | None = None
        tell_after_fork(self)
        sentry.watch(self)

    @abstractmethod
    def __repr__(self) -> str: ...

    def run_main(self, main: Awaitable[Any]) -> Awaitable[Any]:
        """What the main task of a run that bridge has started awaits: `main`, or something around it."""
        return main

    @abstractmethod
    def start(self, call: Call) -> None:
        """On the loop: run the call's function in its context, await what it returns, answer the call."""

    @abstractmethod
    def cancel(self, call: Call) -> None:
        """On the loop: cancel the coroutine of a call that has started. It answers when its clean-up is done."""

    @abstractmethod
    def call_soon(self, callback: Callable[..., object], args: tuple[Any, ...]) -> None:
        """Run `callback(*args)` on the loop soon, in the caller's context; from any thread. Raises LoopClosed."""

    @abstractmethod
    def perform(self, carrier: Carrier, job: Any, cancel: CancelMode) -> Awaitable[Any]:
        """On the loop: submit `job` (made by `new_job`), wait for it, cancel it as asked; return or raise its outcome."""

    @abstractmethod
    def raise_cancelled(self) -> NoReturn:
        """In a worker: raise what a cancelled function should end with."""

    @abstractmethod
    def runs_here(self) -> bool:
        """Is the calling thread the one that runs this loop just now?"""

    @abstractmethod
    def trouble(self) -> str | None:
        """From any thread: why the loop does not answer at this moment, or None. Starts with "closed" if it is final."""

    def expect(self, waiting: Waiting, worker: Worker | None) -> None:
        """Somebody is going to wait for this loop, blocking `worker`. Comes before `post`. Raises LoopClosed."""
        self.waits[waiting] = worker
        if self.closed is not None:
            self.forget(waiting)
            raise LoopClosed(self.closed)
        standing = self._standing
        if standing is not None and worker is not None and worker.pool is standing[0]:
            self.forget(waiting)
            raise self._would_deadlock(standing[1], worker)
        if sentry.permits:
            sentry.call()

    def blocks(self, waiting: Call, worker: Worker | None) -> None:
        """A worker that did not block before is going to wait for the answer. Raises WouldDeadlock."""
        if worker is None or waiting not in self.waits:
            return
        self.waits[waiting] = worker
        if waiting.answered:  # in between
            self.forget(waiting)
        standing = self._standing
        if standing is not None and worker.pool is standing[0]:
            raise self._would_deadlock(standing[1], worker)

    def forget(self, waiting: Waiting) -> None:
        """It has its answer."""
        self.waits.pop(waiting, None)
        if self._when_idle is not None and not self.has_callers:
            with suppress(LoopClosed):
                self._when_idle()

    def when_idle(self, callback: Callable[[], object]) -> None:
        """Have `callback` called, from any thread, more than once if need be, whenever nobody waits for this loop."""
        self._when_idle = callback
        if not self.has_callers:
            callback()

    @property
    def has_callers(self) -> bool:
        """Does any thread wait for an answer that it asked for? (Not: a worker that waits for a consumer on the loop.)"""
        return any(waiting.from_a_thread for waiting in list(self.waits))

    @contextmanager
    def standing_still(self, pool: Named, what: str) -> Iterator[None]:
        """While the loop's own thread is blocked by waiting for `pool`: refuse the pool's workers, who would wait for it.

        The mark is set before the waiting ones are looked up, and a worker enters `waits` before it looks at the mark.
        """
        self._standing = (pool, what)
        try:
            for waiting, worker in list(self.waits.items()):
                if worker is not None and worker.pool is pool:
                    waiting.refuse(self._would_deadlock(what, worker))
            yield
        finally:
            self._standing = None

    def _would_deadlock(self, what: str, worker: Worker) -> WouldDeadlock:
        job = worker.job
        tell_refused(
            f"{name_of(job.named) if job else 'a function'} in thread {worker.thread.name!r} calls into a loop whose own "
            f"thread is blocked by {what}, and so waits for that function",
            getattr(worker.thread, "ident", None),
            thread_of(self),
            "async with, or await executor.aclose(), on the loop instead of the blocking call",
            {"bridge.executor.name": worker.pool.name},
        )
        return WouldDeadlock(
            f"{name_of(job.named) if job else 'a function'} in thread {worker.thread.name!r} calls into {self!r}, whose "
            f"own thread is blocked by {what}, and so waits for that function. "
            f"Write `async with` or `await executor.aclose()` on the loop instead of the blocking call."
        )

    def close(self, reason: str) -> None:
        """The loop has ended: refuse everything from now on and answer all who wait. Idempotent, from any thread."""
        if self.closed is None:
            self.closed = reason
        self.strand(reason)
        self.tell_end()

    def at_end(self, callback: Callable[[], object]) -> None:
        """On the loop: have `callback` called, in whatever thread, when the loop ends."""
        self.when_closed.add(callback)

    def tell_end(self) -> None:
        """Call all of them, once."""
        while self.when_closed:
            try:
                self.when_closed.pop()()
            except KeyError:  # two threads noticed
                pass

    def strand(self, reason: str) -> None:
        """Answer all who wait just now; the loop may run again later, and will not run what was refused."""
        for waiting in list(self.waits):
            waiting.refuse(LoopClosed(reason))
            self.forget(waiting)

    def leave(self) -> None:
        """On the loop: from now on nobody who was cancelled waits for the end of a function."""
        self.leaving = True
        for give_up in list(self.patient):
            give_up()

    def open_lane(self, name: str, executor: Any) -> None:
        """Give `executor` a name on this loop, hiding one that has it already."""
        self._opened.setdefault(name, []).append(executor)
        self.lanes[name] = executor

    def own_lane(self, name: str, executor: Any) -> None:
        """Likewise for one that ends with the loop: whoever runs the loop waits for it, else it is only closed."""
        self.open_lane(name, executor)
        self.owned[name] = executor
        self.at_end(lambda: executor.shutdown(wait=False))

    def close_lane(self, name: str, executor: Any) -> None:
        """Take the name away again; whoever had it before has it back."""
        opened = self._opened[name]
        opened.remove(executor)
        if opened:
            self.lanes[name] = opened[-1]
        else:
            del self.lanes[name]

    def pool(self) -> WorkerPool:
        """The worker threads that serve this loop where no executor is named; made when first asked for."""
        if self._pool is None:
            self._pool = WorkerPool(DEFAULT_MAX_WORKERS, "bridge-thread", DEFAULT_IDLE_TIMEOUT)
        return self._pool

    def pool_if_any(self) -> WorkerPool | None:
        return self._pool

    def after_fork_in_child(self) -> None:
        self.left_behind = True
        reason = (
            "this loop was left behind by a fork: it runs in the parent process only. "
            "Start a loop of its own in the child, with bridge.run(...) or bridge.background_loop()."
        )
        self.closed = reason
        for waiting in list(self.waits):
            waiting.leave_behind(reason)
        self.waits.clear()

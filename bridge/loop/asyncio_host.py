"""The host for any asyncio loop: bridge's own, the stock ones, uvloop.

    out: perform: submit the job, `await` it; the worker posts the job back through the door; `_run` resumes the task
    in:  start: run a portal call, its coroutine as a task whose first step is taken at once where Python can (3.12)

Owners: a job's `arrived`, `_wakeup` and `_interrupt` belong to the loop's thread, as does everything else here except
`deliver`, `post`, `call_soon` and `trouble`.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncGenerator, Callable, Generator
from concurrent.futures import CancelledError as ThreadCancelled
from contextlib import suppress
from contextvars import Context
from functools import partial
from types import coroutine
from typing import Any, NoReturn

import anyio

from bridge.callables import NOT_AWAITED, refuse_async
from bridge.errors import LoopClosed
from bridge.loop.debug import DebugHandle, creation_stack
from bridge.loop.ready import LeanHandle
from bridge.threads.calls import Call
from bridge.threads.host import CancelMode, Carrier, Host
from bridge.threads.inbox import Inbox, Item
from bridge.threads.job import Job, name_of

_EAGER = sys.version_info >= (3, 12)


class AsyncioJob(Job, Item):
    """A job that an asyncio task awaits; it is its own future, and its own message on the way back.

    A task waits for anything that has the face of a future (`_asyncio_future_blocking`, `get_loop`, `add_done_callback`,
    `result`, `cancel`). An asyncio.Future would schedule the task's next step for a later round of the loop; the job
    takes that step as soon as it arrives, which saves a handle, a round and a poll for each call.
    """

    __slots__ = ("_asyncio_future_blocking", "_interrupt", "_step", "_step_context", "arrived")

    origin: AsyncioHost

    def __init__(self, host: AsyncioHost, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]):
        Job.__init__(self, fn, args, kwargs, host)
        self.arrived: bool = False
        self._step: Callable[[AsyncioJob], object] | None = None
        self._interrupt: asyncio.CancelledError | None = None

    # -- arriving ------------------------------------------------------------------------------------------------------

    def deliver(self) -> None:
        try:
            self.origin.post(self)
        except LoopClosed:
            pass  # the loop is gone, and the awaiting task with it: nobody is left to be told

    def _run(self) -> None:
        self.arrived = True
        step = self._step
        if step is not None:
            self._step = None
            self._step_context.run(step, self)

    @property
    def _callback(self) -> Any:
        """The task's step, by which asyncio's debug mode names what was slow; while it runs, the loop knows it."""
        return self._step or getattr(self.origin.loop, "step_that_runs", None)

    # -- as a future, for the one task that awaits it ------------------------------------------------------------------

    def __await__(self) -> Generator[AsyncioJob, None, None]:
        while not self.arrived:
            self._asyncio_future_blocking = True
            yield self

    def get_loop(self) -> asyncio.AbstractEventLoop:
        return self.origin.loop

    def add_done_callback(self, step: Callable[[AsyncioJob], object], *, context: Context) -> None:
        self._step_context = context
        self._step = step

    def done(self) -> bool:
        return self.arrived

    def result(self) -> None:
        """What the task's next step begins with."""
        interrupt, self._interrupt = self._interrupt, None
        if interrupt is not None:
            raise interrupt

    def cancel(self, msg: object = None) -> bool:
        """Called by the task that is being cancelled: it is to go on with a CancelledError."""
        if self._step is None:
            return False
        self.interrupt(asyncio.CancelledError() if msg is None else asyncio.CancelledError(msg))
        return True

    def interrupt(self, error: asyncio.CancelledError) -> None:
        """End the wait, though nothing has arrived."""
        self._interrupt = error
        self.origin.loop.call_soon(self._resume)

    def _resume(self) -> None:
        step = self._step
        if step is not None and self._interrupt is not None:  # else the task has gone on already, and waits anew
            self._step = None
            self._step_context.run(step, self)


class Callback(LeanHandle, Item):  # type: ignore[misc]
    """A plain function that another thread has the loop call: a handle, and its own message on the way in.

    Whatever the function is, raises or returns concerns the loop's exception handler, and never the loop.
    """

    __slots__ = ()

    @property
    def named(self) -> Any:
        return self._callback

    def __repr__(self) -> str:
        try:
            return super().__repr__()
        except Exception:  # asyncio asks the function for attributes
            return Item.__repr__(self)

    def _run(self) -> None:
        try:
            value = self._context.run(self._callback, *self._args)
            if value is not None:
                refuse_async(self._callback, value, NOT_AWAITED)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:
            self._report(error)

    def _report(self, error: BaseException) -> None:
        made = getattr(self, "_source_traceback", None)
        context = {"message": f"Exception in callback {name_of(self._callback)}", "exception": error, "handle": self}
        self._loop.call_exception_handler(context if made is None else {**context, "source_traceback": made})


class DebugCallback(DebugHandle, Callback):  # type: ignore[misc]
    """A Callback that remembers where it was made."""

    __slots__ = ()


class AsyncioHost(Host):
    """One asyncio event loop, as seen by threads."""

    def __init__(self, loop: asyncio.AbstractEventLoop):
        super().__init__()
        self.loop: asyncio.AbstractEventLoop = loop
        self.ending: bool = False
        self._watch: AsyncGenerator[None, None] | None = None
        self.new_job: Callable[..., AsyncioJob] = partial(AsyncioJob, self)
        self._inbox: Inbox | None = None
        door = getattr(loop, "_bridge_door", None)  # bridge's own loop: straight into its ready queue
        if door is None:
            self._inbox = Inbox(loop.call_soon_threadsafe, loop.call_soon, loop.is_closed)
            door = self._inbox.put
        self.post: Callable[[Item], None] = door

    def __repr__(self) -> str:
        kind = type(self.loop)
        state = "closed" if self.loop.is_closed() else "running" if self.loop.is_running() else "not running"
        return f"<{kind.__module__.partition('.')[0]} {kind.__name__} at {id(self.loop):#x}, {state}>"

    # -- into the loop -------------------------------------------------------------------------------------------------

    def start(self, call: Call) -> None:
        if self.ending:
            call.decline(LoopClosed(f"{self!r} is about to be closed: its tasks have been cancelled already"))
            return
        try:
            value = call.context.run(call.fn, *call.args, **call.kwargs)
            if hasattr(type(value), "__await__"):
                self._start_task(call, value)
            else:
                call.answer(value, None)
        except BaseException as error:
            call.answer(None, error)
            if issubclass(type(error), (KeyboardInterrupt, SystemExit)):
                raise

    def _start_task(self, call: Call, awaitable: Any) -> None:
        coro = awaitable if asyncio.iscoroutine(awaitable) else _await(awaitable)
        try:
            if _EAGER and self.loop.get_task_factory() is None:
                task = asyncio.Task(coro, loop=self.loop, context=call.context, eager_start=True)
            else:
                task = self.loop.create_task(coro, context=call.context)
        except BaseException:  # such as a task factory's: the coroutine is not to be taken for a forgotten one
            coro.close()
            raise
        if task.done():
            _answer_from(task, call)
        else:
            call.task = task
            task.add_done_callback(lambda task: _answer_from(task, call))
            if sys.version_info >= (3, 14):
                asyncio.future_add_to_awaited_by(task, self._awaiting(call))
        del task  # an eager step keeps this frame alive in its traceback

    def _awaiting(self, call: Call) -> Any:
        """The task of this loop that awaits the job which waits for `call`, for asyncio's call graph."""
        job = call.waiting_job
        return getattr(job._step, "__self__", None) if type(job) is AsyncioJob and job.origin is self else None

    async def end_calls(self) -> None:
        """On the loop, once its tasks have been cancelled: start no more, and end what was started since."""
        self.ending = True
        tasks = [waiting.task for waiting in self.waits if isinstance(waiting, Call) and waiting.task is not None]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def cancel(self, call: Call) -> None:
        if call.task is not None:
            call.task.cancel()

    def call_soon(self, callback: Callable[..., object], args: tuple[Any, ...]) -> None:
        if self.closed is not None:
            raise LoopClosed(self.closed)
        loop = self.loop
        if loop.get_debug():
            self.post(DebugCallback(callback, args, loop, None, creation_stack(sys._getframe(1))))
        else:
            self.post(Callback(callback, args, loop, None))

    # -- out of the loop -----------------------------------------------------------------------------------------------

    @coroutine
    def perform(self, carrier: Carrier, job: AsyncioJob, cancel: CancelMode) -> Generator[Any, None, Any]:
        # A generator that yields the job itself, where a coroutine would need another one to await it with.
        carrier.submit_job(job)
        try:
            while not job.arrived:
                job._asyncio_future_blocking = True
                yield job
        except asyncio.CancelledError as cancelled:
            if carrier.withdraw(job):
                raise
            if cancel == "abandon":
                job.request_cancel(self.raise_cancelled)
                raise
            yield from self._wait_for_end(job, cancel)
            error = job.error
            if error is None or isinstance(error, (asyncio.CancelledError, ThreadCancelled)):
                raise cancelled
        if job.error is None:
            return job.value
        return job.unwrap()

    async def _wait_for_end(self, job: AsyncioJob, cancel: CancelMode) -> None:
        """The task was cancelled and its function runs on: tell the function, and wait until it has ended.

        Shielded, or an anyio scope would deliver its cancellation again and again; further `Task.cancel` calls are
        taken note of by the task itself. Only a host that is leaving for good ends the wait before the function does.
        """
        if job.arrived:
            return
        job.request_cancel(self.raise_cancelled, kill=cancel == "kill")

        def give_up() -> None:
            job.interrupt(asyncio.CancelledError())

        self.patient.add(give_up)
        try:
            with anyio.CancelScope(shield=True):
                while not job.arrived and not self.leaving:
                    with suppress(asyncio.CancelledError):
                        await job
        finally:
            self.patient.discard(give_up)
        if not job.arrived:
            raise asyncio.CancelledError(f"{name_of(job.named)} did not end within the shutdown timeout; left behind")

    def raise_cancelled(self) -> NoReturn:
        raise asyncio.CancelledError("the task that awaits this function was cancelled")

    # -- its end ---------------------------------------------------------------------------------------------------------

    def at_end(self, callback: Callable[[], object]) -> None:
        """A loop that nobody but asyncio looks after closes its async generators before itself: so this has one."""
        super().at_end(callback)
        if self._watch is None:
            self._watch = self._watch_for_the_end()
            with suppress(StopIteration):
                self._watch.asend(None).send(None)

    async def _watch_for_the_end(self) -> AsyncGenerator[None, None]:
        try:
            yield
        finally:
            self.tell_end()

    # -- where and whether ---------------------------------------------------------------------------------------------

    def runs_here(self) -> bool:
        return asyncio._get_running_loop() is self.loop

    def trouble(self) -> str | None:
        if self.loop.is_closed():
            return "closed"
        if not self.loop.is_running():
            return "it was stopped and never closed"
        return None

    def close(self, reason: str) -> None:
        super().close(reason)
        if self._inbox is not None:
            self._inbox.close(reason)


async def _await(awaitable: Any) -> Any:
    return await awaitable


def _answer_from(task: asyncio.Task[Any], call: Call) -> None:
    call.task = None
    if task.cancelled():
        call.answer(None, ThreadCancelled(f"{name_of(call.named)} was cancelled on the loop"))
        return
    error = task.exception()
    if error is None:
        call.answer(task.result(), None)
    else:
        call.answer(None, error)

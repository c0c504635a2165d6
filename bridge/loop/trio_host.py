"""The host for trio. Imported only where trio runs already.

    out: perform: submit the job, `wait_task_rescheduled`; the worker posts the job back, `_run` reschedules the task
    in:  start: run a portal call, its coroutine in a system task with a cancel scope of its own

Owners: all but `post`, `call_soon` and `trouble` runs on trio's thread. The end of the run is noticed by the warden, a
system task that trio cancels when the main task has ended. From then on nobody may wait for the run any more, but jobs
still arrive, because other system tasks may be waiting for them; trio itself shuts the door at the very end.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from concurrent.futures import CancelledError as ThreadCancelled
from contextvars import ContextVar, copy_context
from functools import partial
from inspect import iscoroutine
from typing import Any, NoReturn

import trio
from outcome import Value

from bridge.callables import NOT_AWAITED, refuse_async
from bridge.errors import LoopClosed
from bridge.threads.calls import Call
from bridge.threads.host import CancelMode, Carrier, Host
from bridge.threads.inbox import Inbox, Item
from bridge.threads.job import Job, name_of

logger: logging.Logger = logging.getLogger("bridge.loop")

#: Says in a context which library runs there, for all who ask sniffio.
_library: ContextVar[str | None] | None
try:
    from sniffio import current_async_library_cvar as _library
except ImportError:  # trio and anyio are both of versions that do without it
    _library = None

_host_var: trio.lowlevel.RunVar[TrioHost] = trio.lowlevel.RunVar("bridge_host")


def current_trio_host() -> TrioHost:
    """The host of the trio run that the calling task belongs to."""
    try:
        return _host_var.get()
    except LookupError:
        host = TrioHost()
        _host_var.set(host)
        return host


class TrioJob(Job, Item):
    """A job that a trio task awaits; it is its own message on the way back."""

    __slots__ = ("host", "raise_cancel", "task")

    def __init__(self, host: TrioHost, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]):
        Job.__init__(self, fn, args, kwargs, host)
        assert self.context is not None
        if _library is not None:  # the worker is not trio, and may run a loop of its own
            self.context.run(_library.set, None)
        self.host: TrioHost = host
        self.task: trio.lowlevel.Task | None = None
        self.raise_cancel: Callable[[], NoReturn] | None = None

    def deliver(self) -> None:
        try:
            self.host.post(self)
        except LoopClosed:
            pass  # the run is over, and the awaiting task with it: nobody is left to be told

    def _run(self) -> None:
        task, self.task = self.task, None
        if task is not None:
            trio.lowlevel.reschedule(task, Value(None))


class _Callback(Item):
    __slots__ = ("args", "callback", "context", "host")

    def __init__(self, host: TrioHost, callback: Callable[..., object], args: tuple[Any, ...]):
        self.host = host
        self.callback = callback
        self.args = args
        self.context = copy_context()

    @property
    def named(self) -> Any:
        return self.callback

    def _run(self) -> None:
        try:
            value = self.context.run(self.callback, *self.args)
            if value is not None:
                refuse_async(self.callback, value, NOT_AWAITED)
        except BaseException as error:
            if not self.host.end_by(error):
                logger.error("%s, called on %r, raised", name_of(self.callback), self.host, exc_info=error)


class TrioHost(Host):
    """One trio run, as seen by threads."""

    def __init__(self) -> None:
        super().__init__()
        self.loop: trio.lowlevel.TrioToken = trio.lowlevel.current_trio_token()
        self.new_job: Callable[..., TrioJob] = partial(TrioJob, self)
        self._inbox = Inbox(self.loop.run_sync_soon, self.loop.run_sync_soon)
        self.post: Callable[[Item], None] = self._inbox.put
        self._main: trio.CancelScope | None = None
        self._ended_by: BaseException | None = None
        trio.lowlevel.spawn_system_task(self._warden, name="bridge.warden")

    def __repr__(self) -> str:
        return f"<trio run at {id(self.loop):#x}, {'ended' if self.closed else 'running'}>"

    async def _warden(self) -> None:
        try:
            await trio.sleep_forever()
        finally:
            self.close("the trio run has ended")

    async def run_main(self, main: Awaitable[Any]) -> Any:
        """In the main task: await `main`; raise the exit that a function called by a thread asks for."""
        try:
            with trio.CancelScope() as self._main:
                return await main
        finally:
            self._main = None
            error, self._ended_by = self._ended_by, None
            if error is not None:
                raise error

    def end_by(self, error: BaseException) -> bool:
        """If a function that a thread has called raised SystemExit or KeyboardInterrupt, end the run as asyncio does.

        Return True if the run ends by it.

        trio takes an exception in a system task for a fault of its own, so it is the main task that raises it. In a run
        that was not started by `bridge.run`, the calling thread alone has the error, as with `trio.from_thread.run`.
        """
        if issubclass(type(error), (KeyboardInterrupt, SystemExit)) and self._main is not None and self._ended_by is None:
            self._ended_by = error
            self._main.cancel()
        return self._ended_by is error

    # -- into the loop -------------------------------------------------------------------------------------------------

    def start(self, call: Call) -> None:
        try:
            value = call.context.run(call.fn, *call.args, **call.kwargs)
            can_be_awaited = hasattr(type(value), "__await__")
        except BaseException as error:
            call.answer(None, error)
            self.end_by(error)
            return
        if not can_be_awaited:
            call.answer(value, None)
            return
        call.task = trio.CancelScope()
        name = name_of(call.named)
        try:
            trio.lowlevel.spawn_system_task(_serve, self, call, value, name=name, context=call.context)
        except BaseException as error:
            if iscoroutine(value):
                value.close()
            call.answer(None, error)

    def cancel(self, call: Call) -> None:
        if call.task is not None:
            call.task.cancel()

    def call_soon(self, callback: Callable[..., object], args: tuple[Any, ...]) -> None:
        if self.closed is not None:
            raise LoopClosed(self.closed)
        self.post(_Callback(self, callback, args))

    # -- out of the loop -----------------------------------------------------------------------------------------------

    async def perform(self, carrier: Carrier, job: TrioJob, cancel: CancelMode) -> Any:
        await trio.lowlevel.checkpoint_if_cancelled()

        def abort(raise_cancel: Callable[[], NoReturn]) -> trio.lowlevel.Abort:
            if carrier.withdraw(job):
                job.task = None
                return trio.lowlevel.Abort.SUCCEEDED
            if cancel == "abandon":
                job.task = None
                job.request_cancel(self.raise_cancelled)
                return trio.lowlevel.Abort.SUCCEEDED
            job.raise_cancel = raise_cancel
            job.request_cancel(raise_cancel, kill=cancel == "kill")
            return trio.lowlevel.Abort.FAILED

        job.task = trio.lowlevel.current_task()
        carrier.submit_job(job)
        await trio.lowlevel.wait_task_rescheduled(abort)
        if job.raise_cancel is not None and (
            job.error is None or isinstance(job.error, (trio.Cancelled, ThreadCancelled))
        ):
            job.raise_cancel()
        return job.unwrap()

    def raise_cancelled(self) -> NoReturn:
        raise ThreadCancelled("the task that awaits this function was cancelled")

    # -- where and whether ---------------------------------------------------------------------------------------------

    def runs_here(self) -> bool:
        return trio.lowlevel.in_trio_run() and trio.lowlevel.current_trio_token() is self.loop

    def trouble(self) -> str | None:
        return "closed" if self.closed is not None else None


async def _serve(host: TrioHost, call: Call, awaitable: Any) -> None:
    with call.task as scope:
        try:
            value = await awaitable
        except trio.Cancelled:
            if scope.cancel_called:
                call.answer(None, ThreadCancelled(f"{name_of(call.named)} was cancelled"))
            else:
                call.answer(None, LoopClosed(f"the trio run ended before {name_of(call.named)} did"))
            raise
        except BaseException as error:
            call.answer(None, error)
            host.end_by(error)
        else:
            call.answer(value, None)

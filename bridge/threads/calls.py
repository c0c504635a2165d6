"""A call from a thread into a loop, and the thread that waits for its answer.

    caller's thread                                the loop's thread
    Call -> host.expect -> host.post ------------> _run: host.start(call) -- task --> answer(value, error)
    wait: gate.acquire  <------------------------------------------------------------ gate.release

Owners: `answer` may be called by the loop, by a closing host, by the sentry or after a fork; the first one counts, and
it alone writes `value` and `error` before it opens the gate. Whoever wants to start or to withdraw the call claims it.
If the loop dies at any step: before `post`, `post` raises; after it, the call stands in `host.waits`, and whoever
notices the loop's end (its own close, the runner, the sentry) answers everything in there. `expect` comes before the
look at `closed`, and closing sets `closed` before it answers, so no call falls in between.
"""

from __future__ import annotations

from _thread import LockType, allocate_lock
from collections.abc import Callable, Container, Coroutine, Iterator
from concurrent.futures import CancelledError, Future
from contextlib import contextmanager, suppress
from contextvars import Context, copy_context
from inspect import iscoroutine
from sys import is_finalizing
from threading import get_ident
from typing import TYPE_CHECKING, Any, TypeVar

from bridge.callables import manageable
from bridge.errors import BridgeError, LoopClosed
from bridge.threads.blocking import refuse_blocking
from bridge.threads.here import here
from bridge.threads.inbox import Item
from bridge.threads.interop import check_of_this_thread, watch_over
from bridge.threads.job import name_of
from bridge.threads.lost import AttendedFuture
from bridge.threads.trail import settle_in, trail_here

if TYPE_CHECKING:
    from bridge.threads.host import Host
    from bridge.threads.job import Job
    from bridge.threads.worker import Worker


T = TypeVar("T")


#: Seconds after which a thread of another library, while it waits, looks again whether its work has been cancelled.
LOOK = 0.05


class Call(Item):
    """`fn(*args, **kwargs)` to be run on `host`'s loop, awaited if it gives an awaitable, and answered once."""

    __slots__ = (
        "_unanswered",
        "_unclaimed",
        "args",
        "context",
        "error",
        "fn",
        "gate",
        "host",
        "kwargs",
        "refused",
        "task",
        "thread",
        "value",
    )

    from_a_thread = True

    def __init__(self, host: Host, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]):
        self.host: Host = host
        self.fn: Callable[..., Any] = fn
        self.args: tuple[Any, ...] = args
        self.kwargs: dict[str, Any] = kwargs
        trail_here()
        self.context: Context = copy_context()
        self.thread: int | None = None  # the one that is blocked until the answer comes; not where that is a worker
        self.task: Any = None  # what the host needs in order to cancel it, once it runs
        self.value: Any = None
        self.error: BaseException | None = None
        self.gate: LockType = allocate_lock()
        self.gate.acquire()
        self.refused: bool = False
        self._unclaimed = self._unanswered = True

    @property
    def named(self) -> Any:
        """What messages name: the function, or the coroutine that was handed over."""
        return self.args[0] if self.fn is itself else self.fn

    @property
    def waiting_job(self) -> Job | None:
        """The job whose function waits for the answer, if it is one."""
        worker = self.host.waits.get(self)
        return None if worker is None else worker.job

    def claim(self) -> bool:
        """True for exactly one caller: the loop that starts the call, or whoever withdraws it."""
        try:
            del self._unclaimed
        except AttributeError:
            return False
        return True

    def resend(self) -> None:
        """Sending was interrupted, at an unknown step: send again, which at most has the loop find it claimed."""
        with suppress(BridgeError):  # it is answered then
            self.send()

    def _withdraw(self) -> bool:
        """See to it that the call never starts; False if it has."""
        return self.claim()

    @property
    def answered(self) -> bool:
        return not hasattr(self, "_unanswered")

    def send(self, worker: Worker | None = None) -> None:
        """Put the call through the host's door; `worker` is going to block for it. Raises LoopClosed: it never runs."""
        host = self.host
        try:
            if is_finalizing():
                raise LoopClosed(
                    f"the interpreter is shutting down, and only the thread that does so runs Python code now: {host!r} "
                    f"can answer nothing. Close what calls into it before the program ends."
                )
            host.expect(self, worker)
            if self.answered:  # cancelled before it was on its way
                host.forget(self)
                return
            host.post(self)
        except BridgeError as error:
            if self._withdraw() or self.refused:
                self.answer(None, error)
                self.error = None  # raised here, it would make a cycle
                raise
            # Too late to refuse it: the loop ran it, and ended while we were still on our way.

    def _run(self) -> None:
        if self.claim():
            settle_in(self.context)
            self.host.start(self)

    def answer(self, value: Any, error: BaseException | None) -> None:
        """Give the waiting side its answer, from any thread; only the first answer counts."""
        try:
            del self._unanswered
        except AttributeError:
            return
        self.value = value
        self.error = error if error is None else manageable(error)
        self._open()

    def _open(self) -> None:
        self.host.forget(self)
        self.gate.release()

    def refuse(self, error: BridgeError) -> None:
        """The loop will not answer any more: do it in its stead, and see that it never starts the call."""
        started = not self._withdraw()
        if not started:
            self.refused = True  # and stays so: it may be refused again, by whoever else notices the loop's end
        self.answer(None, error)
        if started and self.host.closed is None:  # the loop merely stands still: should it run again, end what it began
            with suppress(LoopClosed):
                self.host.post(_Cancel(self))

    def cancel(self) -> None:
        """Withdraw the call if it has not started, otherwise cancel its coroutine. From any thread; does not wait."""
        if self._withdraw():
            self.answer(None, CancelledError(f"{name_of(self.named)} was cancelled before the loop could start it"))
            return
        try:
            self.host.post(_Cancel(self))
        except LoopClosed as error:
            self.refuse(error)

    def decline(self, error: BridgeError) -> None:
        """On the loop: answer a claimed call without starting it."""
        self.answer(None, error)

    def stop(self) -> None:
        """On the loop: cancel what has started."""
        self.host.cancel(self)

    def blocks_any_of(self, threads: Container[int]) -> bool:
        """True if one of these threads waits for the answer. From any thread."""
        return self.thread in threads

    def leave_behind(self, reason: str) -> None:
        """In a forked child: the loop runs in the parent only."""
        self.refuse(LoopClosed(reason))

    def _take_outcome(self) -> tuple[Any, BaseException | None]:
        outcome = self.value, self.error
        self.error = self.value = None
        return outcome

    def unwrap(self) -> Any:
        """The value, or the error raised, without a cycle through the traceback."""
        value, error = self._take_outcome()
        if error is None:
            return value
        try:
            raise error
        finally:
            del error, self


def itself(coro: Coroutine[Any, Any, T]) -> Coroutine[Any, Any, T]:
    """The function of a call that is given a coroutine."""
    return coro


class _Cancel(Item):
    __slots__ = ("call",)

    def __init__(self, call: Call):
        self.call = call

    @property
    def named(self) -> Any:
        return self.call.named

    def _run(self) -> None:
        self.call.stop()


def ask(call: Call, *, cleanup: bool = False) -> Any:
    """Send `call`, block until it is answered; return or raise what it says.

    In a worker the slot is lent out meanwhile, and if the side that awaits the worker gives up, the call is cancelled
    and the backend's cancellation error raised, once; with `cleanup` the call is left to finish, because it is clean-up.
    In the main thread, Ctrl-C cancels the call, waits for its clean-up and goes on its way; a second one does not wait.
    In a thread of anyio's or trio's, the cancellation of what awaits it does the same.
    """
    worker = here.worker
    if worker is None:
        return _ask_interruptibly(call, cleanup)
    job = worker.job
    if job is None or cleanup:
        _lend_and_ask(worker, call)
        return call.unwrap()
    job.call = call
    if job.cancelling is not None and not job.told:
        job.told = True
        job.cancelling()
    _lend_and_ask(worker, call)
    job.call = None
    if type(call.error) is CancelledError and job.cancelling is not None:
        call.error = None
        job.told = True
        job.cancelling()
    return call.unwrap()


@contextmanager
def lent_slot() -> Iterator[None]:
    """Around a wait for a loop: in a worker, others may use its slot meanwhile."""
    worker = here.worker
    if worker is None:
        yield
        return
    worker.pool.lend(worker)
    try:
        yield
    finally:
        worker.pool.reclaim(worker)


def _lend_and_ask(worker: Worker, call: Call) -> None:
    worker.pool.lend(worker)  # first, so that what the loop does with the call finds the slot free
    try:
        call.send(worker)
        call.gate.acquire()
    finally:
        worker.pool.reclaim(worker)


def _ask_interruptibly(call: Call, cleanup: bool) -> Any:
    check = None if cleanup else watch_over(call)
    if check is not None:
        check()
    try:
        call.thread = get_ident()
        call.send()
        if check is None:
            call.gate.acquire()
        else:
            while not call.gate.acquire(timeout=LOOK):
                check()
    except BaseException:  # refused; or Ctrl-C, or what a signal handler raised, or cancelled as `check` says
        try:
            if not call.answered:
                if cleanup:
                    call.resend()
                else:
                    call.cancel()
            # Not answered yet means that the gate was still shut, so this acquire cannot have been passed already.
            if not call.answered:
                call.gate.acquire()
        except BaseException:  # a second one: this thread waits no longer
            call.host.forget(call)
            raise
        raise
    return call.unwrap()


class FutureCall(Call):
    """A call whose answer goes to a `concurrent.futures.Future`; cancelling the future cancels the coroutine.

    The future stays PENDING while the coroutine runs, so that `cancel()` works at any time. Whether it was cancelled
    or answered first is decided under the future's own lock (CPython #105836 is what happens otherwise): a cancelled
    future stays cancelled, and the coroutine is told through the loop's door, before or after it started.
    """

    __slots__ = ("future", "scope")

    def __init__(self, host: Host, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]):
        super().__init__(host, fn, args, kwargs)
        self.scope: set[FutureCall] | None = None  # the `with portal` that owns it
        self.future: PortalFuture = PortalFuture(self)
        Future.add_done_callback(self.future, self._future_done)  # which asks for nothing

    def _run(self) -> None:
        future = getattr(self, "future", None)  # another thread may be answering just now
        if future is not None and future.cancelled():
            self._withdraw()
            self.answer(None, CancelledError())
        else:
            super()._run()

    def _withdraw(self) -> bool:
        if not self.claim():
            return False
        self._close_coroutine()
        return True

    def decline(self, error: BridgeError) -> None:
        self._close_coroutine()
        super().decline(error)

    def _close_coroutine(self) -> None:
        for argument in self.args:
            if iscoroutine(argument):
                argument.close()  # it will never be awaited, and that is as it should be

    def _future_done(self, future: Future[Any]) -> None:
        if future.cancelled() and not self.answered:
            self.cancel()

    def _open(self) -> None:
        future = self.future
        value, error = self._take_outcome()
        if self.scope is not None:
            self.scope.discard(self)
        self.gate.release()
        if isinstance(error, CancelledError):
            future.cancel()
        if future.set_running_or_notify_cancel():
            if error is None:
                future.set_result(value)
            else:
                future.set_exception(error)
        del self.future  # the future knows the call; the other way round it would be a cycle
        self.host.forget(self)  # last: until here a forked child would have to answer it

    def cancel_future(self) -> None:
        """Cancel through the future, unless it has been answered."""
        future = getattr(self, "future", None)
        if future is not None:
            future.cancel()

    def blocks_any_of(self, threads: Container[int]) -> bool:
        """As for any call. Which thread has called `concurrent.futures.wait` is not known, so it may be any."""
        return super().blocks_any_of(threads) or bool(getattr(getattr(self, "future", None), "_waiters", ()))

    def leave_behind(self, reason: str) -> None:
        self.claim()
        future = getattr(self, "future", None)
        if future is None:
            return
        future.renew_lock()
        if not future.done():  # even if its answer was on its way
            future.set_exception(LoopClosed(reason))


class _Started:
    """What a `with portal` has started, for a job that waits for all of it and may be cancelled during the wait."""

    def __init__(self, calls: list[FutureCall]):
        self._calls = calls

    def cancel(self) -> None:
        """From any thread; does not wait."""
        for call in self._calls:
            call.cancel_future()


def wait_for_all(calls: list[FutureCall]) -> None:
    """Block until each has ended, clean-up included: a cancelled future is done before its coroutine is.

    If the work of this thread is cancelled, or Ctrl-C comes in the main thread, all are cancelled and still waited for,
    and that is raised; a second Ctrl-C does not wait. Until the last has ended, the slot of a worker is lent out.
    """
    worker = here.worker
    job = None if worker is None else worker.job
    if job is None:
        _wait_interruptibly(calls)
        return
    started: Any = _Started(calls)
    job.call = started
    if job.cancelling is not None and not job.told:
        started.cancel()
    with lent_slot():
        _wait_for_each(calls)
    job.call = None
    if job.cancelling is not None and not job.told:
        job.told = True
        job.cancelling()


def _wait_interruptibly(calls: list[FutureCall]) -> None:
    try:
        for call in calls:
            call.thread = get_ident()
        _wait_for_each(calls, check_of_this_thread())
    except BaseException:
        _Started(calls).cancel()
        _wait_for_each(calls)
        raise


def _wait_for_each(calls: list[FutureCall], check: Callable[[], object] | None = None) -> None:
    for call in calls:
        if check is None:
            with call.gate:  # which is opened again, whatever comes in between
                pass
        else:  # not the main thread, so there are no signals
            while not call.gate.acquire(timeout=LOOK):
                check()
            call.gate.release()


class PortalFuture(AttendedFuture):
    """A concurrent Future that knows which loop answers it: waiting on that loop's own thread is refused, and a worker
    that waits for it lends its slot."""

    def __init__(self, call: FutureCall):
        super().__init__()
        self._call = call

    def result(self, timeout: float | None = None) -> Any:
        """As `Future.result`; `timeout` in seconds. Raises WouldDeadlock on the loop's own thread."""
        return self._blocking(super().result, timeout)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """As `Future.exception`; `timeout` in seconds. Raises WouldDeadlock on the loop's own thread."""
        result: BaseException | None = self._blocking(super().exception, timeout)
        return result

    def _blocking(self, wait_for: Callable[[float | None], Any], timeout: float | None) -> Any:
        if self.done() or timeout == 0:
            return wait_for(timeout)
        host = self._call.host
        if is_finalizing():
            raise LoopClosed(f"the interpreter is shutting down: {host!r} can answer nothing any more")
        if host.runs_here():
            refuse_blocking(host, f"waiting for {self!r}", "await asyncio.wrap_future(future)")
        host.blocks(self._call, here.worker)
        with lent_slot():
            if here.worker is None:
                self._call.thread = get_ident()
            try:
                return wait_for(timeout)
            finally:
                self._call.thread = None

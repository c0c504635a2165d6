"""A job whose outcome goes to a `concurrent.futures.Future`, for callers that wait in a thread or not at all.

Whether a queued job is cancelled or begun is decided by the job's claim; the future's own state follows it, so that
`concurrent.futures.wait` and `as_completed` see what they expect.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import CancelledError, InvalidStateError
from typing import TYPE_CHECKING, Any, NoReturn

from bridge.callables import require_function
from bridge.errors import ExecutorClosed
from bridge.threads.fork import tell_after_fork
from bridge.threads.job import Job, name_of, survivable
from bridge.threads.lost import AttendedFuture

if TYPE_CHECKING:
    from bridge.diagnostics.places import Site
    from bridge.threads.host import Host


class _Pending:
    """Every future that is still to be answered, for the child of a fork, where nobody else would."""

    def __init__(self) -> None:
        self.jobs: dict[FutureJob, None] = {}
        tell_after_fork(self)

    def after_fork_in_child(self) -> None:
        jobs, self.jobs = list(self.jobs), {}
        for job in jobs:
            job.leave_behind("this executor was left behind by a fork: its work runs in the parent process only")


_pending: _Pending = _Pending()


def pending_of(owner: object) -> list[FutureJob]:
    """The calls that were submitted to an executor and have not been answered; `owner` is what takes them back."""
    return [job for job in list(_pending.jobs) if job.belongs_to(owner)]


class FutureJob(Job):
    """A job with a future; `withdraw_from` is what takes it back from the executor it was sent to."""

    __slots__ = ("__weakref__", "future", "site")

    awaited = False
    #: Where it was submitted, if that is known.
    site: Site | None

    def __init__(
        self,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        origin: Host | None,
        withdraw_from: Callable[[Job], bool],
    ):
        require_function(fn)
        super().__init__(fn, args, kwargs, origin)
        self.future: AttendedFuture = _JobFuture(self, withdraw_from)
        _pending.jobs[self] = None

    def begin(self) -> bool:
        if not self.claim():
            return False
        if self.future.set_running_or_notify_cancel():
            return True
        _pending.jobs.pop(self, None)
        return False

    def deliver(self) -> None:
        future = self.future
        value, error = self.take_outcome()
        try:
            if error is None:
                future.set_result(value)
            else:
                future.set_exception(error)
        except InvalidStateError:  # it was answered to end a deadlock
            pass
        del self.future  # the future knows the job; the other way round it would be a cycle
        _pending.jobs.pop(self, None)

    def cancel_future(self) -> None:
        """Cancel through the future, unless it has been answered; another thread may be doing that just now."""
        future = getattr(self, "future", None)
        if future is not None:
            future.cancel()

    def belongs_to(self, owner: object) -> bool:
        """Was it sent to this executor?"""
        withdraw_from = getattr(getattr(self, "future", None), "_withdraw_from", None)
        return withdraw_from is not None and getattr(withdraw_from, "__self__", None) is owner

    def leave_behind(self, reason: str) -> None:
        future = getattr(self, "future", None)
        if future is None:
            return
        future.renew_lock()
        if not future.done():
            future.set_exception(ExecutorClosed(reason))

    def cancel(self) -> None:
        """End a job as cancelled, even one that was on its way to a worker: its executor has it back, not begun."""
        _pending.jobs.pop(self, None)
        self.future.take_back()
        self.future.cancel()
        self.future.set_running_or_notify_cancel()


class MappedJob(FutureJob):
    """One of a whole `Executor.map`, which submits all of them at once, and raises their errors in a generator."""

    __slots__ = ()
    patient = True

    def take_outcome(self) -> tuple[Any, BaseException | None]:
        """As `Job.take_outcome`, with an error that a generator can raise."""
        value, error = super().take_outcome()
        return value, None if error is None else survivable(self.named, error)


class _JobFuture(AttendedFuture):
    def __init__(self, job: FutureJob, withdraw_from: Callable[[Job], bool]):
        super().__init__()
        self._job = job
        self._withdraw_from = withdraw_from

    def cancel(self) -> bool:
        """As `Future.cancel`: True if the job had not begun; it is out of the queue then."""
        if not super().cancel():
            return False
        if self._withdraw_from(self._job):
            _pending.jobs.pop(self._job, None)
            self.set_running_or_notify_cancel()
        return True


def raise_cancelled(job: Job) -> Callable[[], NoReturn]:
    """What `check_cancelled` raises in a function that was sent by a thread."""

    def cancelled() -> NoReturn:
        raise CancelledError(f"the executor that runs {name_of(job.named)} was left by an exception")

    return cancelled

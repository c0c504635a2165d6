"""What a foreign executor is, and a future of ours that follows one of its own."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor as StandardExecutor
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol, cast

from bridge.executors.base import Executor, origin_here
from bridge.threads.future_job import FutureJob
from bridge.threads.job import Job
from bridge.threads.lost import AttendedFuture

#: Where the `submit` of such executors is defined (see `knows_beginnings`).
_CAREFUL = {
    "concurrent.futures.process",
    "concurrent.futures.thread",
    "loky.process_executor",
    "loky.reusable_executor",
}


class Sender(Protocol):
    """The executor of ours that a job was sent through."""

    def withdraw(self, job: Job) -> bool: ...

    def has_begun(self, job: Job) -> bool: ...


class ForeignFuture(AttendedFuture):
    """What `submit` returns where only the foreign future knows whether the function has begun."""

    def __init__(self, job: Job, executor: Sender):
        super().__init__()
        self._job = job
        self._executor = executor

    def cancel(self) -> bool:
        """As `Future.cancel`: True if the foreign executor counts it as cancelled."""
        job = self._job
        if job.withdrawn:  # from the executor; now the future follows
            return super().cancel()
        if not self.done() and self._executor.withdraw(job):
            cast(ForeignJob, job).cancel()
        return self.cancelled()

    def running(self) -> bool:
        """As `Future.running`, as far as the foreign executor knows."""
        return not self.done() and self._executor.has_begun(self._job)


class ForeignJob(FutureJob):
    __slots__ = ()

    def __init__(self, executor: Sender, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]):
        super().__init__(fn, args, kwargs, origin_here(), executor.withdraw)
        self.future: ForeignFuture = ForeignFuture(self, executor)


def shares_memory(executor: StandardExecutor) -> bool:
    """Do its workers run in this process, on objects of this interpreter? Only of thread pools is that certain."""
    kinds = {kind.__name__ for kind in type(executor).__mro__}
    return isinstance(executor, ThreadPoolExecutor) and "InterpreterPoolExecutor" not in kinds


def knows_beginnings(executor: StandardExecutor) -> bool:
    """Is a future of this executor that could be cancelled one whose function has not begun, and never will?

    True of executors that call `Future.set_running_or_notify_cancel` before they let a function begin. Others leave their
    futures pending while the function runs, and such a future can be cancelled at any time.
    """
    submit = type(executor).submit
    return getattr(submit, "__module__", None) in _CAREFUL


def check_executor(executor: object) -> None:
    if isinstance(executor, Executor):
        raise TypeError(f"{executor!r} is bridge's own: use it as it is, without ForeignExecutor")
    if isinstance(executor, type) and issubclass(executor, StandardExecutor):
        raise TypeError(f"ForeignExecutor needs an executor, not its class: write ForeignExecutor({executor.__name__}())")
    if not isinstance(executor, StandardExecutor):
        raise TypeError(f"ForeignExecutor needs a concurrent.futures.Executor, not {executor!r}")


def checked_workers(max_workers: object) -> int:
    if not isinstance(max_workers, int) or isinstance(max_workers, bool):
        raise TypeError(f"max_workers must be a whole number, not {max_workers!r}: write max_workers=8")
    if max_workers < 1:
        raise ValueError(f"max_workers must be greater than 0, not {max_workers}")
    return max_workers

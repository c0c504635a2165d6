"""One unit of work, on its way out and back: a Job goes to a worker, its outcome comes back to whoever waits.

    submitter            pool                        worker                      submitter's side
    Job(...) ----------> queue --- begin() ---------> run() --- deliver() -----> value or error

Owners: until it is claimed a job belongs to nobody. Exactly one party claims it: the worker that begins it, or the
submitter that withdraws it. From the claim on, the worker alone writes `value` and `error`, and hands them over with
`deliver`. The submitter may set `cancelling` at any time; the function sees it through `check_cancelled`.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import Context, copy_context
from time import perf_counter
from types import AsyncGeneratorType, CoroutineType
from typing import TYPE_CHECKING, Any, NoReturn

from bridge.threads.here import current_job

if TYPE_CHECKING:
    from bridge.threads.calls import Call
    from bridge.threads.host import Host


def name_of(fn: object) -> str:
    """`module.qualname` of a callable, as a reader would look for it."""
    name = getattr(fn, "__qualname__", None)
    if name is None:
        inner = getattr(fn, "func", None)  # functools.partial
        return name_of(inner) if inner is not None else repr(fn)
    module = getattr(fn, "__module__", None)
    return f"{module}.{name}" if module else str(name)  # a coroutine has none


def last_name(fn: object) -> str:
    """The name under which the caller most likely knows a callable, for the line of code that a message suggests."""
    return name_of(fn).rpartition(".")[2]


class Job:
    """A callable with its arguments and context; subclasses say where the outcome goes."""

    __slots__ = (
        "_unclaimed",
        "args",
        "call",
        "cancelling",
        "context",
        "error",
        "fn",
        "kwargs",
        "origin",
        "queued_at",
        "remote",
        "started_at",
        "told",
        "value",
    )

    fn: Any
    args: Any
    kwargs: Any
    context: Context | None
    #: While cancelling: raises the error with which the function should end. None as long as somebody wants the result.
    cancelling: Callable[[], NoReturn] | None
    #: The portal call in which the function waits for its loop.
    call: Call | None
    #: Is the outcome for a task on the origin's loop? Otherwise somebody may block a thread for it.
    awaited: bool = True
    #: Is it one of many that were submitted at once, so that nobody minds if it waits for long?
    patient: bool = False
    #: Is it work of bridge's own, which the program has not sent?
    internal: bool = False
    #: What is special about it between processes.
    on_the_wire: int = 0
    #: What has to be told if a job that was given away is cancelled; None for threads, which look at `cancelling`.
    remote: Any

    def __init__(self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], origin: Host | None):
        self.fn = fn
        self.args = args
        self.kwargs = kwargs
        self.origin: Host | None = origin
        self.context = copy_context()
        self.value: Any = None
        self.error: BaseException | None = None
        self.cancelling = self.call = self.remote = None
        self.queued_at: float = perf_counter()
        self.started_at: float = 0.0
        self.told: bool = False  # has the function been told about `cancelling` yet?
        self._unclaimed = True

    @property
    def named(self) -> Any:
        """The function whose name is told to users."""
        return self.fn

    def claim(self) -> bool:
        """Make the job one's own. True for exactly one caller, ever.

        Deleting a slot either succeeds or raises, in one C call: the cheapest atomic test-and-set that Python has.
        """
        try:
            del self._unclaimed
        except AttributeError:
            return False
        return True

    @property
    def withdrawn(self) -> bool:
        """True once a queued job has become an empty shell that a worker will drop."""
        return self.context is None

    def withdraw(self) -> bool:
        """Take a job that has not begun out of the game and let go of its arguments. False if it has begun."""
        if not self.claim():
            return False
        self.fn = self.args = self.kwargs = self.context = None
        return True

    #: Called by the worker that took the job from the queue; False if there is nothing to do any more.
    begin = claim

    def run(self) -> None:
        """Call the function in the job's own context and keep what comes out, whatever it is."""
        context = self.context
        assert context is not None
        try:
            value = context.run(self.fn, *self.args, **self.kwargs)
            if type(value) is CoroutineType or type(value) is AsyncGeneratorType:
                value = _refuse_coroutine(self.fn, value)
            self.value = value
        except BaseException as error:
            # Without this frame: it would tie the error to the job, and it tells the reader nothing.
            self.error = error.with_traceback(error.__traceback__.tb_next if error.__traceback__ else None)
        # `fn` stays for messages; the arguments may be large and are nobody's business any more.
        self.args = self.kwargs = self.context = self.call = None

    def deliver(self) -> None:
        """Hand the outcome over. Called once, in the worker's thread, after `run`. Must not raise."""
        raise NotImplementedError

    def request_cancel(self, raise_cancelled: Callable[[], NoReturn], *, kill: bool = False) -> None:
        """Tell a running function that nobody wants its result any more; if asked to, end it. On the origin's thread.

        The flag is set before the call is looked at, and a worker publishes its call before it looks at the flag
        (`calls.wait`), so a call that is just being made is cancelled by one side or the other.
        """
        self.cancelling = raise_cancelled
        call = self.call
        if call is not None and not self.told:
            call.cancel()
        remote = self.remote
        if remote is not None:
            remote.cancel(self, kill)

    def take_outcome(self) -> tuple[Any, BaseException | None]:
        """Value and error; the job lets go of both."""
        outcome = self.value, self.error
        self.error = self.value = None
        return outcome

    def take_awaitable_outcome(self) -> tuple[Any, BaseException | None]:
        """Likewise, with an error that can be raised into a coroutine and set on an asyncio future."""
        value, error = self.take_outcome()
        if isinstance(error, StopIteration):
            survivable = _survivable(self.fn, error)
            survivable.__cause__ = error
            return value, survivable
        return value, error

    def unwrap(self) -> Any:
        """Return the value or raise the error, keeping no reference that would tie the traceback into a cycle."""
        value, error = self.take_awaitable_outcome()
        if error is None:
            return value
        try:
            raise error
        finally:
            del error, self


def _refuse_coroutine(fn: object, value: Any) -> Any:
    """A coroutine function was sent to a thread: nothing ran. (A plain function may well return a coroutine.)"""
    inner = getattr(fn, "func", fn)  # functools.partial
    code = getattr(inner, "__code__", None) or getattr(getattr(type(inner), "__call__", None), "__code__", None)  # noqa: B004
    if code is None or code is not getattr(value, "cr_code", getattr(value, "ag_code", None)):
        return value
    if type(value) is CoroutineType:
        value.close()
    name = name_of(fn)
    raise TypeError(
        f"{name} is a coroutine function: a worker thread would only create the coroutine, not run it. "
        f"Write `await {last_name(fn)}(...)` on the loop, or offload the blocking function it calls."
    )


def _survivable(fn: object, error: StopIteration) -> RuntimeError:
    """StopIteration cannot be raised into a coroutine (PEP 479) nor set on a future (CPython #112182)."""
    return RuntimeError(
        f"{name_of(fn)} raised StopIteration, which an `await` cannot raise; its value is in __cause__.value. "
        f"If it is `next`, give it a default: next(iterator, None)."
    )


def check_cancelled() -> None:
    """In a worker: raise if the awaiting side has given up, otherwise return at once (well under a microsecond).

    What it raises is the awaiting side's own kind: asyncio.CancelledError, trio.Cancelled, or
    concurrent.futures.CancelledError. Let it pass through; clean up with `finally`. Outside a worker it does nothing,
    so a function that calls it can also be called directly.
    """
    job = current_job()
    if job is not None and job.cancelling is not None:
        job.told = True
        job.cancelling()

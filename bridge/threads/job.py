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

from bridge.callables import as_kind, discard, explained, kind_made, manageable, on_a_loop
from bridge.callables import last_name as last_name
from bridge.callables import name_of as name_of
from bridge.threads.here import current_job, here

if TYPE_CHECKING:
    from bridge.threads.calls import Call
    from bridge.threads.host import Host
    from bridge.threads.trail import Step

#: Of an exception, without its own code, which may do anything.
_traceback_of: Any = BaseException.__dict__["__traceback__"].__get__
_set_traceback: Any = BaseException.__dict__["__traceback__"].__set__


class Job:
    """A callable with its arguments and context; subclasses say where the outcome goes."""

    __slots__ = (
        "_unclaimed",
        "args",
        "call",
        "cancelling",
        "context",
        "died_in",
        "error",
        "fn",
        "kwargs",
        "origin",
        "queued_at",
        "remote",
        "started_at",
        "step",
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
    #: Is it a chunk of calls? Then `died_in` is the call of it in which its worker died, the first is 0.
    is_chunk: bool = False
    died_in: int | None
    #: What is special about it between processes.
    on_the_wire: int = 0
    #: What its calls into loops carry with them (`threads.trail`); None before the first.
    step: Step | None
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
        self.cancelling = self.call = self.remote = self.step = None
        self.queued_at: float = perf_counter()
        self.started_at: float = 0.0
        self.told: bool = False  # has the function been told about `cancelling` yet?
        self._unclaimed = True

    @property
    def named(self) -> Any:
        """The function whose name is told to users."""
        return self.fn

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {'what was withdrawn' if self.fn is None else name_of(self.named)}>"

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
            if value is not None and (type(value) is CoroutineType or type(value) is AsyncGeneratorType):
                _refuse_coroutine(self.fn, value)
            self.value = value
        except BaseException as error:
            # Without this frame, the first one: it would tie the error to the job, and it tells the reader nothing.
            # It may be gone: another thread may have raised the same exception, and changed it.
            _set_traceback(error, getattr(_traceback_of(error), "tb_next", None))
            self.error = manageable(error if type(error) is not TypeError else explained(error, self.fn))
        # `fn` stays for messages; the arguments may be large and are nobody's business any more.
        self.args = self.kwargs = self.context = self.call = None
        if self.step is not None:
            self.step.end()
            self.step = None

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
        return (value, survivable(self.named, error)) if isinstance(error, StopIteration) else (value, error)

    def unwrap(self) -> Any:
        """Return the value or raise the error, keeping no reference that would tie the traceback into a cycle."""
        value, error = self.take_awaitable_outcome()
        if error is None:
            return value
        try:
            raise error
        finally:
            del error, self


def _refuse_coroutine(fn: object, value: Any) -> None:
    """Raise TypeError if an async function was sent to a thread: nothing of it ran.

    A plain function may return a coroutine: the caller awaits it.
    """
    kind = kind_made(fn, value)
    if kind is None:
        return
    discard(value)
    raise TypeError(
        f"{as_kind(fn, kind)}: a worker thread would only create the {kind}, not run it. "
        f"Write `{on_a_loop(fn, kind)}` on the loop, or offload the blocking function it calls."
    )


def survivable(fn: object, error: BaseException) -> BaseException:
    """`error`, or a RuntimeError in place of StopIteration, which cannot be raised into a coroutine or a generator
    (PEP 479) nor set on a future (CPython #112182)."""
    if not isinstance(error, StopIteration):
        return error
    named = RuntimeError(
        f"{name_of(fn)} raised StopIteration, which an `await` cannot raise; its value is in __cause__.value. "
        f"If it is `next`, give it a default: next(iterator, None)."
    )
    named.__cause__ = error
    return named


def check_cancelled() -> None:
    """In a worker: raise if the awaiting side has given up, otherwise return at once (well under a microsecond).

    What it raises is the awaiting side's own kind: asyncio.CancelledError, trio.Cancelled, or
    concurrent.futures.CancelledError. Let it pass through; clean up with `finally`. In a worker thread of anyio or trio
    it does what their own `check_cancelled` does. In any other thread it does nothing, so a function that calls it can
    also be called directly.
    """
    job = current_job()
    if job is not None:
        if job.cancelling is not None:
            job.told = True
            job.cancelling()
    elif here.worker is None:
        from bridge.threads.interop import check_cancelled_there

        check_cancelled_there()

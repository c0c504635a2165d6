"""The names that turn a function into something to await: `to_thread`, `to_process`, `offload`, `map`, `stream`."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable, Callable, Coroutine, Iterable
from concurrent.futures import Executor as StandardExecutor
from typing import Any, Literal, ParamSpec, Protocol, TypeVar, overload

from bridge.callables import shown, wrap
from bridge.executors.base import Executor
from bridge.executors.lanes import lane, lane_prepared
from bridge.executors.policy import (
    cannot_cancel,
    check_blocking,
    check_errors,
    check_inputs,
    check_timeout,
    mark,
    mode_on,
    not_an_executor,
    undecorated,
)
from bridge.loop.hosts import current_host
from bridge.threads.host import CancelMode

P = ParamSpec("P")
T = TypeVar("T")


class _Unsaid(str):
    """The default of a parameter; equal to the same text in a call, but not the same object."""

    __slots__ = ()


_UNSAID: str = _Unsaid("thread")


async def to_thread(fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
    """Run `fn(*args, **kwargs)` in a worker thread and await its outcome, on any event loop.

    Runs in the lane "thread": up to 64 threads of this loop, or the executor of that name given to `bridge.run`. The
    contextvars context is copied. If the await is cancelled, a queued call is withdrawn, and a running one is waited for
    (`bridge.check_cancelled` lets it end early). Raises what `fn` raises; StopIteration comes as a RuntimeError.
    """
    host = current_host()
    executor = host.lanes.get("thread") or lane("thread", host)
    result: T = await host.perform(executor, host.new_job(fn, args, kwargs), "wait")
    return result


@overload
async def to_process(fn: Callable[P, Coroutine[Any, Any, T]], /, *args: P.args, **kwargs: P.kwargs) -> T: ...
@overload
async def to_process(fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T: ...
async def to_process(fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
    """Run `fn(*args, **kwargs)` in a worker process and await its outcome, on any event loop.

    Runs in the lane "process": one process for each core, for this loop, or the executor of that name given to
    `bridge.run`. If the await is cancelled, a queued call is withdrawn and a running one ended, its process if need be.
    A coroutine function runs there on a loop of its own. Raises what `fn` raises, and WorkerDied.
    """
    host = current_host()
    executor = host.lanes.get("process") or await lane_prepared("process", host)
    return await host.perform(executor, host.new_job(fn, args, kwargs), executor.cancel_modes[0])


class _Offload(Protocol):
    @overload
    def __call__(self, fn: Callable[P, Coroutine[Any, Any, T]], /) -> Callable[P, Coroutine[Any, Any, T]]: ...
    @overload
    def __call__(self, fn: Callable[P, T], /) -> Callable[P, Coroutine[Any, Any, T]]: ...


@overload
def offload(fn: Callable[P, T], /) -> Callable[P, Coroutine[Any, Any, T]]: ...
@overload
def offload(
    *, to: str | Executor = "thread", timeout: float | None = None, cancel: CancelMode | None = None
) -> _Offload: ...
def offload(
    fn: Callable[..., Any] | None = None,
    /,
    *,
    to: str | Executor = "thread",
    timeout: float | None = None,
    cancel: CancelMode | None = None,
) -> Any:
    """Make an async function of a blocking one: calling it gives an awaitable that runs it elsewhere.

    `to` is where: the name of a lane, looked up on the loop at each call, or an Executor. `timeout`, in seconds from the
    call, queueing included, raises OffloadTimeout. `cancel` says what happens to a running call when it is cancelled or
    timed out: "wait" (default for threads) ends the await when the function ends, "abandon" ends it now and leaves the
    function to itself, "kill" (default for processes, impossible for threads) ends the function. A coroutine function
    can be sent to processes, where it runs on a loop of its own.

    Raises TypeError for a coroutine function that would go to a thread, ValueError for a policy that the executor cannot
    keep.
    """
    kind: type = type(fn)  # a proxy may raise when `isinstance` asks it
    if issubclass(kind, (str, StandardExecutor)):
        place = f'"{fn}"' if kind is str else "executor"
        raise TypeError(f"a function is needed, not {shown(fn)}: write @bridge.offload(to={place}) above the function.")
    _check_policy(to, timeout, cancel)

    def decorate(fn: Callable[..., Any]) -> Callable[..., Coroutine[Any, Any, Any]]:
        _check_blocking(fn, to)

        async def offloaded(*args: Any, **kwargs: Any) -> Any:
            executor = await lane_prepared(to, current_host())
            if not executor.runs_coroutines:
                _check_blocking(fn, executor)
            return await executor.run_job(fn, args, kwargs, mode_on(executor, cancel), timeout)

        wrap(offloaded, fn)
        mark(offloaded, fn, to, timeout, cancel)  # type: ignore[arg-type]
        return offloaded

    return decorate if fn is None else decorate(fn)


@overload
def map(  # noqa: A001
    fn: Callable[..., Coroutine[Any, Any, T]],
    /,
    *iterables: Iterable[Any] | AsyncIterable[Any],
    to: str | Executor = ...,
    ordered: bool = True,
    in_flight: int | None = None,
    errors: Literal["raise"] = "raise",
    timeout: float | None = None,
) -> AsyncGenerator[T, None]: ...
@overload
def map(  # noqa: A001
    fn: Callable[..., T],
    /,
    *iterables: Iterable[Any] | AsyncIterable[Any],
    to: str | Executor = ...,
    ordered: bool = True,
    in_flight: int | None = None,
    errors: Literal["raise"] = "raise",
    timeout: float | None = None,
) -> AsyncGenerator[T, None]: ...
@overload
def map(  # noqa: A001
    fn: Callable[..., Coroutine[Any, Any, T]],
    /,
    *iterables: Iterable[Any] | AsyncIterable[Any],
    to: str | Executor = ...,
    ordered: bool = True,
    in_flight: int | None = None,
    errors: Literal["return"],
    timeout: float | None = None,
) -> AsyncGenerator[T | Exception, None]: ...
@overload
def map(  # noqa: A001
    fn: Callable[..., T],
    /,
    *iterables: Iterable[Any] | AsyncIterable[Any],
    to: str | Executor = ...,
    ordered: bool = True,
    in_flight: int | None = None,
    errors: Literal["return"],
    timeout: float | None = None,
) -> AsyncGenerator[T | Exception, None]: ...
def map(  # noqa: A001 - the async counterpart of the builtin, always written bridge.map
    fn: Callable[..., Any],
    /,
    *iterables: Iterable[Any] | AsyncIterable[Any],
    to: str | Executor = _UNSAID,
    ordered: bool = True,
    in_flight: int | None = None,
    errors: Literal["raise", "return"] = "raise",
    timeout: float | None = None,
) -> AsyncGenerator[Any, None]:
    """Yield `fn(*items)` for the zipped items of sync or async iterables, computed in the lane or executor `to`.

    Returns an async generator: `async for result in bridge.map(fn, inputs)`, with neither a plain `for` nor an `await`.
    Results come in the order of the input, or as completed with `ordered=False`. At most `in_flight` calls (default:
    twice the executor's workers; in processes it grows for functions that are short) are queued, running or not yet
    taken, so the input may be endless.

    An error has a note with the index and the `repr`, cut where it is long, of the input that it is about. With
    `errors="raise"` the first one ends the iteration and is raised there. With `errors="return"` it is yielded in the
    place of the result, and the iteration goes on; a worker process that dies (WorkerDied) costs the one input that it
    worked on. What is not an Exception (KeyboardInterrupt, SystemExit, a cancellation), an error of the iterables, and an
    executor that takes no more work (ExecutorClosed) are always raised.

    `timeout` is in seconds, for each call from its beginning; time in the queue does not count. A call that takes longer
    is ended as by `offload(timeout=...)`: in processes the function is ended; in threads `check_cancelled` raises in it,
    and it is waited for. Its error is OffloadTimeout.

    A function that `offload` has decorated, or a partial of one, runs where its decorator says, with its `timeout` and
    `cancel`. `to` and `timeout` given here go before those of the decorator.

    Leaving early withdraws what has not begun, ends what runs and waits for that; to have it happen at once and not when
    the generator is collected, iterate inside `contextlib.aclosing(...)`. Raises TypeError for an async function that
    would go to a thread and where there are no inputs, ValueError for a policy that the executor cannot keep.
    """
    plain, policy = undecorated(fn)
    if to is _UNSAID and policy is not None:
        to = policy.to
    check_errors(errors)
    _check_policy(to, timeout, policy.cancel if policy is not None else None)
    _check_blocking(plain, to)
    check_inputs(iterables)
    options: Any = {"ordered": ordered, "in_flight": in_flight, "errors": errors, "timeout": timeout}
    return _in_lane(to, lambda executor: executor.amap(fn, *iterables, **options))


def stream(
    gen_fn: Callable[..., Iterable[T]],
    /,
    *args: Any,
    to: str | Executor = "thread",
    in_flight: int = 16,
    **kwargs: Any,
) -> AsyncGenerator[T, None]:
    """Iterate a synchronous generator that runs in a worker of the lane or executor `to`.

    Returns an async generator: `async for item in bridge.stream(gen_fn)`, with neither a plain `for` nor an `await`.
    The generator stays in one thread and is at most `in_flight` items ahead of the consumer. Leaving the iteration closes
    it there; to have that happen at once, iterate inside `contextlib.aclosing(...)`.
    """
    _check_blocking(gen_fn, "thread")
    return _in_lane(to, lambda executor: executor.stream(gen_fn, *args, in_flight=in_flight, **kwargs))


async def _in_lane(to: str | Executor, start: Callable[[Executor], AsyncGenerator[T, None]]) -> AsyncGenerator[T, None]:
    """The lane is looked up when the iteration begins, on the loop that iterates."""
    generator = start(await lane_prepared(to, current_host()))
    try:
        async for item in generator:
            yield item
    finally:
        await generator.aclose()


def _check_policy(to: object, timeout: object, cancel: object) -> None:
    if not isinstance(to, (str, Executor)):
        raise not_an_executor(to)
    check_timeout(timeout)
    if cancel not in (None, "wait", "abandon", "kill"):
        raise ValueError(f"cancel= is 'wait', 'abandon' or 'kill', not {cancel!r}")
    modes = to.cancel_modes if isinstance(to, Executor) else ("wait", "abandon") if to == "thread" else None
    if modes is not None and cancel is not None and cancel not in modes:
        raise ValueError(cannot_cancel(cancel, to.name if isinstance(to, Executor) else str(to), modes))


def _check_blocking(fn: object, to: str | Executor) -> None:
    # Another name than "thread" is looked at when it is known what it means.
    check_blocking(fn, to.runs_coroutines if isinstance(to, Executor) else to != "thread")

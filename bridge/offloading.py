"""The names that turn a function into something to await: `to_thread`, `to_process`, `offload`, `map`, `stream`."""

from __future__ import annotations

import functools
import inspect
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Coroutine, Iterable
from typing import Any, ParamSpec, Protocol, TypeVar, overload

from bridge.executors.base import Executor
from bridge.executors.lanes import lane, lane_prepared
from bridge.loop.hosts import current_host
from bridge.threads.host import CancelMode
from bridge.threads.job import last_name, name_of

P = ParamSpec("P")
T = TypeVar("T")


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
    _check_policy(to, timeout, cancel)

    def decorate(fn: Callable[..., Any]) -> Callable[..., Coroutine[Any, Any, Any]]:
        _check_blocking(fn, to)

        @functools.wraps(fn)
        async def offloaded(*args: Any, **kwargs: Any) -> Any:
            executor = await lane_prepared(to, current_host())
            if not executor.runs_coroutines:
                _check_blocking(fn, executor)
            return await executor.run_job(fn, args, kwargs, _mode(executor, cancel), timeout)

        return offloaded

    return decorate if fn is None else decorate(fn)


def map(  # noqa: A001 - the async counterpart of the builtin, always written bridge.map
    fn: Callable[..., T],
    /,
    *iterables: Iterable[Any] | AsyncIterable[Any],
    to: str | Executor = "thread",
    ordered: bool = True,
    in_flight: int | None = None,
) -> AsyncGenerator[T, None]:
    """Yield `fn(*items)` for the zipped items of sync or async iterables, computed in the lane or executor `to`.

    Results come in the order of the input, or as completed with `ordered=False`. At most `in_flight` calls (default:
    twice the executor's workers) are queued, running or not yet taken, so the input may be endless. The first error ends
    the iteration. Leaving early withdraws what has not begun and waits for what runs; to have that happen at once and
    not when the generator is collected, iterate inside `contextlib.aclosing(...)`.
    """
    _check_blocking(fn, to)
    return _in_lane(to, lambda executor: executor.amap(fn, *iterables, ordered=ordered, in_flight=in_flight))


def stream(
    gen_fn: Callable[..., Iterable[T]],
    /,
    *args: Any,
    to: str | Executor = "thread",
    in_flight: int = 16,
    **kwargs: Any,
) -> AsyncGenerator[T, None]:
    """Iterate a synchronous generator that runs in a worker of the lane or executor `to`.

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


def _mode(executor: Executor, cancel: CancelMode | None) -> CancelMode:
    if cancel is None:
        return executor.cancel_modes[0]
    if cancel not in executor.cancel_modes:
        raise ValueError(_cannot(cancel, executor.name, executor.cancel_modes))
    return cancel


def _check_policy(to: object, timeout: object, cancel: object) -> None:
    if not isinstance(to, (str, Executor)):
        raise TypeError(f"to= takes the name of a lane or an Executor, not {to!r}")
    if timeout is not None and (not isinstance(timeout, (int, float)) or isinstance(timeout, bool)):
        raise TypeError(f"timeout= is in seconds, or None: not {timeout!r}")
    if isinstance(timeout, (int, float)) and not timeout > 0:
        raise ValueError(f"timeout= must be positive, in seconds: not {timeout!r}")
    if cancel not in (None, "wait", "abandon", "kill"):
        raise ValueError(f"cancel= is 'wait', 'abandon' or 'kill', not {cancel!r}")
    modes = to.cancel_modes if isinstance(to, Executor) else ("wait", "abandon") if to == "thread" else None
    if modes is not None and cancel is not None and cancel not in modes:
        raise ValueError(_cannot(cancel, to.name if isinstance(to, Executor) else str(to), modes))


def _cannot(cancel: object, name: str, modes: tuple[str, ...]) -> str:
    able = " or ".join(f"cancel={mode!r}" for mode in modes)
    return (
        f"cancel={cancel!r} is not possible on {name!r}: it knows {able}. A thread cannot be killed; "
        f"let the function call bridge.check_cancelled(), or do not wait for it."
    )


def _check_blocking(fn: object, to: str | Executor) -> None:
    if not callable(fn):
        raise TypeError(f"a function is needed, not {fn!r}")
    # Another name than "thread" is looked at when it is known what it means.
    may_be_async = to.runs_coroutines if isinstance(to, Executor) else to != "thread"
    if may_be_async and not inspect.isasyncgenfunction(fn):
        return
    if inspect.iscoroutinefunction(fn) or inspect.isasyncgenfunction(fn):
        raise TypeError(
            f"{name_of(fn)} is an async function: it does not block, so there is nothing to offload. "
            f"Write `await {last_name(fn)}(...)`, or decorate the blocking function that it calls."
        )

"""The arguments of `offload` for a function, and what of them a given executor can keep.

`@offload(...)` leaves a Policy on the function that it makes. `map`, which runs the decorated function itself, finds both
here, through functools.partial and bound methods too.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor as StandardExecutor
from dataclasses import dataclass
from functools import partial
from types import CodeType, FunctionType, MethodType
from typing import TYPE_CHECKING, Any

from bridge.callables import async_kind, name_of, on_a_loop, require_function, shown
from bridge.threads.host import CancelMode
from bridge.threads.seconds import check_seconds

if TYPE_CHECKING:
    from bridge.executors.base import Executor

_MARK = "__bridge_policy__"


@dataclass(frozen=True, slots=True)
class Policy:
    """As the arguments of `offload`; `fn` is the function that was decorated."""

    fn: Callable[..., Any]
    to: str | Executor
    timeout: float | None
    cancel: CancelMode | None
    #: Of the function that `offload` has made. functools.wraps copies attributes to functions that are others.
    made: CodeType


def mark(made: FunctionType, fn: Callable[..., Any], to: str | Executor, timeout: float | None, cancel: Any) -> None:
    """Remember how `made` runs `fn`."""
    setattr(made, _MARK, Policy(fn, to, timeout, cancel, made.__code__))


def undecorated(fn: Callable[..., Any]) -> tuple[Callable[..., Any], Policy | None]:
    """The blocking function behind one that `offload` has made, and its policy; any other function as it is."""
    if type(fn) is FunctionType:
        policy = fn.__dict__.get(_MARK)
        if type(policy) is Policy and policy.made is fn.__code__:
            return policy.fn, policy
    elif type(fn) is MethodType:
        inner, policy = undecorated(fn.__func__)
        if policy is not None:
            return partial(inner, fn.__self__), policy
    elif type(fn) is partial:
        inner, policy = undecorated(fn.func)
        if policy is not None:
            return partial(inner, *fn.args, **fn.keywords), policy
    return fn, None


def mode_on(executor: Executor, cancel: CancelMode | None) -> CancelMode:
    """What cancelling does there: `cancel`, or the executor's default. Raises ValueError if it is not possible."""
    if cancel is None:
        return executor.cancel_modes[0]
    if cancel not in executor.cancel_modes:
        raise ValueError(cannot_cancel(cancel, executor.name, executor.cancel_modes))
    return cancel


def cannot_cancel(cancel: object, name: str, modes: tuple[str, ...]) -> str:
    """The message for a `cancel=` that an executor has no way of keeping."""
    able = " or ".join(f"cancel={mode!r}" for mode in modes)
    return (
        f"cancel={cancel!r} is not possible on {name!r}: it knows {able}. A thread cannot be killed, nor "
        f"what another library runs; let the function call bridge.check_cancelled(), do not wait for it, or use "
        f"bridge.ProcessExecutor."
    )


def check_blocking(fn: object, runs_coroutines: bool) -> None:
    """Raise TypeError for what is no function, and for an async one where that does not run."""
    require_function(fn)
    kind = async_kind(fn)
    if kind is not None and not (kind == "coroutine" and runs_coroutines):
        raise TypeError(
            f"{name_of(fn)} is an async function: it does not block, so there is nothing to offload. "
            f"Write `{on_a_loop(fn, kind)}`, or decorate the blocking function that it calls."
        )


def not_an_executor(to: object) -> TypeError:
    """The error for a `to=` that is neither the name of a lane nor an executor of bridge's."""
    if isinstance(to, StandardExecutor):
        made = f"{type(to).__name__}(...)"
        instead = f"Make a bridge.ForeignExecutor of it, once, and hand that over: to=bridge.ForeignExecutor({made})"
    elif isinstance(to, type) and issubclass(to, StandardExecutor):
        own = to.__module__.startswith("bridge.")
        made = f"bridge.{to.__name__}()" if own else f"bridge.ForeignExecutor({to.__name__}())"
        instead = f"Create an instance, and close it after the last call: to={made}"
    else:
        instead = 'Write to="thread", to="process", or the name of a lane that bridge.run(executors=...) has opened'
    return TypeError(f"to= takes the name of a lane or an Executor of bridge's, not {shown(to)}. {instead}.")


def check_inputs(iterables: tuple[object, ...]) -> None:
    """Raise TypeError where `map` has no inputs, or something that cannot be iterated in their place."""
    if not iterables:
        raise TypeError(
            "bridge.map needs inputs: write bridge.map(fn, inputs), where fn is called with each of them. "
            "For one call write `await bridge.to_thread(fn)`."
        )
    for each in iterables:
        kind = type(each)
        if not any(hasattr(kind, name) for name in ("__aiter__", "__iter__", "__getitem__")):
            raise TypeError(
                f"bridge.map needs iterables of inputs, not {shown(each)}: write bridge.map(fn, inputs), where fn is "
                f"called with each of them. An argument that is the same for all goes into functools.partial(fn, ...)."
            )


def check_timeout(timeout: object) -> None:
    """Raise for anything but a positive number of seconds, or None."""
    if timeout is not None:
        check_seconds("timeout=", timeout, "timeout=30.0, or None for no limit", positive=True)


def check_errors(errors: object) -> None:
    """Raise for anything but the two things that `map` can do with an error."""
    if errors not in ("raise", "return"):
        raise ValueError(f"errors= is 'raise', or 'return' to get errors in the place of results: not {errors!r}")

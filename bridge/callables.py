"""What a program hands over to be called: its name, and whether calling it does no more than make a coroutine.

    callable ── name_of, last_name ──> text for messages
             ── async_kind ──────────> "coroutine", "async generator", or None for what runs when it is called

In: any object. A callable may be a Mock, which has every attribute, or a proxy whose attributes raise. So its type
decides what it is, and an attribute counts only if its value is of the one type that it has to be. Nothing here raises,
except KeyboardInterrupt. Worker processes import this module: it imports nothing heavy.
"""

from __future__ import annotations

import functools
import inspect
import sys
from inspect import CO_ASYNC_GENERATOR, CO_COROUTINE
from itertools import islice
from types import (
    AsyncGeneratorType,
    BuiltinFunctionType,
    CodeType,
    CoroutineType,
    FunctionType,
    GeneratorType,
    MethodDescriptorType,
    MethodType,
    MethodWrapperType,
    ModuleType,
    WrapperDescriptorType,
)
from typing import Any, Literal

#: What to write, of an async function that is to be iterated in a worker.
NOT_STREAMED = (
    "a worker iterates with a plain `for`. Iterate it on the loop with `async for`, or stream a plain generator."
)

#: What to write instead of an async function that is to prepare a worker process.
NOT_INITIALIZED = "an initializer is called, not awaited. Write a plain function, which may call asyncio.run(...)."

#: What to write instead of an async function that the loop is to call without waiting for it.
NOT_AWAITED = (
    "a callback is called, not awaited. Write portal.run_coroutine_threadsafe(...), or portal.call to wait for it."
)

Kind = Literal["coroutine", "async generator"]

#: Callables inside one another that are looked through: a partial object can be made to hold itself.
_MOST_LAYERS = 100
#: Characters of a repr that a message shows.
_MOST_SHOWN = 200
#: What stands for a callable without a usable name in a line of code.
_NAMELESS = "fn"
#: The options of `offload`, which a function that is sent by `to_thread` may be given by mistake.
_OPTIONS = ("to", "timeout", "cancel")

_ASYNC = CO_COROUTINE | CO_ASYNC_GENERATOR
_CACHED: type = type(functools.lru_cache(lambda: None))

#: What a function may be bound to that is not an object of a class.
_NO_OBJECTS = (type, ModuleType, type(None))

#: The attribute of a function that was made from a partial method: since Python 3.13, and before.
_PARTIAL_METHOD = ("__partialmethod__", "_partialmethod")
_FUNC: Any = vars(functools.partial)["func"]


def _marked() -> None: ...


if sys.version_info >= (3, 12):
    inspect.markcoroutinefunction(_marked)
_MARKS: list[tuple[str, object]] = list(vars(_marked).items())


# -- names ---------------------------------------------------------------------------------------------------------------


def name_of(fn: object) -> str:
    """Return `module.qualname` of a callable, as a reader would look for it; its repr if it has no name."""
    for _ in range(_MOST_LAYERS):
        name = _text(fn, "__qualname__")
        if name:
            module = _text(fn, "__module__")
            return f"{module}.{name}" if module else name  # a coroutine has none
        inner = _of_partial(fn)
        if inner is None:
            break
        fn = inner
    return shown(fn)


def qualname_of(fn: object) -> str:
    """Return the name of a callable, or a coroutine, within its module; the name of its type if it has none."""
    return _text(fn, "__qualname__") or _text(type(fn), "__qualname__") or _NAMELESS


def last_name(fn: object) -> str:
    """Return the name by which the caller most likely knows a callable, for the line of code that a message suggests."""
    name = name_of(fn).rpartition(".")[2]
    return name if name.isidentifier() else _NAMELESS


def written(fn: object) -> str:
    """Return how a line of code may have a callable: `time.sleep`, `K.load`, `event.wait` for a method of an object, and
    the mere name of what is defined inside a function."""
    for _ in range(_MOST_LAYERS):
        inner = None if _text(fn, "__qualname__") else _of_partial(fn)
        if inner is None:
            break
        fn = inner
    name = name_of(fn).rpartition("<locals>.")[2].removeprefix("__main__.").removeprefix("builtins.")
    *owners, last = name.split(".")
    if not all(map(str.isidentifier, (*owners, last))):
        owners = []
    elif type(fn) in (MethodType, BuiltinFunctionType) and not isinstance(_get(fn, "__self__"), _NO_OBJECTS):
        owners = [each.lower() for each in owners[-1:]]
    return ".".join([*owners, last if last.isidentifier() else _NAMELESS])


def builtin_name(fn: object) -> str | None:
    """Return the qualified name of what the interpreter names itself: a built-in function, a method, a class, a cache."""
    kind = type(fn)
    if kind is BuiltinFunctionType or kind is type:
        name: str = fn.__qualname__  # type: ignore[attr-defined]  # the interpreter's own, for each call in a process
        return name
    if kind is MethodType or kind is MethodDescriptorType or kind is _CACHED:
        return _text(fn, "__qualname__")
    return None


def code_of(fn: object) -> CodeType | None:
    """Return the code of a Python function, or of a method that is one; None for any other callable."""
    if type(fn) is MethodType:
        fn = fn.__func__
    return fn.__code__ if type(fn) is FunctionType else None


def shown(thing: object) -> str:
    """Return the repr of anything, for a message; of one that has none, its type."""
    try:
        text = str.__str__(repr(thing))  # the very type: a subclass may do anything when it is formatted
    except KeyboardInterrupt:
        raise
    except BaseException:
        text = f"<{_text(type(thing), '__qualname__') or 'an'} object, whose repr fails>"
    return text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}..."


# -- what it is ----------------------------------------------------------------------------------------------------------


def async_kind(fn: object) -> Kind | None:
    """Return what calling `fn` only makes: a "coroutine", an "async generator"; None if calling it runs it.

    Looks through partial, bound methods, static methods, `lru_cache` and `__call__`; knows AsyncMock, and what
    `inspect.markcoroutinefunction` has marked. A plain function that returns a coroutine is plain: see `kind_made`.
    """
    if type(fn) is MethodType:
        fn = fn.__func__
    if type(fn) is FunctionType:  # nearly always, and then it is known at once
        if not fn.__code__.co_flags & _ASYNC and not fn.__dict__:
            return None
    elif type(fn) is BuiltinFunctionType:
        return None
    for _ in range(_MOST_LAYERS):
        code = _get(fn, "__code__")
        if type(code) is CodeType and code.co_flags & _ASYNC:
            return "coroutine" if code.co_flags & CO_COROUTINE else "async generator"
        if any(_get(fn, name) is mark for name, mark in _marks()):
            return "coroutine"
        inner = _inside(fn)
        if inner is None:
            return None
        fn = inner
    return None


def as_kind(fn: object, kind: Kind) -> str:
    """Return "module.fetch is a coroutine function", for messages."""
    return f"{name_of(fn)} is {'a coroutine' if kind == 'coroutine' else 'an async generator'} function"


def on_a_loop(fn: object, kind: Kind) -> str:
    """Return the line that runs an async function on a loop, for messages."""
    return f"{'await' if kind == 'coroutine' else 'async for item in'} {last_name(fn)}(...)"


def kind_made(fn: object, value: object) -> Kind | None:
    """Return what `value`, the result of calling `fn`, is if `fn` is an async function, or decorates one and returns what
    that has made. None for anything else, also for a coroutine that a plain function has made."""
    kind = _kind_of_value(value)
    if kind is None or async_kind(fn) is not None:
        return kind
    code = _get(value, "cr_code" if kind == "coroutine" else "ag_code")
    layers = [fn]
    for layer in islice(layers, _MOST_LAYERS):  # and those that are added on the way
        if _get(layer, "__code__") is code:
            return kind
        layers += [each for each in (_inside(layer), _get(layer, "__wrapped__")) if each is not None]
    return None


def decorates_async(fn: object) -> bool:
    """Return whether `fn` is, or decorates, an async function, as far as `functools.wraps` tells."""
    layers = [fn]
    for layer in islice(layers, _MOST_LAYERS):  # and those that are added on the way
        if async_kind(layer) is not None:
            return True
        layers += [each for each in (_inside(layer), _get(layer, "__wrapped__")) if each is not None]
    return False


def require_function(fn: object) -> None:
    """Raise TypeError, with what to write instead, for what cannot be called; a coroutine is closed."""
    if callable(fn):
        return
    name = last_name(fn)
    kind = _kind_of_value(fn)
    if kind is not None:
        discard(fn)
        instead = f"Write `{on_a_loop(fn, kind)}` on the loop: it does not block, and needs no thread."
        if kind == "coroutine":
            instead += f" A worker process takes the function and its arguments: `bridge.to_process({name}, ...)`."
        raise TypeError(f"a function is needed, not the {kind} that {name}(...) has made. {instead}")
    if type(fn) is GeneratorType:
        raise TypeError(
            f"a function is needed, not the generator that {name}(...) has made. Hand over the function and its "
            f"arguments: `bridge.stream({name}, ...)`."
        )
    raise TypeError(
        f"a function is needed, not {shown(fn)}. Hand over the function and its arguments, `fn, ...`, and not what a "
        f"call of it has returned, `fn(...)`."
    )


def explained(error: BaseException, fn: object) -> BaseException:
    """Return what a call of `fn` should fail with that has failed with `error`.

    That is a better error if `fn` cannot be called, which is looked at only now. If `fn` does not know an option that is
    one of `offload`, the error gets a note.
    """
    try:
        require_function(fn)
    except TypeError as better:
        return better.with_traceback(None)
    said = str(error) if type(error) is TypeError else ""  # Python's own
    wrong = f"{qualname_of(fn)}() got an unexpected keyword argument "
    option = next((each for each in _OPTIONS if said.startswith(f"{wrong}'{each}'")), None) if said else None
    if option is not None:
        error.add_note(
            f"All arguments are the function's own. Write `await bridge.offload({option}=...)({last_name(fn)})(...)`, "
            f"or decorate it with @bridge.offload({option}=...)."
        )
    return error


def refuse_async(fn: object, value: object, instead: str) -> None:
    """Raise TypeError if `value`, which `fn` has returned, is a coroutine, which is closed, or an async generator.

    For where nothing is going to await it. `instead` is what to write.
    """
    kind = _kind_of_value(value)
    if kind is not None:
        discard(value)
        made = "a coroutine" if kind == "coroutine" else "an async generator"
        raise TypeError(f"{name_of(fn)} returned {made}, and nothing here awaits it: {instead}")


def _kind_of_value(value: object) -> Kind | None:
    if type(value) is CoroutineType:
        return "coroutine"
    return "async generator" if type(value) is AsyncGeneratorType else None


def discard(value: object) -> None:
    """Close a coroutine that is not going to be awaited, so that nothing warns of it; do nothing to anything else."""
    if type(value) is CoroutineType:
        value.close()


def manageable(error: BaseException) -> BaseException:
    """Return `error`; in its place a RuntimeError if even `isinstance` fails on it, and with it what handles it."""
    try:
        isinstance(error, _Never)
    except KeyboardInterrupt:
        raise
    except BaseException:
        name = name_of(type(error)).removeprefix("builtins.")
        return RuntimeError(f"{name} was raised, an exception that cannot be handled: its __class__ raises")
    return error


class _Never:
    """What no exception is an instance of, so that `isinstance` asks the exception itself."""


def wrap(wrapper: Any, fn: object) -> None:
    """Give `wrapper` the name, documentation and signature of `fn`, as `functools.update_wrapper` does; without the marks
    of async functions, and without attributes that cannot be had or cannot be set."""
    for name in functools.WRAPPER_ASSIGNMENTS:
        try:
            setattr(wrapper, name, getattr(fn, name))
        except KeyboardInterrupt:
            raise
        except BaseException:
            continue
    attributes = _get(fn, "__dict__")
    if type(attributes) is dict:
        marks = {name for name, _ in _marks()}.union(_PARTIAL_METHOD)
        wrapper.__dict__.update({name: value for name, value in attributes.items() if name not in marks})
    wrapper.__wrapped__ = fn


def _marks() -> list[tuple[str, object]]:
    """Attributes, with their values, that mark a callable as async: that of `inspect`, and, where asyncio is loaded, its
    older one, which AsyncMock has."""
    older = getattr(sys.modules.get("asyncio.coroutines"), "_is_coroutine", None)
    return _MARKS if older is None else [*_MARKS, ("_is_coroutine", older)]


# -- one layer -----------------------------------------------------------------------------------------------------------


def _inside(fn: Any) -> Any:
    """Return what a call of `fn` comes to, one layer further in; None if that is all."""
    kind = type(fn)
    if kind is MethodType or kind is staticmethod or kind is classmethod:
        return fn.__func__
    if kind is _CACHED:
        return _get(fn, "__wrapped__")
    inner = _of_partial(fn)
    if inner is not None or kind is FunctionType:
        return inner
    call = _get(kind, "__call__")
    return None if type(call) is WrapperDescriptorType or type(call) is MethodWrapperType else call


def _of_partial(fn: Any) -> Any:
    """Return the function in a partial object, or in a partial method; None for anything else."""
    if issubclass(type(fn), functools.partial):
        return _FUNC.__get__(fn)
    if type(fn) is FunctionType:  # a partial method, as its class gives it out
        fn = next((fn.__dict__[name] for name in _PARTIAL_METHOD if name in fn.__dict__), None)
    return _get(fn, "func") if issubclass(type(fn), functools.partialmethod) else None


def _get(thing: object, name: str) -> Any:
    """Return an attribute; None for one that cannot be had. Its value may be anything."""
    try:
        return getattr(thing, name, None)
    except KeyboardInterrupt:
        raise
    except BaseException:
        return None


def _text(thing: object, name: str) -> str | None:
    """Return an attribute that is a string; None if it is not."""
    value = _get(thing, name)
    return value if type(value) is str else None

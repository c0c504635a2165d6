"""What the standard library's decorators make of a function or a class, by value: pickle would send a name, or refuse.

    @lru_cache, @cache        ─> one in each worker, which keeps what it has cached from call to call
    @singledispatch, @singledispatchmethod ─> made anew, with all that was registered
    @cached_property          ─> made anew; before Python 3.12 it holds a lock
    __slots__, @dataclass(slots=True) ─> a class with these slots

Each is made first and filled afterwards, because the function may refer to it by its own global name. In: objects that
do not go by their name. Out: what `__reduce__` would give.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import MemberDescriptorType
from typing import Any

from cloudpickle.cloudpickle import _make_skeleton_class  # type: ignore[import-untyped]

from bridge.executors.process.wire.originals import Token, arrived

Reduced = tuple[Any, ...]

CachedFunction: type = type(functools.lru_cache(lambda: None))
#: The code that every function has which `singledispatch` returns.
_dispatching: Any = functools.singledispatch(lambda each: None)
_DISPATCHING = _dispatching.__code__

#: In a worker: by the token of the one in the parent, those that came first at the front.
_cached: dict[Token, Any] = {}
#: So many are kept: a program may make, and send, a new one for each call.
MOST_CACHED = 256


def is_dispatching(function: Any) -> bool:
    """Was it made by `singledispatch`?"""
    return function.__code__ is _DISPATCHING


def reduce_cached(function: Any, token: Token | None) -> Reduced:
    """What `lru_cache` has made; without a token it is not one that the other side may have already."""
    parameters = function.cache_parameters()
    state = function.__wrapped__, {key: each for key, each in vars(function).items() if key != "__wrapped__"}
    return _make_cached, (token, parameters["maxsize"], parameters["typed"]), state, None, None, _finish


def reduce_dispatching(function: Any) -> Reduced:
    """Either way."""
    attributes = {key: each for key, each in vars(function).items() if key not in _OF_SINGLEDISPATCH}
    state = dict(function.registry), function.__wrapped__, attributes
    return _make_dispatching, (), state, None, None, _finish_dispatching


def reduce_cached_property(made: functools.cached_property[Any]) -> Reduced:
    """Either way."""
    state = {key: each for key, each in vars(made).items() if key != "lock"}
    return _make_cached_property, (), state


_OF_SINGLEDISPATCH = frozenset(vars(_dispatching))


def reduce_dispatching_method(made: functools.singledispatchmethod[Any]) -> Reduced:
    """Either way."""
    return _make_dispatching_method, (), {key: vars(made)[key] for key in ("dispatcher", "func")}


def _make_cached(token: Token | None, maxsize: int | None, typed: bool) -> Any:
    made: Any = None if token is None else _cached.get(token)
    if made is None:

        def call(*args: Any, **kwargs: Any) -> Any:
            return made.__wrapped__(*args, **kwargs)

        made = functools.lru_cache(maxsize, typed)(call)
        if token is not None:
            if len(_cached) >= MOST_CACHED:
                del _cached[next(iter(_cached))]
            _cached[token] = made
            arrived(made, token)
    return made


def _finish(made: Any, state: tuple[Callable[..., Any], dict[str, Any]]) -> None:
    wrapped, attributes = state
    functools.update_wrapper(made, wrapped)
    vars(made).update(attributes)


def _make_dispatching() -> Any:
    def call(*args: Any, **kwargs: Any) -> Any:
        return made.__wrapped__(*args, **kwargs)

    made: Any = functools.singledispatch(call)
    return made


def _finish_dispatching(made: Any, state: tuple[dict[Any, Any], Callable[..., Any], dict[str, Any]]) -> None:
    registry, wrapped, attributes = state
    functools.update_wrapper(made, wrapped)
    vars(made).update(attributes)
    for cls, function in registry.items():
        if cls is not object or function is not wrapped:
            made.register(cls, function)


def _make_dispatching_method() -> Any:
    return functools.singledispatchmethod(_nothing)


def _make_cached_property() -> Any:
    return functools.cached_property(_nothing)


def _nothing(instance: object) -> None: ...


# -- classes -------------------------------------------------------------------------------------------------------------


def as_defined(cls: type, reduced: Reduced) -> Reduced:
    """What cloudpickle makes of a class by value, with its slots and its qualified name, which cloudpickle leaves out."""
    if reduced[0] is not _make_skeleton_class:  # an enumeration
        return reduced
    make, (kind, name, bases, options, *more), (attributes, state), *rest = reduced
    options = {**options, "__qualname__": cls.__qualname__}
    own = vars(cls)
    if "__slots__" in own and not (issubclass(cls, tuple) and hasattr(cls, "_fields")):  # a named tuple sees to it itself
        slots = [key for key, each in own.items() if type(each) is MemberDescriptorType]
        slots += [key for key in ("__dict__", "__weakref__") if key in own]
        options["__slots__"] = tuple(slots)
        attributes = {key: each for key, each in attributes.items() if key not in slots}
    return make, (kind, name, bases, options, *more), (attributes, state), *rest

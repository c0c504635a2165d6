"""Context variables between processes: each process has its own object, and they find one another by name.

    parent: resolve(vars) ── specs, with SETUP ──> worker: Declared(specs)
            values_for(vars, job.context) ── with each JOB ──> Declared.call(values, fn, args, kwargs)

A variable is known by the module and the attribute that hold it. A worker does not run the parent's `__main__`, so it
makes variables of its own for those. Functions of `__main__` refer to them, because `reduce_var` is how picklers take
along the variables that a function uses.
"""

from __future__ import annotations

import pickle
import sys
from collections.abc import Callable, Iterable, Sequence
from contextvars import Context, ContextVar, copy_context
from importlib import import_module
from typing import Any

#: Module, attribute, the variable's own name, and its default if it has one and lives in `__main__`.
Spec = tuple[str, str, str, tuple[Any, ...]]
#: Index among the declared ones, and value.
Values = tuple[tuple[int, Any], ...]

_UNSET: Any = object()
#: Variables of the parent's `__main__`, in a worker.
_ours: dict[tuple[str, str], ContextVar[Any]] = {}
_found: dict[ContextVar[Any], tuple[str, str]] = {}


# -- out -----------------------------------------------------------------------------------------------------------------


def resolve(variables: Iterable[ContextVar[Any]]) -> tuple[Spec, ...]:
    """Where the declared variables are to be found. Raises TypeError, and ValueError for one that is in no module."""
    specs = []
    for var in variables:
        if not isinstance(var, ContextVar):
            raise TypeError(f"context_vars= takes contextvars.ContextVar objects, not {var!r}")
        spec = _spec_of(var)
        if spec is None:
            raise ValueError(f"context_vars= has {_nowhere(var)}")
        specs.append(spec)
    return tuple(specs)


def values_for(variables: Sequence[ContextVar[Any]], context: Context) -> Values | None:
    """The values that travel with a job: of those variables that are set. None if none are declared at all."""
    if not variables:
        return None
    values = [(index, context.get(var, _UNSET)) for index, var in enumerate(variables)]
    return tuple(each for each in values if each[1] is not _UNSET)


def reduce_var(var: ContextVar[Any]) -> tuple[Callable[..., Any], Spec]:
    """For picklers: a context variable that some function refers to. Raises PicklingError if it is in no module."""
    spec = _spec_of(var)
    if spec is None:
        raise pickle.PicklingError(f"cannot pickle {_nowhere(var)}")
    return find_var, spec


def _nowhere(var: ContextVar[Any]) -> str:
    return (
        f"the context variable {var.name!r}, which is an attribute of no module: the worker could not find its own. "
        f"Write `{var.name} = ContextVar({var.name!r})` at the top level of a module, not in a function or a class."
    )


def _spec_of(var: ContextVar[Any]) -> Spec | None:
    place = _place_of(var)
    if place is None:
        return None
    return (*place, var.name, _default_of(var) if place[0] == "__main__" else ())


def _place_of(var: ContextVar[Any]) -> tuple[str, str] | None:
    place = _found.get(var)
    if place is not None and (_ours.get(place) is var or _namespace(place[0]).get(place[1]) is var):
        return place
    places = [(_own_name(module), name) for module in list(sys.modules) for name in _names_of(var, module)]
    places += [place for place, ours in _ours.items() if ours is var]
    if not places:
        return None
    # Where the worker can import it, if there is such a place.
    place = _found[var] = min(places, key=lambda place: place[0] == "__main__")
    return place


def _own_name(module: str) -> str:
    """`__main__` also for its alias `__mp_main__`, which multiprocessing makes."""
    return "__main__" if sys.modules.get(module) is sys.modules.get("__main__") else module


def _names_of(var: ContextVar[Any], module: str) -> list[str]:
    return [name for name, value in list(_namespace(module).items()) if value is var]


def _namespace(module: str) -> dict[str, Any]:
    namespace = getattr(sys.modules.get(module), "__dict__", None)
    return namespace if isinstance(namespace, dict) else {}


def _default_of(var: ContextVar[Any]) -> tuple[Any, ...]:
    try:
        return (Context().run(var.get),)
    except LookupError:
        return ()


# -- in ------------------------------------------------------------------------------------------------------------------


def find_var(module: str, attribute: str, name: str, default: tuple[Any, ...]) -> ContextVar[Any]:
    """This process's own variable. Raises ImportError, AttributeError if there is none."""
    if module == "__main__":
        return _find_mains(attribute, name, default)
    var = getattr(import_module(module), attribute)
    if not isinstance(var, ContextVar):
        raise AttributeError(f"{module}.{attribute} is no context variable in this process, but {var!r}")
    return var


def _find_mains(attribute: str, name: str, default: tuple[Any, ...]) -> ContextVar[Any]:
    var = _namespace("__main__").get(attribute)
    if isinstance(var, ContextVar):
        return var
    place = ("__main__", attribute)
    ours = _ours.get(place)
    if ours is None:
        made: ContextVar[Any] = ContextVar(name, default=default[0]) if default else ContextVar(name)
        ours = _ours.setdefault(place, made)
    return ours


class Declared:
    """The declared variables, in a worker."""

    def __init__(self, specs: Iterable[Spec]):
        self._variables: tuple[ContextVar[Any], ...] = tuple(find_var(*spec) for spec in specs)

    def context(self, values: Values | None) -> Context:
        """A context for one job: the one at hand, which nothing that the job does changes, with `values` set."""
        context = copy_context()
        for index, value in values or ():
            context.run(self._variables[index].set, value)
        return context

    def call(self, values: Values | None, fn: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Call `fn(*args, **kwargs)` in such a context."""
        return self.context(values).run(fn, *args, **kwargs)

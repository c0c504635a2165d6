"""Objects that pickle refuses, and that make sense on the other side all the same: what is sent in their place.

    coroutine, async generator     ─ not begun, on the way home ─>   made anew there, from its function and arguments
    async generator, async stream  ─ on the way out ─>               ParentIterable ─ on the way home ─> the original
    result of @asynccontextmanager ─ not entered ─>                  made anew, from its function and arguments
    bridge.Portal                  ─ on the way out ─>               the worker's portal
    memoryview                     ─>                                a memoryview of a copy
    code                           ─>                                the same, with the name of its file

Each `reduce_...` takes what is to be pickled and returns what `__reduce__` would, or raises `Stays`, saying what to do.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from dis import get_instructions
from importlib import import_module
from inspect import CO_VARARGS, CO_VARKEYWORDS, CORO_CREATED, getcoroutinestate
from pickle import PickleBuffer
from types import AsyncGeneratorType, CellType, CodeType, CoroutineType, FunctionType
from typing import Any, NoReturn

from cloudpickle import cloudpickle  # type: ignore[import-untyped]

from bridge.executors.process.wire.originals import Token, functions_that_came, named, originals

Reduced = tuple[Any, ...]

#: What cloudpickle says in place of a file's name.
_NO_FILE = "<dynamic-code>"


class Stays(TypeError):
    """It cannot travel, and there is no need to look for a part of it that is to blame."""


#: Looked up by name in the worker, because the parent need not have it.
_WORKERS_PORTAL = ("bridge.executors.process.worker.portal", "portal_here")


def reduce_code(code: CodeType) -> Reduced:
    """As cloudpickle does, but a traceback from a worker is to show the file and its lines: from 3.1.3 on, cloudpickle
    takes the name of the file away, so that parcels are the same wherever a function was defined."""
    reduced: Reduced = cloudpickle._code_reduce(code)
    make, parts, *rest = reduced
    return make, tuple(code.co_filename if isinstance(part, str) and part == _NO_FILE else part for part in parts), *rest


# -- coroutines and async generators -------------------------------------------------------------------------------------


def reduce_coroutine(coro: CoroutineType[Any, Any, Any]) -> Reduced:
    """On the way home."""
    if getcoroutinestate(coro) != CORO_CREATED:
        raise Stays(
            f"cannot pickle the coroutine {coro.__qualname__}, which has been started already: what it has done so far "
            f"would be lost. Hand over a fresh one, {coro.__name__}(...), or use portal.call({coro.__name__}, ...)."
        )
    return _call, _parts(coro.cr_code, coro.cr_frame, coro.__name__, coro.__qualname__)


def reduce_async_generator(generator: AsyncGeneratorType[Any, Any]) -> Reduced:
    """On the way home."""
    if _has_begun(generator):
        raise Stays(
            f"cannot pickle the async generator {generator.__qualname__}, which has been started already: what it has "
            f"done so far would be lost. Hand over a fresh one, {generator.__name__}(...)."
        )
    return _call, _parts(generator.ag_code, generator.ag_frame, generator.__name__, generator.__qualname__)


def _has_begun(generator: AsyncGeneratorType[Any, Any]) -> bool:
    """`inspect.getasyncgenstate` is new in Python 3.12. Until it is asked for an item, it stands where it was made."""
    frame = generator.ag_frame
    if frame is None or generator.ag_running:
        return True
    made_at = next(each.offset for each in get_instructions(frame.f_code) if each.opname == "RETURN_GENERATOR")
    return frame.f_lasti > made_at + 2  # an instruction later in Python 3.13


def refuse_coroutine(coro: CoroutineType[Any, Any, Any]) -> NoReturn:
    """On the way out."""
    raise Stays(
        f"cannot pickle the coroutine {coro.__qualname__} for a worker process. Hand over the function and its "
        f"arguments: executor.run({coro.__name__}, ...) awaits it in the worker."
    )


def _call(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return function(*args, **kwargs)


def _parts(code: CodeType, frame: Any, name: str, qualname: str) -> tuple[Any, ...]:
    """Function and arguments of a coroutine or generator that has not begun: its frame has nothing else yet."""
    found = frame.f_locals
    names = code.co_varnames
    positional, end = code.co_argcount, code.co_argcount + code.co_kwonlyargcount
    args = tuple(found[each] for each in names[:positional])
    kwargs = {each: found[each] for each in names[positional:end]}
    if code.co_flags & CO_VARARGS:
        args += found[names[end]]
        end += 1
    if code.co_flags & CO_VARKEYWORDS:
        kwargs.update(found[names[end]])
    return _function(code, frame.f_globals, name, qualname, found), args, kwargs


def _function(code: CodeType, namespace: dict[str, Any], name: str, qualname: str, found: Any) -> Any:
    """The function itself if it can be found, otherwise one that is like it."""
    module = namespace.get("__name__", "__main__")
    for function in (*named(module, qualname), *functions_that_came()):
        if getattr(function, "__code__", None) is code and _has_cells(function, found):
            return function
    cells = tuple(CellType(found[each]) if each in found else CellType() for each in code.co_freevars)
    function = FunctionType(code, namespace, name, None, cells)
    function.__qualname__ = qualname
    function.__module__ = module
    return function


def _has_cells(function: FunctionType, found: Any) -> bool:
    """Does it have the same closure, not merely the same code?"""
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            content = cell.cell_contents
        except ValueError:
            if name in found:
                return False
        else:
            if name not in found or found[name] is not content:
                return False
    return True


# -- contexts ------------------------------------------------------------------------------------------------------------

context_type: Any = contextlib._AsyncGeneratorContextManager


def reduce_context(context: Any) -> Reduced:
    """What a function decorated with `asynccontextmanager` has returned."""
    parts = vars(context)
    if not parts.keys() >= {"func", "args", "kwds"} or _has_begun(context.gen):
        name = context.gen.__name__
        raise Stays(
            f"cannot pickle the async context manager {name}(...), which has been entered already. Hand over a fresh one."
        )
    return _enterable, (parts["func"], parts["args"], parts["kwds"])


def _enterable(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return contextlib.asynccontextmanager(function)(*args, **kwargs)


# -- handles -------------------------------------------------------------------------------------------------------------


class ParentIterable:
    """In a worker: stands for an async iterable that lives in the parent. `portal.iterate` iterates it there."""

    def __init__(self, token: Token, name: str):
        self._token = token
        self._name = name

    def __repr__(self) -> str:
        return f"<{self._name} in the parent process>"

    def __aiter__(self) -> AsyncIterator[Any]:
        raise TypeError(
            f"this {self._name} lives in the parent process, on a loop there, and cannot be iterated in a worker's own "
            f"loop. Write `for item in bridge.portal().iterate(it)` in a plain function."
        )

    def __reduce__(self) -> Reduced:
        return _iterable, (self._token, self._name)


def reduce_to_handle(iterable: Any) -> Reduced:
    """An async iterable, on the way out. It is not kept alive: whoever submitted the job does that."""
    return _iterable, (originals.token_of(iterable), type(iterable).__qualname__)


def _iterable(token: Token, name: str) -> Any:
    if not originals.are_here(token):
        return ParentIterable(token, name)
    found = originals.get(token)
    if found is None:
        raise LookupError(f"the {name} that was sent to the worker is gone: keep a reference to it while the job runs")
    return found


# -- portals -------------------------------------------------------------------------------------------------------------


def reduce_portal(portal: object) -> Reduced:
    """On the way out."""
    return _workers_portal, ()


def _workers_portal() -> Any:
    module, name = _WORKERS_PORTAL
    return getattr(import_module(module), name)()


# -- memory --------------------------------------------------------------------------------------------------------------


def reduce_memoryview(view: memoryview) -> Reduced:
    """Read-only stays so. What is not contiguous in C's order, or of a foreign format, is packed together first."""
    if not view.c_contiguous or len(view.format) != 1:
        return memoryview, (view.tobytes(),)
    return _shaped_view, (PickleBuffer(view), view.format, view.shape)


def _shaped_view(buffer: Any, form: str, shape: tuple[int, ...]) -> memoryview:
    flat = memoryview(buffer).cast("B")  # whatever the buffer's own idea of its format is
    if len(shape) == 1:
        return flat if form == "B" else flat.cast(form)  # type: ignore[call-overload]
    return flat.cast(form, shape) if flat.nbytes else flat.cast(form)  # type: ignore[call-overload,no-any-return]

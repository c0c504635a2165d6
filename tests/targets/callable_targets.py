"""Callables that are not plain functions: async ones in many shapes, and odd ones, whose attributes lie or raise.

Each entry makes a new object, which takes any arguments: ASYNC gives FETCHED once it is awaited, ODD gives ANSWER.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import sys
from collections.abc import AsyncIterator, Callable
from typing import Any, NoReturn
from unittest.mock import AsyncMock, MagicMock, Mock, create_autospec

import bridge

FETCHED = "fetched"
ANSWER = 42


async def fetch(*_: object) -> str:
    return FETCHED


async def fetch_all(*_: object) -> AsyncIterator[str]:
    yield FETCHED


def answer(*_: object) -> int:
    return ANSWER


def add(number: int) -> int:
    return number + 1


async def add_later(number: int) -> int:
    return number + 1


def from_lambda(*_: object) -> Any:
    """Plain, and nothing at it says that it returns a coroutine."""
    return fetch()


@functools.wraps(fetch)
def wrapped(*_: object) -> Any:
    return fetch()


def marked(*_: object) -> Any:
    return fetch()


@functools.lru_cache
def answer_cached(*_: object) -> int:
    return ANSWER


if sys.version_info >= (3, 12):
    inspect.markcoroutinefunction(marked)
else:
    marked._is_coroutine = asyncio.coroutines._is_coroutine  # type: ignore[attr-defined]


class Methods:
    async def method(self, *_: object) -> str:
        return FETCHED

    @classmethod
    async def of_class(cls, *_: object) -> str:
        return FETCHED

    @staticmethod
    async def static(*_: object) -> str:
        return FETCHED

    partial_method = functools.partialmethod(method)
    cached = functools.lru_cache(method)


class AsyncCall:
    async def __call__(self, *_: object) -> str:
        return FETCHED


class AsyncCallWithFunc(AsyncCall):
    """As some task queues' decorators are: an attribute `func` leads to something else."""

    func = staticmethod(answer)


class StaticCall:
    @staticmethod
    async def __call__(*_: object) -> str:
        return FETCHED


class NestedCall:
    __call__ = AsyncCall()


def never() -> NoReturn:
    raise AssertionError("it cannot be made again")


#: What calling only makes a coroutine.
ASYNC: dict[str, Callable[[], Any]] = {
    "function": lambda: fetch,
    "partial": lambda: functools.partial(fetch),
    "partial of a partial": lambda: functools.partial(functools.partial(fetch)),
    "method": lambda: Methods().method,
    "class method": lambda: Methods.of_class,
    "static method": lambda: Methods.static,
    "static method object": lambda: vars(Methods)["static"],
    "partial method": lambda: Methods().partial_method,
    "partial method of a class": lambda: functools.partial(Methods.partial_method, Methods()),
    "cached": lambda: functools.lru_cache(fetch),
    "cached method": lambda: Methods().cached,
    "marked": lambda: marked,
    "partial of a marked one": lambda: functools.partial(marked),
    "object": AsyncCall,
    "object with func": AsyncCallWithFunc,
    "object with a static call": StaticCall,
    "object with an object as its call": NestedCall,
    "partial of an object": lambda: functools.partial(AsyncCall()),
    "call of an object": lambda: AsyncCall().__call__,
    "AsyncMock": lambda: AsyncMock(return_value=FETCHED),
    "partial of an AsyncMock": lambda: functools.partial(AsyncMock(return_value=FETCHED)),
    "attribute of an AsyncMock": lambda: AsyncMock(**{"get.return_value": FETCHED}).get,
    "Mock of an async function": lambda: Mock(spec=fetch, return_value=FETCHED),
    "autospec": lambda: create_autospec(fetch, return_value=FETCHED),
}


# -- odd -----------------------------------------------------------------------------------------------------------------


class Strange(BaseException):
    """Not even an Exception."""


class Odd:
    def __call__(self, *_: object) -> int:
        return ANSWER


class AnswersAll(Odd):
    def __getattr__(self, name: str) -> Any:
        return self


class AnswersWithNewOnes(Odd):
    def __getattr__(self, name: str) -> Any:
        return type(self)()


class Raises(Odd):
    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(name)


class RaisesWorse(Odd):
    def __getattr__(self, name: str) -> Any:
        raise Strange(name)


class RaisesForAll(Odd):
    def __getattribute__(self, name: str) -> Any:
        raise RuntimeError(name)


class ClassRaises(Odd):
    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        raise RuntimeError("working outside of a request")


class ClassLies(Odd):
    func = property(lambda self: self)
    __func__ = property(lambda self: self)

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        return functools.partial


class CannotBeHashed(Odd):
    __hash__ = None  # type: ignore[assignment]

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("not to be compared")


class NoRepr(Odd):
    def __repr__(self) -> str:
        raise Strange("no repr")


class NameIsNoString(Odd):
    def __init__(self) -> None:
        self.__qualname__: Any = []
        self.__module__: Any = {}
        self.__name__: Any = 5


class CodeRaises(Odd):
    @property
    def __code__(self) -> Any:
        raise Strange("no code")


class CodeIsNoCode(Odd):
    __code__ = "code"


class ReduceRaises(Odd):
    def __reduce__(self) -> Any:
        raise RuntimeError("not to be pickled")


class ReduceRaisesWorse(Odd):
    def __reduce__(self) -> Any:
        raise Strange("not to be pickled")


class ReduceLies(Odd):
    def __reduce__(self) -> Any:
        return never, ()


class ReduceToNothing(Odd):
    def __reduce__(self) -> Any:
        return 5


class Meta(type):
    __hash__ = None  # type: ignore[assignment]

    def __eq__(cls, other: object) -> bool:
        raise RuntimeError("not to be compared")


class OfAMetaclass(Odd, metaclass=Meta):
    pass


def holds_itself() -> Any:
    partial = functools.partial(answer)
    partial.__setstate__((answer, (), {}, {"func": partial, "__wrapped__": partial}))
    return partial


def named(**attributes: Any) -> Any:
    """A real function, with attributes that no function should have."""

    def function(*_: object) -> int:
        return ANSWER

    for name, value in attributes.items():
        setattr(function, name, value)
    return function


#: What runs when it is called, and is strange about anything else.
ODD: dict[str, Callable[[], Any]] = {
    "Mock": lambda: Mock(return_value=ANSWER),
    "MagicMock": lambda: MagicMock(return_value=ANSWER),
    "Mock of a function": lambda: Mock(spec=answer, return_value=ANSWER),
    "partial of a Mock": lambda: functools.partial(Mock(return_value=ANSWER)),
    "autospec of a plain function": lambda: create_autospec(answer, return_value=ANSWER),
    "partial that holds itself": holds_itself,
    "cached plain": lambda: answer_cached,
    "method of an object": lambda: Odd().__call__,
    "method of an odd object": lambda: AnswersAll().__call__,
    "function whose module is a list": lambda: named(__module__=[]),
    "function that is wrapped around itself": lambda: named(__wrapped__=answer),
    **{
        kind.__name__: kind
        for kind in (
            Odd,
            AnswersAll,
            AnswersWithNewOnes,
            Raises,
            RaisesWorse,
            RaisesForAll,
            ClassRaises,
            ClassLies,
            CannotBeHashed,
            NoRepr,
            NameIsNoString,
            CodeRaises,
            CodeIsNoCode,
            ReduceRaises,
            ReduceRaisesWorse,
            ReduceLies,
            ReduceToNothing,
            OfAMetaclass,
        )
    },
}


#: What pickle does not take, or cannot make again.
CANNOT_TRAVEL = {
    "cached",  # one that goes by another name than the function in it
    "cached method",
    "AsyncMock",
    "partial of an AsyncMock",
    "attribute of an AsyncMock",
    "Mock of an async function",
    "Mock of a function",
    "autospec",
    "autospec of a plain function",
    "function whose module is a list",
    "RaisesForAll",
    "ClassRaises",
    "ClassLies",
    "ReduceRaises",
    "ReduceRaisesWorse",
    "ReduceLies",
    "ReduceToNothing",
    "OfAMetaclass",
}


def on_the_portal(fn: Any) -> Any:
    return bridge.portal().call(fn)


def send_callbacks(callbacks: list[Any]) -> None:
    for callback in callbacks:
        bridge.portal().call_soon_threadsafe(callback)


if sys.version_info >= (3, 14):
    CANNOT_TRAVEL.add("partial method of a class")  # functools.partialmethod can be pickled, but not be made again


class ClassOfErrorRaises(Exception):
    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        raise RuntimeError("no class")


class ErrorRaisesForAll(Exception):
    def __getattribute__(self, name: str) -> Any:
        raise RuntimeError(name)


class ErrorWithoutText(Exception):
    __hash__ = None  # type: ignore[assignment]

    def __str__(self) -> str:
        raise RuntimeError("no text")

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("not to be compared")


class ErrorWithoutNotes(Exception):
    def add_note(self, note: str) -> None:
        raise RuntimeError("no note")


class AwaitRaises(type):
    def __getattr__(cls, name: str) -> Any:
        raise RuntimeError(name)


class OddResult(metaclass=AwaitRaises):
    pass


ODD_ERRORS = (ClassOfErrorRaises, ErrorRaisesForAll, ErrorWithoutText, ErrorWithoutNotes)


def fail(number: int) -> None:
    raise ODD_ERRORS[number]

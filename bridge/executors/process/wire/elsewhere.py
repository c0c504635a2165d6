"""An executor of the parent, as a function in a worker process sees it: something to name in a portal call.

    parent: executor ── reduce_executor ──> worker: ParentExecutor, executor.run ──> portal.call ──> parent: executor.run

The parent keeps no executor alive for this.
"""

from __future__ import annotations

from itertools import count
from typing import Any, NoReturn
from weakref import WeakKeyDictionary, WeakValueDictionary

_numbers = count(1)
_tokens: WeakKeyDictionary[Any, int] = WeakKeyDictionary()
_executors: WeakValueDictionary[int, Any] = WeakValueDictionary()


def reduce_executor(executor: Any) -> tuple[Any, ...]:
    """For pickle: an executor stays where it is, and its name travels."""
    token = _tokens.get(executor)
    if token is None:
        token = _tokens[executor] = next(_numbers)
        _executors[token] = executor
    return find_executor, (token, executor.name)


def find_executor(token: int, name: str) -> Any:
    """At home the executor itself, elsewhere what stands for it."""
    found = _executors.get(token)
    return found if found is not None and found.name == name else ParentExecutor(token, name)


class ParentExecutor:
    """Stands for an executor of the parent process. Its methods are for `portal.call`."""

    def __init__(self, token: int, name: str):
        self._token = token
        self.name: str = name

    def __repr__(self) -> str:
        return f"<executor {self.name!r} of the parent process>"

    def __reduce__(self) -> tuple[Any, ...]:
        return find_executor, (self._token, self.name)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return _Method(self, name)


class _Method:
    def __init__(self, executor: ParentExecutor, name: str):
        self._executor = executor
        self.__name__ = self.__qualname__ = name

    def __reduce__(self) -> tuple[Any, ...]:
        return getattr, (self._executor, self.__name__)

    def __call__(self, *args: object, **kwargs: object) -> NoReturn:
        raise TypeError(
            f"{self._executor!r} cannot be used in a worker process itself: "
            f"write bridge.portal().call(executor.{self.__name__}, ...)"
        )

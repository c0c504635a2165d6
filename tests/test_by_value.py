"""What a script defines and decorates goes there and back: cached and dispatching functions, classes of every make.

The programs are scripts, because that is where things are defined that do not go by their names.
"""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests.conftest import PATIENCE

# ruff: noqa: E501 - classes are easier to read in one line

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX")


def said_by(program: str, folder: Path) -> list[str]:
    path = folder / "script.py"
    path.write_text(textwrap.dedent(program))
    done = subprocess.run(
        [sys.executable, "-W", "error", path], capture_output=True, text=True, timeout=3 * PATIENCE, check=False
    )
    assert done.stderr == ""
    return done.stdout.splitlines()


# -- functions -----------------------------------------------------------------------------------------------------------


def test_a_cached_function_keeps_what_it_has_cached_from_call_to_call(tmp_path: Path) -> None:
    program = """
        import functools, bridge

        @functools.lru_cache(maxsize=10, typed=True)
        def double(x):
            print("doubling", x, flush=True)
            return 2 * x

        @functools.cache
        def fib(n):
            return n if n < 2 else fib(n - 1) + fib(n - 2)

        def both(x):
            return double(x) + fib(10)

        with bridge.ProcessExecutor(1) as executor:
            print(*(executor.submit(double, 4).result() for _ in range(3)))
            print(executor.submit(both, 4).result(), executor.submit(fib, 80).result())
            print(executor.submit(lambda: double.cache_info()).result())
            print(executor.submit(lambda: double).result() is double, double.cache_info().misses)
            print(executor.submit(lambda: (double.__name__, double.__wrapped__.__name__, fib.__doc__)).result())
    """
    assert said_by(program, tmp_path) == [
        "doubling 4",
        "8 8 8",
        "63 23416728348467685",
        "CacheInfo(hits=3, misses=1, maxsize=10, currsize=1)",
        "True 0",
        "('double', 'double', None)",
    ]


def test_a_cached_function_that_a_worker_has_made_comes_home(tmp_path: Path) -> None:
    program = """
        import functools, bridge

        def make(n):
            @functools.lru_cache(maxsize=n)
            def add(x):
                return x + n
            add.note = "kept"
            return add

        with bridge.ProcessExecutor(1) as executor:
            add = executor.submit(make, 5).result()
            print(add(1), add(1), add.cache_info().hits, add.cache_parameters()["maxsize"], add.note)
            print(executor.submit(add, 2).result())
    """
    assert said_by(program, tmp_path) == ["6 6 1 5 kept", "7"]


def test_a_worker_does_not_keep_cached_functions_without_end(tmp_path: Path) -> None:
    program = """
        import functools, gc, bridge

        def make(n):
            @functools.cache
            def add(x):
                return x + n
            return add

        def count():
            gc.collect()
            return sum(type(each).__name__ == "_lru_cache_wrapper" for each in gc.get_objects())

        with bridge.ProcessExecutor(1) as executor:
            before = executor.submit(count).result()
            print(sum(executor.submit(make(n), 1).result() for n in range(600)))
            print(executor.submit(count).result() - before < 300)
    """
    assert said_by(program, tmp_path) == ["180300", "True"]


def test_a_dispatching_function_has_all_that_was_registered(tmp_path: Path) -> None:
    program = """
        import functools, bridge

        class Own: ...

        @functools.singledispatch
        def kind(x):
            return "object"

        @kind.register
        def _(x: int):
            return "int"

        @kind.register(Own)
        def _(x):
            return "Own and " + kind(1)

        kind.note = "kept"

        class Table:
            @functools.singledispatchmethod
            def kind(self, x):
                return "object"

            @kind.register
            def _(self, x: str):
                return "str"

            @functools.cached_property
            def size(self):
                return 5

        with bridge.ProcessExecutor(1) as executor:
            print(*(executor.submit(kind, each).result() for each in ("x", 1, True, Own())))
            print(executor.submit(lambda: (kind, kind.note, kind.__name__)).result() == (kind, "kept", "kind"))
            print(executor.submit(lambda t: (t.kind("x"), t.kind(1), t.size, t.size), Table()).result())
    """
    assert said_by(program, tmp_path) == ["object int int Own and int", "True", "('str', 'object', 5, 5)"]


# -- classes -------------------------------------------------------------------------------------------------------------

# fmt: off
CLASSES = {
    "slots": (
        "class C:\n    __slots__ = ('a', 'b')\n",
        "C(); it.a = 1",
        "it.a, hasattr(it, '__dict__'), hasattr(it, 'b')",
    ),
    "one slot": ("class C:\n    __slots__ = 'a'\n", "C(); it.a = 1", "it.a, hasattr(it, '__dict__')"),
    "slots with docs": (
        "class C:\n    __slots__ = {'a': 'what it is'}\n",
        "C(); it.a = 1",
        "it.a, hasattr(it, '__dict__')",
    ),
    "no slots": ("class C:\n    __slots__ = ()\n", "C()", "hasattr(it, '__dict__'), hasattr(it, '__weakref__')"),
    "private slots": (
        "class C:\n    __slots__ = ('__a',)\n    def __init__(self): self.__a = 1\n    def get(self): return self.__a\n",
        "C()",
        "it.get(), hasattr(it, '__dict__')",
    ),
    "slots and more": (
        "class C:\n    __slots__ = ('a', '__dict__', '__weakref__')\n",
        "C(); it.a = 1; it.other = 2",
        "it.a, it.other, hasattr(it, '__weakref__')",
    ),
    "slots below slots": (
        "class B:\n    __slots__ = ('a',)\nclass C(B):\n    __slots__ = ('b',)\n",
        "C(); it.a = 1; it.b = 2",
        "it.a, it.b, hasattr(it, '__dict__')",
    ),
    "none below slots": (
        "class B:\n    __slots__ = ('a',)\nclass C(B):\n    pass\n",
        "C(); it.a = 1; it.b = 2",
        "it.a, it.b, hasattr(it, '__dict__')",
    ),
    "slots and properties": (
        "class C:\n    __slots__ = ('_a',)\n    def __init__(self): self._a = 1\n    a = property(lambda self: self._a + 1)\n",
        "C()",
        "it.a",
    ),
    "slots of a dataclass": (
        "@dataclass(slots=True)\nclass C:\n    a: int\n    b: list = field(default_factory=list)\n",
        "C(1)",
        "it.a, it.b, hasattr(it, '__dict__'), it == C(1)",
    ),
    "frozen slots": (
        "@dataclass(frozen=True, slots=True)\nclass C:\n    a: int\n",
        "C(1)",
        "it.a, hash(it) == hash(C(1))",
    ),
    "dataclass": ("@dataclass(order=True)\nclass C:\n    a: int = 1\n", "C(5)", "it.a, it > C(4)"),
    "named tuple": ("class C(NamedTuple):\n    a: int\n    b: str = 'x'\n", "C(1)", "it.a, it.b, it._fields"),
    "enum": ("class C(Enum):\n    A = 1\n    B = 'b'\n", "C.B", "it.name, it is C.B"),
    "flag": ("class C(Flag):\n    A = auto()\n    B = auto()\n", "C.A | C.B", "it.value, C.A in it"),
    "string enum": ("class C(str, Enum):\n    A = 'a'\n", "C.A", "it.upper(), it is C.A"),
    "abc": (
        "class B(ABC):\n    @abstractmethod\n    def get(self): ...\nclass C(B):\n    def get(self): return 1\n",
        "C()",
        "it.get(), isinstance(it, B)",
    ),
    "registered abc": ("class B(ABC): ...\n@B.register\nclass C: ...\n", "C()", "isinstance(it, B)"),
    "protocol": (
        "@runtime_checkable\nclass P(Protocol):\n    def get(self) -> int: ...\nclass C:\n    def get(self): return 1\n",
        "C()",
        "it.get(), isinstance(it, P)",
    ),
    "generic": (
        "T = TypeVar('T')\nclass C(Generic[T]):\n    def __init__(self, a: T): self.a = a\n",
        "C[int](1)",
        "it.a",
    ),
    "metaclass": (
        "class M(type):\n    def __len__(cls): return 5\nclass C(metaclass=M): ...\n",
        "C()",
        "len(type(it)), type(type(it)) is M",
    ),
    "exception": (
        "class C(Exception):\n    def __init__(self, a): super().__init__(a); self.a = a\n",
        "C(1)",
        "it.a, it.args",
    ),
    "of a dict": ("class C(dict):\n    def __missing__(self, key): return key\n", "C(a=1)", "it['a'], it['b']"),
    "of a list": ("class C(list):\n    __slots__ = ()\n", "C([1, 2])", "list(it), hasattr(it, '__dict__')"),
    "descriptor": (
        "class D:\n    def __get__(self, it, owner): return 7\nclass C:\n    d = D()\n",
        "C()",
        "it.d",
    ),
    "nested": (
        "class O:\n    class C:\n        __slots__ = ('a',)\nC = O.C\n",
        "C(); it.a = 1",
        "it.a, type(it).__qualname__",
    ),
    "reduced": (
        "class C:\n    def __init__(self, a): self.a = a\n    def __reduce__(self): return C, (self.a + 1,)\n",
        "C(1)",
        "it.a > 1",
    ),
    "typed dict": ("class C(TypedDict):\n    a: int\n", "C(a=1)", "it['a']"),
    "super": (
        "class B:\n    def get(self): return 1\nclass C(B):\n    __slots__ = ('a',)\n    def get(self): return super().get() + 1\n",
        "C()",
        "it.get()",
    ),
    "cached property": ("class C:\n    @cached_property\n    def a(self): return [1]\n", "C()", "it.a is it.a, it.a"),
}

# fmt: on

PROGRAM = """
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from enum import Enum, Flag, auto
from functools import cached_property
from typing import Generic, NamedTuple, Protocol, TypedDict, TypeVar, runtime_checkable
import bridge

{defined}

def look(it):
    return ({seen},)

def there_and_back(it):
    return look(it), it

def make():
    it = {made}
    return it

it = {made}
with bridge.ProcessExecutor(1) as executor:
    seen, back = executor.submit(there_and_back, it).result()
    made = executor.submit(make).result()
    again = executor.submit(there_and_back, it).result()[1]
    print(seen == look(back) == look(made) == look(again) or (seen, look(back), look(made)))
    print({{type(it)}} == {{type(back)}} == {{type(made)}} == {{type(again)}})
"""


@pytest.mark.parametrize("name", CLASSES)
def test_instances_of_a_scripts_classes_go_there_and_back(name: str, tmp_path: Path) -> None:
    defined, made, seen = CLASSES[name]
    program = PROGRAM.format(defined=defined, made=made.replace("; ", "\n    "), seen=seen)
    program = program.replace("\nit = " + made.replace("; ", "\n    "), "\nit = " + made.replace("; ", "\n"))
    assert said_by(program, tmp_path) == ["True", "True"]

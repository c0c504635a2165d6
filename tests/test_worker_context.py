"""Context variables between processes: found by name, carried by value, and set for one call only."""

from __future__ import annotations

import pickle
import subprocess
import sys
import types
from collections.abc import Iterator
from contextvars import Context, ContextVar, copy_context
from typing import Any

import pytest

from bridge.executors.process.wire import context as wire
from bridge.executors.process.wire.context import Declared, find_var, reduce_var, resolve, values_for

declared: ContextVar[str] = ContextVar("declared", default="unset")
other: ContextVar[str] = ContextVar("other")


@pytest.fixture
def mains(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A `__main__` with a variable. `del mains.var` makes it that of a worker, which has none."""
    main = types.ModuleType("__main__")
    monkeypatch.setitem(sys.modules, "__main__", main)
    monkeypatch.setattr(wire, "_ours", {})
    monkeypatch.setattr(wire, "_found", {})
    main.var = ContextVar("of main", default="its default")  # type: ignore[attr-defined]
    return main


def test_a_module_level_variable_is_found_by_identity() -> None:
    [spec] = resolve([declared])
    assert spec == (__name__, "declared", "declared", ())
    assert find_var(*spec) is declared


def test_what_is_in_no_module_is_refused_with_advice() -> None:
    local: ContextVar[int] = ContextVar("local")
    with pytest.raises(ValueError, match=r"'local'.*top level of a module"):
        resolve([declared, local])
    with pytest.raises(pickle.PicklingError, match=r"'local'.*top level of a module"):
        reduce_var(local)


def test_what_is_no_context_variable_is_refused() -> None:
    with pytest.raises(TypeError, match="'declared'"):
        resolve(["declared"])  # type: ignore[list-item]


def test_a_module_that_can_be_imported_is_preferred_to_main(mains: Any) -> None:
    mains.declared = declared
    assert resolve([declared])[0][0] == __name__


def test_an_alias_of_main_is_main(mains: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """As multiprocessing makes one."""
    monkeypatch.setitem(sys.modules, "__mp_main__", mains)
    assert resolve([mains.var])[0][0] == "__main__"


def test_a_variable_that_was_moved_is_found_where_it_is_now(monkeypatch: pytest.MonkeyPatch) -> None:
    var = other
    assert resolve([var])[0][1] == "other"
    monkeypatch.setitem(globals(), "moved", var)
    monkeypatch.delitem(globals(), "other")
    assert resolve([var])[0][1] == "moved"


def test_a_worker_says_what_it_does_not_have() -> None:
    with pytest.raises(AttributeError, match="is no context variable"):
        find_var(__name__, "Any", "Any", ())
    with pytest.raises(ImportError, match="no_such_module"):
        find_var("no_such_module", "var", "var", ())


# -- values ------------------------------------------------------------------------------------------------------------


def test_only_what_is_set_travels() -> None:
    context = Context()
    assert values_for((declared, other), context) == ()
    context.run(other.set, "value")
    assert values_for((declared, other), context) == ((1, "value"),)
    assert values_for((), context) is None


def test_values_are_set_for_one_call_and_what_it_sets_is_gone() -> None:
    there = Declared(resolve([declared, other]))

    def read_and_set(*, to: str) -> tuple[str, str]:
        seen = declared.get(), other.get("unset")
        declared.set(to)
        return seen

    assert there.call(((0, "first"),), read_and_set, (), {"to": "left behind"}) == ("first", "unset")
    assert there.call((), read_and_set, (), {"to": "left behind"}) == ("unset", "unset")
    assert there.call(None, read_and_set, (), {"to": "left behind"}) == ("unset", "unset")
    assert declared.get() == "unset"


def test_what_the_initializer_has_set_is_seen_unless_the_job_brings_a_value() -> None:
    there = Declared(resolve([declared]))

    def worker() -> list[str]:
        declared.set("by the initializer")
        return [there.call((), declared.get, (), {}), there.call(((0, "by the job"),), declared.get, (), {})]

    assert copy_context().run(worker) == ["by the initializer", "by the job"]


# -- variables of __main__ ---------------------------------------------------------------------------------------------


def test_a_worker_makes_its_own_variable_for_one_of_main(mains: Any) -> None:
    original = mains.var
    specs = pickle.loads(pickle.dumps(resolve([original])))
    del mains.var
    there = Declared(specs)
    own = find_var(*specs[0])
    assert own is not original
    assert own.name == "of main"
    assert there.call(((0, "carried"),), own.get, (), {}) == "carried"
    assert there.call((), own.get, (), {}) == "its default"


def test_functions_and_declarations_refer_to_the_same_variable(mains: Any) -> None:
    original = mains.var
    specs = resolve([original])
    function, arguments = reduce_var(original)
    del mains.var
    Declared(specs)
    assert function(*arguments) is find_var(*specs[0])


def test_home_again_it_is_the_original(mains: Any) -> None:
    original = mains.var
    rebuild, spec = reduce_var(original)
    del mains.var
    own = rebuild(*spec)
    again, home_spec = reduce_var(own)
    mains.var = original
    assert again(*home_spec) is original


def test_between_real_processes_values_arrive_by_name() -> None:
    program = (
        "import sys, types, pickle\n"
        "from contextvars import ContextVar\n"
        "module = sys.modules['shared_by_name'] = types.ModuleType('shared_by_name')\n"
        "module.var = ContextVar('v')\n"
        "from bridge.executors.process.wire.context import Declared\n"
        "specs, values = pickle.load(sys.stdin.buffer)\n"
        "print(Declared(specs).call(values, module.var.get, (), {}))\n"
    )
    specs, values = (("shared_by_name", "var", "v", ()),), ((0, "across"),)
    found = subprocess.run(
        [sys.executable, "-c", program], input=pickle.dumps((specs, values)), capture_output=True, check=True, timeout=60
    )
    assert found.stdout.decode().strip() == "across"

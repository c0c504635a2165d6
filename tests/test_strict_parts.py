"""Parts of the pytest plugin that need no run of pytest: what is replaced and put back, set aside, and not counted."""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from bridge.diagnostics.events import Event, emit
from bridge.strict.garbage import Garbage
from bridge.strict.loops import Loops
from bridge.strict.observation import Observation
from bridge.strict.patches import Patches
from bridge.strict.tasks import Tasks


@pytest.fixture
def observation() -> Iterator[Observation]:
    loops = Loops()
    observation = Observation(loops, Tasks(loops), Garbage(), frozenset({"BRG301"}))
    observation.begin()
    yield observation
    observation.end()


def tell(code: str, *, began: float = 0.0, ended: float = 0.0) -> None:
    """An event of something that lasted from `began` until `ended`, in Unix time; now, if that is not said."""
    now = time.time()
    attributes = {"bridge.duration": (ended or now) - (began or now)}
    emit(Event(code=code, headline=code, attributes=attributes, time=ended or now), log=False)


def codes(events: list[Event]) -> list[str]:
    return [event.code for event in events]


# -- what counts -------------------------------------------------------------------------------------------------------


def test_each_is_told_once_and_those_not_that_are_ignored_or_only_accompany(observation: Observation) -> None:
    for code in ("BRG101", "BRG102", "BRG101", "BRG301", "BRG202"):
        tell(code)
    assert codes(observation.heard()) == ["BRG101", "BRG202"]
    tell("BRG101")
    assert observation.heard() == []


def test_a_loop_that_was_blocked_before_the_test_is_not_its_fault(observation: Observation) -> None:
    tell("BRG101", began=time.time() - 60)
    assert observation.heard() == []
    tell("BRG101", began=time.time())
    assert codes(observation.heard()) == ["BRG101"]


def test_a_loop_that_our_own_collection_holds_up_is_nobodys_fault(observation: Observation) -> None:
    before = time.time()
    observation.certain()
    after = time.time()
    tell("BRG104", began=before, ended=after)
    assert observation.heard() == []
    tell("BRG104", began=after + 0.001, ended=after + 0.2)
    assert codes(observation.heard()) == ["BRG104"]


def test_who_listens_no_more_hears_nothing(observation: Observation) -> None:
    observation.end()
    tell("BRG101")
    assert observation.heard() == []


# -- what is replaced --------------------------------------------------------------------------------------------------


class Thing:
    def method(self) -> str:
        return "original"


class Inherits(Thing):
    pass


def test_what_is_replaced_is_put_back_where_it_was() -> None:
    patches = Patches()
    original = vars(Thing)["method"]
    for kind in (Thing, Inherits):
        patches.replace(kind, "method", lambda original: lambda self: f"not {original(self)}")
    patches.replace(Thing, "absent", lambda original: original)
    assert Thing().method() == "not original"
    assert Inherits().method() == "not not original"
    patches.undo()
    patches.undo()
    assert vars(Thing)["method"] is original
    assert "method" not in vars(Inherits)
    assert not hasattr(Thing, "absent")
    assert not patches.active


def test_what_somebody_else_has_put_on_top_stays() -> None:
    thing, patches = SimpleNamespace(value=1), Patches()
    patches.replace(thing, "value", lambda original: 2)
    thing.value = 3
    patches.undo()
    assert thing.value == 3


# -- what is set aside -------------------------------------------------------------------------------------------------


@pytest.fixture
def garbage(monkeypatch: pytest.MonkeyPatch) -> Iterator[Garbage]:
    monkeypatch.setattr("bridge.strict.garbage._SLOW", 0.0)  # any collection is
    yield Garbage()
    gc.unfreeze()


def test_what_was_there_is_set_aside_after_a_slow_collection_and_taken_back(garbage: Garbage) -> None:
    before = gc.get_freeze_count()
    garbage.set_aside()
    assert gc.get_freeze_count() == before
    garbage.collect()
    garbage.set_aside()
    assert gc.get_freeze_count() > before + 1000
    garbage.take_back()
    assert gc.get_freeze_count() <= before


def test_what_comes_later_is_collected_all_the_same(garbage: Garbage) -> None:
    class Noted:
        def __del__(self) -> None:
            gone.append(True)

    gone: list[bool] = []
    garbage.collect()
    garbage.set_aside()
    circle: list[object] = [Noted()]
    circle.append(circle)
    del circle
    garbage.collect()
    assert gone


def test_what_the_program_has_set_aside_itself_is_left_alone(garbage: Garbage) -> None:
    gc.freeze()
    garbage.collect()
    garbage.set_aside()
    garbage.take_back()
    assert gc.get_freeze_count() > 1000

"""The loop's watcher: what it reports of looks that are made up, when, and what it lets pass.

The view, the clocks and the time are played, so nothing here depends on how fast anything is.
"""

from __future__ import annotations

import bdb  # noqa: F401 - else a debugger's files would not be looked for
import gc
import logging
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from types import CodeType, FrameType
from typing import Any

import pytest

import bridge
from bridge.diagnostics import places
from bridge.diagnostics.events import Event, stream
from bridge.diagnostics.punctuality import Tick
from bridge.diagnostics.stacks import capture
from bridge.loop.watch import watcher as module
from bridge.loop.watch.busy_threads import Span
from bridge.loop.watch.garbage import collections
from bridge.loop.watch.readings import Reading
from bridge.loop.watch.views import Glance, View
from bridge.loop.watch.watcher import LoopWatcher
from tests.conftest import Gate, within
from tests.interruptions import interrupt, of_bridge, where_handlers_run

APP = "/srv/app.py"
IMPORT = "<frozen importlib._bootstrap>"
PDB = "/usr/lib/python3.13/pdb.py"


def frames(*files: str) -> tuple[FrameType, FrameType]:
    """A stack of functions of these files, innermost first, and the loop's own frame that has called the outermost."""
    call: Any = sys._getframe
    for name, file in zip("abcdefgh", files, strict=False):
        scope: dict[str, Any] = {"call": call}
        exec(compile(f"def {name}(): return call()", file, "exec"), scope)
        call = scope[name]

    def loop() -> Any:
        return call()

    inner = loop()
    base = inner
    while base.f_code is not loop.__code__:
        base = base.f_back
    return inner, base


class PlayedView(View):
    """Says what it is told to say."""

    def __init__(self) -> None:
        self.seen: Glance | None = None
        self.sleeping = True
        self.calls = True
        self.seconds = 0.1
        self.debugging = False
        self.served: str | None = None
        self.at_waking: Callable[[], None] | None = None
        self.frames: list[FrameType] = []

    def glance(self, frame: FrameType) -> Glance | None:
        self.frames.append(frame)
        return self.seen

    def asleep(self) -> bool:
        return self.sleeping

    @property
    def wakes(self) -> bool:
        return self.calls

    def call_at_waking(self, call: Callable[[], None]) -> None:
        self.at_waking = call

    def threshold(self) -> float:
        return self.seconds

    def debug(self) -> bool:
        return self.debugging

    def serves(self) -> str | None:
        return self.served


class PlayedClocks:
    """Clocks that stand still unless they are put on."""

    def __init__(self) -> None:
        self.ident = threading.get_ident()
        self.loop = self.process = self.starved = self.collecting = 0.0
        self.slices = 0
        self.others: dict[int, float] = {}
        self.starves_for = 0.0
        self.waits_for_a_thread = False
        self.read_at: list[float] = []

    def read(self, now: float) -> Reading:
        self.read_at.append(now)
        return Reading(now, self.loop, self.process, self.starved, self.slices, self.collecting, self.others.copy())

    def starving(self, *now: float) -> float:
        return self.starves_for

    def close(self) -> None:
        pass

    def may_wait_for_a_thread(self) -> bool:
        return self.waits_for_a_thread


class Scene:
    """A watcher, and the loop that it sees."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        self.view, self.clocks = PlayedView(), PlayedClocks()
        self.heard: list[Event] = []
        self.watcher = LoopWatcher(self.view, self.clocks, self.now)  # type: ignore[arg-type]
        self.watcher.resume()
        monkeypatch.setattr(module, "monotonic", lambda: self.now)

    def runs(self, callback: object, turn: object = 1, *, files: tuple[str, ...] = (APP,), **known: Any) -> FrameType:
        """From now on the loop runs this callback, the only one of its turn unless `known` says more."""
        inner, base = frames(*files)
        fields = {"began": self.now, "first": True, "callbacks": 1, **known}
        self.view.seen = Glance(turn, callback, inner, base, **fields)
        self.view.sleeping = False
        return inner

    def sleeps(self) -> None:
        self.view.seen, self.view.sleeping = None, True

    def polls(self) -> None:
        """Between two turns, without a nap."""
        self.view.seen, self.view.sleeping = None, False

    def look(self, seconds: float, late: float = 0.0, kept_out: float | None = 0.0) -> float | None:
        """Look after so many seconds."""
        self.now += seconds + 1e-9  # so that sums are not below what they stand for
        return self.watcher.look(Tick(self.now, late, kept_out))

    def looks(self, seconds: float, steps: int = 10) -> None:
        for _ in range(steps):
            self.look(seconds / steps)

    @property
    def codes(self) -> list[str]:
        return [event.code for event in self.heard]

    @property
    def told(self) -> list[tuple[str, int]]:
        """Codes, and durations in milliseconds."""
        return [(event.code, round(1000 * float(event.attributes["bridge.duration"]))) for event in self.heard]


@pytest.fixture(autouse=True)
def nothing_logged_yet() -> None:
    stream.forget()


@pytest.fixture
def scene(monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    scene = Scene(monkeypatch)
    with bridge.on_event(scene.heard.append):
        yield scene
        assert scene.watcher._lock.acquire(blocking=False)


# -- one callback ------------------------------------------------------------------------------------------------------


def test_a_callback_is_reported_while_it_runs_at_the_threshold_and_at_each_doubling(scene: Scene) -> None:
    scene.runs("a")
    told = []
    for _ in range(20):
        scene.look(0.05)
        told.append(len(scene.heard))
    assert [50 * (at + 1) for at in range(20) if told[at] > (told[at - 1] if at else 0)] == [100, 200, 400, 800]
    assert scene.told == [("BRG101", 100), ("BRG101", 200), ("BRG101", 400), ("BRG101", 800)]
    scene.sleeps()
    scene.look(0.01)
    assert scene.told[4:] == [("BRG102", 1010)]


def test_marks_that_were_missed_are_not_made_up_for(scene: Scene) -> None:
    scene.runs("a")
    scene.look(0.9)
    scene.look(0.01)
    scene.look(0.6)
    scene.look(0.1)
    assert scene.told == [("BRG101", 900), ("BRG101", 1610)]


def test_a_callback_that_ends_before_the_threshold_is_not_reported(scene: Scene) -> None:
    scene.runs("a")
    scene.look(0.05)
    scene.look(0.049)
    scene.sleeps()
    scene.look(0.05)
    assert scene.heard == []


def test_what_is_reported_names_the_line_the_cause_and_the_seconds(scene: Scene) -> None:
    scene.runs("a", files=(APP, "/srv/main.py"))
    scene.look(0.1)
    (event,) = scene.heard
    assert (event.place.file, event.place.function) == (APP, "a")  # type: ignore[union-attr]
    assert event.title.startswith(f"BRG101 the loop has been blocked for 100 ms at {APP}:1 in a")
    assert event.attributes["bridge.cause"] == "waiting"
    assert "cause: waiting, in a system call or for a lock" in event.details
    stack = event.details[event.details.index("stack, innermost first:") + 1 :]
    assert [line.strip().partition(":")[0] for line in stack] == [APP, "/srv/main.py"], "up to the loop's own frame"


def test_the_recovery_is_told_at_the_line_that_was_reported_first(scene: Scene) -> None:
    scene.runs("a")
    scene.look(0.1)
    scene.sleeps()
    scene.look(0.2)
    assert scene.codes == ["BRG101", "BRG102"]
    assert scene.heard[1].place == scene.heard[0].place


@pytest.mark.parametrize(("turn", "callback"), [(1, "b"), (2, "a"), (2, "b")])
def test_another_callback_begins_anew(scene: Scene, turn: int, callback: str) -> None:
    scene.runs("a", 1, callbacks=2)
    scene.look(0.15)
    assert scene.told == [("BRG101", 150)]
    scene.runs(callback, turn, callbacks=2)
    scene.look(0.06)
    assert scene.told[1:] == [("BRG102", 210)]
    scene.look(0.05)
    assert scene.told[2:] == [("BRG101", 110)]


def test_turns_are_told_apart_by_equality_and_by_identity(scene: Scene) -> None:
    scene.runs("a", turn=1234.5)
    scene.look(0.06)
    scene.runs("a", turn=float("1234.5"), began=scene.now - 0.06)
    scene.look(0.06)
    assert scene.codes == ["BRG101"]


# -- since when --------------------------------------------------------------------------------------------------------


def test_the_first_callback_of_a_turn_runs_since_the_turn_began(scene: Scene) -> None:
    scene.runs("a", callbacks=3)
    scene.look(0.25)
    assert scene.told == [("BRG101", 250)]


def test_a_later_callback_runs_since_it_was_first_seen(scene: Scene) -> None:
    scene.runs("a", first=False)
    scene.look(0.25)
    assert scene.heard == []
    scene.look(0.1)
    assert scene.told == [("BRG101", 100)]


def test_a_later_callback_that_made_the_watchdog_late_runs_for_as_long_as_that(scene: Scene) -> None:
    scene.runs("b", first=False)
    scene.look(0.4, late=0.3, kept_out=0.3)
    assert scene.told == [("BRG101", 300)]


def test_no_callback_runs_for_longer_than_its_turn(scene: Scene) -> None:
    scene.now += 1.0
    scene.runs("b", first=False)
    scene.look(0.05, late=0.9, kept_out=0.9)
    assert scene.heard == []
    scene.look(0.06)
    assert scene.told == [("BRG101", 110)]


def test_where_the_view_does_not_know_when_a_turn_began_it_began_when_it_was_seen(scene: Scene) -> None:
    scene.runs("a", began=None)
    scene.look(0.5)
    assert scene.heard == []
    scene.look(0.1)
    assert scene.told == [("BRG101", 100)]


# -- when to look again ------------------------------------------------------------------------------------------------


def test_it_looks_again_when_the_mark_is_due_and_not_later_than_half_the_threshold(scene: Scene) -> None:
    scene.runs("a")
    assert scene.look(0.01) == pytest.approx(0.05)
    assert scene.look(0.05) == pytest.approx(0.04)
    assert scene.look(0.0399) == pytest.approx(0.001), "not more often than that"


def test_it_looks_closely_at_what_was_reported_so_that_the_end_of_it_is_known(scene: Scene) -> None:
    scene.runs("a")
    assert scene.look(0.1) == pytest.approx(0.01)
    assert scene.look(0.01) == pytest.approx(0.01)
    scene.sleeps()
    assert scene.look(0.01) == pytest.approx(0.05)


def test_the_threshold_can_be_changed_while_it_watches(scene: Scene) -> None:
    scene.runs("a")
    scene.view.seconds = 10.0
    scene.look(0.5)
    assert scene.heard == []
    scene.view.seconds = 0.2
    scene.look(0.05)
    assert scene.told == [("BRG101", 550)]


@pytest.mark.parametrize("seconds", [0.0, -1.0, float("nan")])
def test_a_threshold_of_nothing_is_a_millisecond(scene: Scene, seconds: float) -> None:
    scene.view.seconds = seconds
    scene.runs("a")
    assert scene.look(0.0005) == pytest.approx(0.0005)
    assert scene.heard == []
    scene.look(0.001)
    assert scene.codes == ["BRG101"]
    scene.look(0.001)
    assert scene.codes == ["BRG101", "BRG101"]


@pytest.mark.parametrize("seconds", [3600.0, 1e12, float("inf")])
def test_whatever_the_threshold_it_looks_once_a_second_because_that_may_be_changed(scene: Scene, seconds: float) -> None:
    scene.view.seconds = seconds
    scene.runs("a")
    assert scene.look(0.5) == pytest.approx(1.0)
    assert scene.look(600.0) == pytest.approx(1.0)
    assert scene.heard == []


# -- nobody's fault ----------------------------------------------------------------------------------------------------


def test_time_for_which_the_thread_got_no_core_does_not_count(scene: Scene) -> None:
    scene.runs("a")
    scene.clocks.starved = 0.35
    scene.look(0.4)
    assert scene.heard == []
    scene.look(0.04)
    assert scene.heard == []
    scene.look(0.02)
    assert scene.told == [("BRG101", 460)]


def test_time_for_which_it_waits_for_a_core_at_the_moment_does_not_count(scene: Scene) -> None:
    """The kernel adds it up when the thread runs again."""
    scene.runs("a")
    scene.clocks.starves_for = 0.35
    scene.look(0.4)
    assert scene.heard == []
    scene.clocks.starves_for = 0.0
    scene.look(0.01)
    assert scene.told == [("BRG101", 410)]


def test_time_for_which_the_process_was_stopped_does_not_count(scene: Scene) -> None:
    scene.runs("a")
    scene.look(0.05)
    scene.look(30.0, late=29.97, kept_out=0.0)
    scene.look(0.01)
    assert scene.heard == []
    scene.look(0.05)
    assert scene.codes == ["BRG101"]


def test_a_stop_before_the_callback_began_is_no_excuse_for_it(scene: Scene) -> None:
    scene.now += 30.0
    scene.runs("a")
    scene.look(0.01, late=29.9, kept_out=0.0)
    scene.look(0.1)
    scene.look(0.01)
    assert scene.codes == ["BRG101"]


def test_a_starved_callback_is_not_watched_more_closely_than_others(scene: Scene) -> None:
    scene.runs("a")
    scene.clocks.starved = 0.39
    assert scene.look(0.4) == pytest.approx(0.01)


def play_another_thread_that_holds_the_gil(scene: Scene, seconds: float, ident: int = 0) -> None:
    """As the clocks show it: the loop's thread wakes up every 5 ms to ask, and somebody else has the CPU time."""
    scene.clocks.slices += 2 + round(seconds / sys.getswitchinterval())
    scene.clocks.process += seconds
    scene.clocks.others[ident] = scene.clocks.others.get(ident, 0.0) + seconds


def test_time_for_which_another_thread_held_the_gil_is_told_as_such_and_does_not_count(scene: Scene) -> None:
    scene.runs("a")
    scene.look(0.01)
    play_another_thread_that_holds_the_gil(scene, 0.3)
    scene.look(0.35, late=0.3, kept_out=0.3)
    assert scene.told == [("BRG104", 300)]
    scene.look(0.1)
    assert scene.told[1:] == [("BRG101", 460)]


@pytest.fixture
def held_thread(gate: Gate) -> Iterator[threading.Thread]:
    """A thread whose frame can be looked at."""
    thread = threading.Thread(target=gate.wait)
    thread.start()
    yield thread
    gate.open()
    within(thread)


def test_who_held_the_gil_while_the_loop_slept_is_told_with_its_line(scene: Scene, held_thread: threading.Thread) -> None:
    assert held_thread.ident is not None
    scene.look(0.05)
    play_another_thread_that_holds_the_gil(scene, 0.3, held_thread.ident)
    scene.look(0.35, late=0.3, kept_out=0.3)
    (event,) = scene.heard
    assert event.code == "BRG104"
    assert event.place is not None
    assert (event.place.file, event.place.function) == (wait_code().co_filename, wait_code().co_qualname)
    assert "another thread held the GIL" in event.headline
    assert event.attributes["bridge.cause"] == "other_thread"


def wait_code() -> CodeType:
    return Gate.wait.__code__


def test_a_short_wait_for_the_gil_is_not_told(scene: Scene) -> None:
    scene.look(0.05)
    play_another_thread_that_holds_the_gil(scene, 0.08)
    scene.look(0.13, late=0.08, kept_out=0.08)
    assert scene.heard == []


def test_a_loop_that_does_not_run_cannot_be_held_up(scene: Scene) -> None:
    scene.watcher.pause()
    play_another_thread_that_holds_the_gil(scene, 0.3)
    scene.look(0.35, late=0.3, kept_out=0.3)
    assert scene.heard == []


def test_after_a_rest_all_of_the_time_was_one_sleep_so_how_late_the_watchdog_is_tells_nothing(scene: Scene) -> None:
    scene.looks(0.2, 4)
    play_another_thread_that_holds_the_gil(scene, 0.3)
    scene.look(60.0, late=0.0, kept_out=0.0)
    assert scene.told == [("BRG104", 300)]


# -- nobody's mistake --------------------------------------------------------------------------------------------------


def test_imports_may_take_their_time_while_the_loop_starts(scene: Scene) -> None:
    scene.runs("a", files=(APP, IMPORT, APP))
    scene.looks(4.9, 100)
    assert scene.heard == []
    scene.looks(0.2)
    assert scene.codes == ["BRG101"]


@pytest.mark.parametrize("file", [PDB, "/x/pydevd_bundle/pydevd.py", "/x/debugpy/server/api.py"])
def test_a_debuggers_prompt_is_left_alone(scene: Scene, file: str) -> None:
    scene.runs("a", files=(file, APP))
    scene.looks(60.0, 100)
    assert scene.heard == []
    assert scene.look(0.0) == pytest.approx(0.05), "and not looked at more often than others"
    scene.sleeps()
    scene.look(0.1)
    assert scene.heard == []


@pytest.mark.parametrize("file", [IMPORT, PDB])
def test_what_follows_in_the_same_callback_counts_from_then_on(scene: Scene, file: str) -> None:
    scene.runs("a", files=(file, APP))
    for _ in range(10):
        scene.clocks.loop = scene.clocks.process = scene.clocks.loop + 0.05
        scene.look(0.05)
    scene.runs("a", began=1000.0)
    scene.clocks.loop = scene.clocks.process = scene.clocks.loop + 0.09
    scene.look(0.09)
    assert scene.heard == []
    scene.look(0.01)
    assert scene.told == [("BRG101", 100)]


@pytest.mark.parametrize("file", [IMPORT, PDB])
def test_a_turn_in_which_somebody_imports_counts_from_then_on(scene: Scene, file: str) -> None:
    scene.runs("a", files=(file, APP), callbacks=30)
    scene.look(0.2)
    play_turn(scene, [APP] * 29, seconds=0.003, began=1000.0)
    scene.sleeps()
    scene.look(0.002)
    assert scene.heard == []


def test_who_was_reported_before_a_debugger_came_is_not_forgotten(scene: Scene) -> None:
    scene.runs("a")
    scene.look(0.1)
    scene.runs("a", files=(PDB, APP), began=1000.0)
    scene.looks(0.9)
    scene.sleeps()
    scene.look(0.001)
    assert scene.told == [("BRG101", 100), ("BRG102", 1001)]


def test_a_debugger_below_the_loop_excuses_nothing(scene: Scene) -> None:
    inner, _ = frames(APP, "/srv/main.py", PDB)
    scene.runs("a")
    assert scene.view.seen is not None
    assert inner.f_back is not None
    scene.view.seen = scene.view.seen._replace(frame=inner, base=inner.f_back)
    scene.look(0.1)
    assert scene.codes == ["BRG101"]


def trace(frame: FrameType, event: str, argument: object) -> None: ...


def test_a_traced_program_may_be_ten_times_slower(scene: Scene) -> None:
    scene.runs("a", files=("/usr/lib/x.py", APP)).f_back.f_trace = trace  # type: ignore[union-attr]
    for _ in range(9):
        scene.clocks.loop += 0.11
        scene.look(0.11)
    assert scene.heard == []
    scene.clocks.loop += 0.11
    scene.look(0.11)
    assert scene.codes == ["BRG101"]


def test_a_traced_program_has_no_excuse_for_waiting(scene: Scene) -> None:
    scene.runs("a").f_trace = trace
    scene.look(0.1)
    assert scene.codes == ["BRG101"]


# -- causes ------------------------------------------------------------------------------------------------------------


def test_the_cause_is_judged_by_what_has_happened_since_the_look_before_it_began(scene: Scene) -> None:
    """A look may come inside the collector's callback, before its time is counted."""
    scene.look(0.05)
    scene.runs("a")
    scene.clocks.loop = 0.3
    scene.look(0.3, late=0.25, kept_out=0.25)
    assert scene.heard[0].attributes["bridge.cause"] == "c_with_gil"
    assert "bridge.to_process" in scene.heard[0].advice


def test_lateness_before_the_callback_says_nothing_about_it(scene: Scene) -> None:
    scene.now += 1.0
    scene.runs("a")
    scene.look(0.01, late=0.9, kept_out=0.9)
    scene.look(0.1)
    assert scene.heard[0].attributes["bridge.cause"] == "waiting"


def test_a_collection_is_blamed_where_it_began(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    inner, base = frames("/srv/many.py")
    monkeypatch.setattr(collections, "stacks", {scene.clocks.ident: capture(inner, base)})
    scene.runs("a")
    scene.clocks.collecting = scene.clocks.loop = 0.2
    scene.look(0.2)
    (event,) = scene.heard
    assert event.place.file == "/srv/many.py"  # type: ignore[union-attr]
    assert event.attributes["bridge.cause"] == "garbage"
    assert "gc.freeze()" in event.advice
    scene.sleeps()
    scene.look(0.05)
    assert scene.heard[1].place == event.place


def test_another_place_is_blamed_for_the_collection_of_another_thread(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    inner, base = frames("/srv/many.py")
    monkeypatch.setattr(collections, "stacks", {scene.clocks.ident + 1: capture(inner, base)})
    scene.runs("a")
    scene.clocks.collecting = scene.clocks.loop = 0.2
    scene.look(0.2)
    assert scene.heard[0].place.file == APP  # type: ignore[union-attr]


def test_another_thread_is_blamed_with_its_line(scene: Scene, held_thread: threading.Thread) -> None:
    assert held_thread.ident is not None
    scene.runs("a")
    scene.clocks.process += 0.3
    scene.clocks.others[held_thread.ident] = 0.3
    scene.look(0.3, late=0.3, kept_out=0.3)
    (event,) = scene.heard
    assert event.code == "BRG101"
    assert event.place.function == wait_code().co_qualname  # type: ignore[union-attr]
    assert "by another thread, which holds the GIL" in event.headline
    stack = event.details[event.details.index("stack, innermost first:") + 1 :]
    assert APP in stack[0], "the loop's own stack all the same"


def test_the_look_goes_past_what_counts_collections(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    inner, _ = frames("/bridge/garbage.py", APP)
    monkeypatch.setattr(module, "CALLBACK", inner.f_code)
    monkeypatch.setattr(sys, "_current_frames", lambda: {scene.clocks.ident: inner})
    scene.runs("a")
    scene.look(0.01)
    assert scene.view.frames == [inner.f_back]


def test_a_thread_that_has_ended_is_looked_at_in_vain(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "_current_frames", dict)
    scene.runs("a")
    scene.look(0.5)
    assert scene.view.frames == []
    assert scene.heard == []


# -- a turn of many callbacks ------------------------------------------------------------------------------------------


def play_turn(scene: Scene, files: list[str], seconds: float = 0.002, turn: object = 1, **known: Any) -> None:
    """A turn of callbacks, each looked at once; or more of one that has `began`."""
    goes_on = "began" in known
    known = {"callbacks": len(files), "began": scene.now, **known}
    for number, file in enumerate(files):
        scene.runs(object(), turn, files=(file,), first=number == 0 and not goes_on, **known)
        scene.look(seconds)


def test_a_turn_of_many_callbacks_is_reported_when_it_ends_with_those_that_took_longest_first(scene: Scene) -> None:
    play_turn(scene, [APP] * 50)
    files = ["/srv/often.py"] * 6 + ["/srv/seldom.py"] * 3 + [APP]
    play_turn(scene, files, began=1000.0)
    assert scene.heard == []
    scene.sleeps()
    scene.look(0.002)
    (event,) = scene.heard
    assert scene.told == [("BRG103", 120)], "until it was last seen"
    assert event.place.file == "/srv/often.py"  # type: ignore[union-attr]
    lines = [line.split() for line in event.details[1:]]
    assert [line[0] for line in lines] == ["55%", "27%", "18%"]  # of those that ran when the threshold was over
    assert [line[-3] for line in lines] == ["/srv/often.py:1", "/srv/seldom.py:1", f"{APP}:1"]
    assert event.attributes["bridge.callbacks"] == 10


def test_a_turn_is_looked_at_often_once_it_has_taken_as_long_as_the_threshold(scene: Scene) -> None:
    began = scene.now
    scene.runs("a", callbacks=2)
    assert scene.look(0.06) == pytest.approx(0.04)
    scene.runs("b", callbacks=2, first=False, began=began)
    assert scene.look(0.03) == pytest.approx(0.05)
    assert scene.look(0.02) == pytest.approx(0.002)


def test_a_turn_of_one_callback_is_never_one_of_many(scene: Scene) -> None:
    scene.runs("a", first=False)
    scene.look(0.3)
    scene.look(0.05)
    scene.sleeps()
    scene.look(0.05)
    assert scene.heard == []


def test_a_turn_of_many_that_is_over_before_the_threshold_is_not_reported(scene: Scene) -> None:
    for turn in range(5):
        play_turn(scene, [APP] * 40, turn=turn)
    scene.sleeps()
    scene.look(0.01)
    assert scene.heard == []


def test_only_the_five_longest_are_named_and_not_every_look_is_remembered(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_MOST_SAMPLES", 30)
    play_turn(scene, [APP] * 50)
    play_turn(scene, [f"/srv/{number % 7}.py" for number in range(100)], began=1000.0)
    scene.sleeps()
    scene.look(0.002)
    (event,) = scene.heard
    assert len(event.details) == 1 + 5
    assert event.details[1].split()[0] == "17%", "five of thirty"


def test_a_turn_with_a_callback_that_was_reported_is_not_reported_once_more(scene: Scene) -> None:
    began = scene.now
    scene.runs("a", callbacks=3)
    scene.looks(0.3, 30)
    scene.runs("b", first=False, callbacks=3, began=began)
    scene.looks(0.02)
    scene.sleeps()
    scene.look(0.01)
    assert scene.codes == ["BRG101", "BRG101", "BRG102"]


def test_what_follows_a_callback_that_was_reported_may_itself_be_too_much(scene: Scene) -> None:
    began = scene.now
    scene.runs("a", callbacks=90)
    scene.looks(0.1)
    play_turn(scene, ["/srv/many.py"] * 80, began=began, callbacks=90)
    scene.sleeps()
    scene.look(0.002)
    assert scene.codes == ["BRG101", "BRG102", "BRG103"]
    assert scene.told[2] == ("BRG103", 158), "until it was last seen"


@pytest.mark.parametrize("ends", ["seen", "told"])
def test_what_passes_after_a_turn_was_last_seen_is_not_its_doing(scene: Scene, ends: str) -> None:
    """The process is stopped meanwhile, for instance, and the turn ends right after that."""
    play_turn(scene, [APP] * 60)
    scene.now += 30.0
    scene.sleeps()
    if ends == "told":
        scene.watcher.pause()
    else:
        scene.look(0.002, late=30.0)
    assert scene.told == [("BRG103", 120)]


def test_a_turn_of_many_has_the_same_excuses_as_one_callback(scene: Scene) -> None:
    play_turn(scene, [APP] * 20)
    scene.runs("x", callbacks=20, began=1000.0, first=False)
    scene.look(30.0, late=29.98, kept_out=0.0)
    play_turn(scene, [APP] * 5, began=1000.0)
    scene.sleeps()
    scene.look(0.002)
    assert scene.heard == [], "the process was stopped"
    scene.runs("x", 2, callbacks=20)
    scene.look(0.001)
    scene.clocks.starved += 5.0
    play_turn(scene, [APP] * 2, began=scene.now, turn=2)
    scene.now += 5.0
    play_turn(scene, [APP] * 5, began=scene.now - 5, turn=2)
    scene.sleeps()
    scene.look(0.002)
    assert scene.heard == [], "it had no core"


# -- rest --------------------------------------------------------------------------------------------------------------


def test_a_sleeping_loop_is_looked_at_for_as_long_as_a_thread_is_suspected(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scene.watcher._busy, "look", lambda tick, before, after: None)
    scene.watcher._busy._span = Span(scene.watcher._reading, [])
    scene.sleeps()
    for _ in range(10):
        assert scene.look(0.05) == 0.05
    scene.watcher._busy.forget()
    assert scene.look(0.05) is None


def test_a_loop_that_has_stopped_has_no_suspects(scene: Scene) -> None:
    scene.watcher._busy._span = Span(scene.watcher._reading, [])
    scene.watcher.pause()
    while scene.look(0.05) is not None:
        assert not scene.watcher._busy.follows


def test_a_loop_that_sleeps_is_left_alone_after_a_few_looks(scene: Scene) -> None:
    assert [scene.look(0.05) for _ in range(3)] == [0.05, 0.05, None]
    assert scene.look(5.0) is None
    scene.runs("a")
    assert scene.look(0.01) is not None
    scene.sleeps()
    assert [scene.look(0.05) for _ in range(3)] == [0.05, 0.05, None]


def test_a_loop_that_wakes_up_is_looked_at_a_few_times_before_it_may_rest_again(scene: Scene) -> None:
    """Else one that naps a thousand times a second, and is found asleep by each look, would call a thousand times."""
    for _ in range(3):
        assert [scene.look(0.05) for _ in range(4)] == [0.05, 0.05, None, None]
        assert scene.view.at_waking is not None
        scene.view.at_waking()


def test_only_a_loop_that_rests_is_asked_to_call(scene: Scene) -> None:
    scene.look(0.05)
    scene.runs("a")
    scene.looks(0.05, 5)
    assert scene.view.at_waking is None


def test_a_loop_that_does_not_call_when_it_wakes_up_is_looked_at_all_the_time(scene: Scene) -> None:
    scene.view.calls = False
    assert [scene.look(0.05) for _ in range(6)] == [0.05] * 6


def test_a_loop_that_polls_without_a_nap_is_looked_at_all_the_time(scene: Scene) -> None:
    """It is seen between two turns, because there it lets go of the GIL; it calls nobody."""
    scene.polls()
    assert [scene.look(0.05) for _ in range(6)] == [0.05] * 6
    scene.sleeps()
    assert scene.look(0.05) is None


@pytest.mark.parametrize("calls", [False, True])
def test_a_loop_that_does_not_run_is_left_alone_until_it_does(scene: Scene, calls: bool) -> None:
    scene.view.calls = calls
    scene.polls()
    scene.watcher.pause()
    assert [scene.look(0.05) for _ in range(4)] == [0.05, 0.05, None, None]
    count = len(scene.clocks.read_at)
    assert scene.look(5.0) is None
    assert len(scene.clocks.read_at) == count, "nothing is read meanwhile"
    scene.watcher.resume()
    scene.runs("a")
    scene.look(0.1)
    assert scene.codes == ["BRG101"]


def test_what_the_thread_did_while_the_loop_did_not_run_is_not_the_loops(scene: Scene) -> None:
    scene.watcher.pause()
    scene.looks(0.3)
    scene.clocks.loop = scene.clocks.process = 60.0
    play_another_thread_that_holds_the_gil(scene, 3.0)
    scene.now += 63.0
    scene.watcher.resume()
    scene.runs("a")
    scene.look(0.1)
    assert scene.codes == ["BRG101"]
    assert scene.heard[0].attributes["bridge.cause"] == "waiting"


def test_between_two_runs_that_follow_one_another_no_clock_is_read(scene: Scene) -> None:
    scene.look(0.05)
    count = len(scene.clocks.read_at)
    for _ in range(10):
        scene.watcher.pause()
        scene.watcher.resume()
    assert len(scene.clocks.read_at) == count


# -- a loop that bridge has started for its own purposes -----------------------------------------------------------------


def test_of_a_loop_of_bridges_own_only_the_programs_code_is_reported(scene: Scene) -> None:
    scene.view.served = "render"
    scene.runs("a", files=(places.PACKAGE + "executors/process/crew.py",))
    scene.looks(1.0)
    scene.runs("b", 2, files=(APP, places.PACKAGE + "executors/process/crew.py"))
    scene.look(0.1)
    assert scene.told == [("BRG101", 100)]
    (event,) = scene.heard
    assert event.headline.startswith(f"the loop that serves 'render' has been blocked for 100 ms at {APP}:")
    assert event.advice == (
        "a queue.SimpleQueue, or another thread, for what takes long: all calls of the executor wait for it"
    )
    scene.sleeps()
    scene.look(0.01)
    assert scene.codes == ["BRG101", "BRG102"]


def test_nor_is_it_reported_what_holds_such_a_loop_up(scene: Scene) -> None:
    scene.view.served = "render"
    scene.runs("a")
    scene.look(0.01)
    play_another_thread_that_holds_the_gil(scene, 0.3)
    scene.look(0.35, late=0.3, kept_out=0.3)
    play_turn(scene, [APP] * 60, turn=2)
    scene.sleeps()
    scene.look(0.01)
    assert scene.codes == []


# -- the end of a run --------------------------------------------------------------------------------------------------


def test_a_loop_that_stops_ends_what_was_seen(scene: Scene) -> None:
    scene.runs("a")
    scene.look(0.1)
    scene.now += 0.05
    scene.watcher.pause()
    assert scene.told == [("BRG101", 100), ("BRG102", 150)]
    scene.looks(1.0)
    assert len(scene.heard) == 2


def test_a_turn_of_many_is_reported_even_if_the_loop_stops_after_it(scene: Scene) -> None:
    play_turn(scene, [APP] * 60)
    scene.watcher.pause()
    assert scene.told == [("BRG103", 120)]


def test_a_loop_that_stops_waits_for_the_look_that_has_begun(scene: Scene, gate: Gate, new_gate: type[Gate]) -> None:
    looking = new_gate()
    glance = scene.view.glance

    def slow(frame: FrameType) -> Glance | None:
        looking.open()
        gate.wait()
        return glance(frame)

    scene.runs("a")
    scene.view.glance = slow  # type: ignore[method-assign]
    watchdog = threading.Thread(target=scene.look, args=(0.1,))
    watchdog.start()
    looking.wait()
    loop = threading.Thread(target=scene.watcher.pause)
    loop.start()
    while scene.watcher.running:
        pass
    assert loop.is_alive()
    gate.open()
    within(loop)
    within(watchdog)
    assert scene.codes == ["BRG101", "BRG102"], "and has the last word"


@pytest.mark.parametrize("looking", [False, True])
def test_a_stop_that_a_signal_interrupts_keeps_no_later_look_waiting(
    monkeypatch: pytest.MonkeyPatch, new_gate: type[Gate], looking: bool
) -> None:
    def counts(code: CodeType, offset: int) -> bool:
        return of_bridge(code, offset) and where_handlers_run(code, offset)

    number, position = 0, None
    while number == 0 or position is not None:
        number += 1
        scene, begun, go_on = Scene(monkeypatch), new_gate(), new_gate()
        scene.runs("a")
        scene.look(0.1)
        if looking:
            scene.view.threshold = lambda begun=begun, go_on=go_on: (begun.open(), go_on.wait(), 0.1)[-1]  # type: ignore[method-assign]
            look = threading.Thread(target=scene.look, args=(0.01,))
            look.start()
            begun.wait()
            monkeypatch.setattr(module, "_PATIENCE", 0.01)
        position = interrupt(scene.watcher.pause, number, counts=counts)
        go_on.open()
        if looking:
            within(look)
        scene.watcher.resume()
        later = threading.Thread(target=scene.look, args=(0.01,))
        later.start()
        within(later)
    assert number > 2


def test_a_loop_that_is_over_is_watched_no_more_whoever_should_have_said_so(scene: Scene) -> None:
    scene.runs("a")
    scene.look(0.05)
    scene.view.is_over = lambda: True  # type: ignore[method-assign]
    assert scene.look(0.5) is None
    assert scene.watcher.closed
    assert scene.watcher._seen is None
    assert scene.heard == []


def test_a_look_that_takes_too_long_does_not_hold_a_loop_that_stops(
    scene: Scene, gate: Gate, new_gate: type[Gate], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_PATIENCE", 0.01)
    looking = new_gate()
    threshold = scene.view.threshold

    def slow() -> float:
        looking.open()
        gate.wait()
        return threshold()

    scene.runs("a")
    scene.look(0.1)
    scene.view.threshold = slow  # type: ignore[method-assign]
    watchdog = threading.Thread(target=scene.look, args=(0.01,))
    watchdog.start()
    looking.wait()
    scene.watcher.pause()
    assert scene.codes == ["BRG101"]
    gate.open()
    within(watchdog)
    scene.look(0.05)
    assert scene.codes == ["BRG101", "BRG102"], "told at the next look"


def test_a_loop_that_stops_between_two_looks_does_not_wait(scene: Scene) -> None:
    scene.look(0.01)
    with scene.watcher._lock:
        scene.watcher._turn = None
    scene.watcher.pause()
    assert not scene.watcher.running


# -- once a minute -----------------------------------------------------------------------------------------------------


@pytest.fixture
def logged(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.DEBUG, "bridge.loop")
    return caplog


def play_block(scene: Scene, turn: int, seconds: float = 0.25) -> None:
    scene.runs("a", turn)
    scene.looks(seconds, 25)
    scene.sleeps()
    scene.look(0.01)


def codes_of(logged: pytest.LogCaptureFixture) -> list[str]:
    return [record.message.partition(" ")[0] for record in logged.records]


def test_the_same_line_is_logged_once_a_minute_and_its_recovery_with_it(
    scene: Scene, logged: pytest.LogCaptureFixture
) -> None:
    play_block(scene, 1)
    assert codes_of(logged) == ["BRG101", "BRG101", "BRG102"]
    play_block(scene, 2)
    assert codes_of(logged) == ["BRG101", "BRG101", "BRG102"]
    assert scene.codes == ["BRG101", "BRG101", "BRG102"] * 2, "listeners hear all of it"


def test_a_longer_block_of_the_same_line_is_logged_for_what_is_new(
    scene: Scene, logged: pytest.LogCaptureFixture
) -> None:
    play_block(scene, 1)
    logged.clear()
    play_block(scene, 2, seconds=0.45)
    assert codes_of(logged) == ["BRG101", "BRG102"]
    assert "blocked for 4" in logged.messages[0]


def test_what_was_held_back_is_counted_once_for_each_block(
    scene: Scene, logged: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [1000.0]
    monkeypatch.setattr(stream, "_clock", lambda: clock[0])
    for turn in range(4):
        play_block(scene, turn)
    logged.clear()
    clock[0] += 61.0
    play_block(scene, 5)
    assert "(and 3 more times since it was last logged)" in logged.messages[0]
    assert codes_of(logged) == ["BRG101", "BRG101", "BRG102"]


def test_in_debug_mode_every_one_is_logged(scene: Scene, logged: pytest.LogCaptureFixture) -> None:
    scene.view.debugging = True
    play_block(scene, 1)
    play_block(scene, 2)
    assert codes_of(logged) == ["BRG101", "BRG101", "BRG102"] * 2


def test_each_is_written_to_the_logger_of_its_code(scene: Scene, logged: pytest.LogCaptureFixture) -> None:
    play_block(scene, 1, seconds=0.11)
    assert [record.name for record in logged.records] == ["bridge.loop.BRG101", "bridge.loop.BRG102"]


# -- what it keeps alive -----------------------------------------------------------------------------------------------


class Thing:
    pass


def test_one_that_is_closed_looks_no_more(scene: Scene) -> None:
    scene.runs("a")
    scene.look(0.05)
    scene.watcher.close()
    scene.watcher.close()
    assert scene.look(0.5) is None
    assert scene.heard == []
    assert scene.watcher._crowd._crowd is None


def test_nothing_that_a_callback_uses_is_kept_alive(scene: Scene) -> None:
    def callback(thing: Thing) -> FrameType:
        return sys._getframe()

    thing = Thing()
    seen = weakref.ref(thing)
    scene.runs("a")
    assert scene.view.seen is not None
    scene.view.seen = scene.view.seen._replace(frame=callback(thing))
    del thing
    assert seen() is not None
    scene.look(0.05)
    scene.look(0.1)
    assert scene.codes == ["BRG101"]
    scene.polls()
    scene.view.frames.clear()
    gc.collect()  # looking at its own thread, as in this scene, is a cycle of frames
    assert seen() is None

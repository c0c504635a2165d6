"""What is concluded from clocks: causes told apart, waits for the GIL, excuses. Nearly all readings are made up."""

from __future__ import annotations

import gc
import sys
import threading
from time import monotonic
from types import SimpleNamespace
from typing import Any

import pytest

from bridge.diagnostics.clocks import Schedule
from bridge.loop.watch import garbage, readings
from bridge.loop.watch.causes import Cause, Lateness, cause_of, to_blame
from bridge.loop.watch.garbage import Collections
from bridge.loop.watch.readings import LoopClocks, Reading, Window, between, held_up
from tests.conftest import PATIENCE, Gate, within

linux = pytest.mark.skipif(sys.platform != "linux", reason="reads Linux's clocks")


def window(**known: Any) -> Window:
    """A second in which nothing has happened, but for what is said."""
    nothing = {"wall": 1.0, "loop": 0.0, "process": 0.0, "starved": 0.0, "collecting": 0.0, "slices": 0, "busiest": None}
    return Window(**{**nothing, **known})


def lateness(late: float = 0.0, kept_out: float | None = None, looks: int = 20, stopped: float = 0.0) -> Lateness:
    kept_out = late if kept_out is None else kept_out
    return Lateness(looks, late, kept_out, stopped, longest=kept_out)


PUNCTUAL = lateness()
KEPT_OUT = lateness(0.9)
OTHER = 4711


# -- causes ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seen", "late", "cause"),
    [
        pytest.param(window(), PUNCTUAL, Cause.WAITING, id="nobody-ran"),
        pytest.param(window(loop=0.49, process=0.49), PUNCTUAL, Cause.WAITING, id="ran-for-less-than-half"),
        pytest.param(window(loop=0.9, process=0.9), PUNCTUAL, Cause.C_WITHOUT_GIL, id="the-watchdog-need-not-ask"),
        pytest.param(window(loop=0.9, process=0.9), lateness(0.06), Cause.PYTHON, id="the-watchdog-has-to-ask"),
        pytest.param(window(loop=0.9, process=0.9), lateness(0.049), Cause.C_WITHOUT_GIL, id="asks-for-less-than-2.5-ms"),
        pytest.param(window(loop=0.9, process=0.9), lateness(0.0, looks=1), Cause.PYTHON, id="one-look-tells-nothing"),
        pytest.param(window(loop=0.9, process=0.9), KEPT_OUT, Cause.C_WITH_GIL, id="the-watchdog-cannot-get-in"),
        pytest.param(window(loop=0.9, process=0.9), lateness(0.9, 0.05), Cause.PYTHON, id="late-but-not-kept-out"),
        pytest.param(
            window(loop=0.9, process=0.9), Lateness(20, 0.9, None), Cause.C_WITH_GIL, id="late-and-why-is-not-known"
        ),
        pytest.param(window(), KEPT_OUT, Cause.WAITING_WITH_GIL, id="kept-out-and-nobody-ran"),
        pytest.param(window(process=0.9), KEPT_OUT, Cause.OTHER_THREAD, id="kept-out-and-somebody-ran"),
        pytest.param(
            window(process=0.1, busiest=(OTHER, 0.9)), KEPT_OUT, Cause.OTHER_THREAD, id="kept-out-and-a-thread-ran"
        ),
        pytest.param(
            window(process=0.4, busiest=(OTHER, 0.4)), KEPT_OUT, Cause.WAITING_WITH_GIL, id="another-ran-too-little"
        ),
        pytest.param(
            window(process=0.9, busiest=(OTHER, 0.9)), PUNCTUAL, Cause.WAITING, id="another-ran-without-the-gil"
        ),
        pytest.param(window(loop=0.9, process=0.9, collecting=0.6), PUNCTUAL, Cause.GARBAGE, id="collected"),
        pytest.param(window(collecting=0.6), KEPT_OUT, Cause.GARBAGE, id="collected-whatever-else"),
        pytest.param(
            window(loop=0.9, process=0.9, collecting=0.4), KEPT_OUT, Cause.C_WITH_GIL, id="collected-for-less-than-half"
        ),
        pytest.param(
            window(loop=0.3, process=0.3, starved=0.5), PUNCTUAL, Cause.C_WITHOUT_GIL, id="half-of-what-is-left"
        ),
        pytest.param(window(loop=0.3, process=0.3), PUNCTUAL, Cause.WAITING, id="the-same-and-not-starved"),
        pytest.param(
            window(loop=0.5, process=0.5, starved=0.4),
            Lateness(20, 0.9, 0.9, 0.0, longest=0.1),
            Cause.PYTHON,
            id="asked-for-long-because-there-were-few-cores",
        ),
        pytest.param(
            window(loop=0.5, process=0.5, starved=0.4),
            Lateness(2, 0.9, 0.9, 0.0, longest=0.5),
            Cause.C_WITH_GIL,
            id="few-cores-and-kept-out-at-a-stretch",
        ),
        pytest.param(window(loop=None, process=0.9), PUNCTUAL, Cause.UNKNOWN, id="no-clock-and-somebody-ran"),
        pytest.param(window(loop=None, process=0.1), PUNCTUAL, Cause.WAITING, id="no-clock-and-nobody-ran"),
        pytest.param(window(loop=None, collecting=0.9), PUNCTUAL, Cause.GARBAGE, id="no-clock-but-collected"),
    ],
)
def test_the_cause_is_told_from_who_ran_and_from_who_was_kept_out(seen: Window, late: Lateness, cause: Cause) -> None:
    assert cause_of(1.0, seen, late) is cause


@pytest.mark.parametrize(
    ("cause", "burns"),
    [
        (Cause.PYTHON, True),
        (Cause.C_WITH_GIL, True),
        (Cause.OTHER_THREAD, True),
        (Cause.C_WITHOUT_GIL, False),
        (Cause.WAITING, False),
        (Cause.WAITING_WITH_GIL, False),
        (Cause.GARBAGE, False),
        (Cause.UNKNOWN, False),
    ],
)
def test_what_would_hold_the_gil_in_a_thread_belongs_into_a_process(cause: Cause, burns: bool) -> None:
    assert cause.burns_cpu is burns


# -- lateness ----------------------------------------------------------------------------------------------------------


def test_lateness_adds_up() -> None:
    summed = Lateness().plus(0.1, 0.1).plus(0.2, 0.05)
    assert summed == (2, pytest.approx(0.3), pytest.approx(0.15), pytest.approx(0.15), pytest.approx(0.1))


@pytest.mark.parametrize("looks", [[(0.1, None), (0.1, 0.1)], [(0.1, 0.1), (0.1, None)]])
def test_what_is_not_known_of_one_look_is_not_known_of_all(looks: list[tuple[float, float | None]]) -> None:
    sum_of = Lateness()
    for look in looks:
        sum_of = sum_of.plus(*look)
    assert sum_of.kept_out is None
    assert sum_of.stopped == 0.0


@pytest.mark.parametrize(
    ("late", "kept_out", "stopped"),
    [(30.0, 0.0, 30.0), (30.0, 29.0, 1.0), (0.009, 0.0, 0.0), (0.011, 0.0, 0.011), (0.3, 0.3, 0.0), (0.3, None, 0.0)],
)
def test_a_process_was_stopped_while_the_watchdog_was_late_and_kept_out_by_nobody(
    late: float, kept_out: float | None, stopped: float
) -> None:
    assert Lateness().plus(late, kept_out).stopped == pytest.approx(stopped)


def test_of_lateness_that_began_earlier_only_the_end_counts() -> None:
    assert Lateness(1, 30.0, 10.0, 20.0, 10.0).within(0.5) == (1, 0.5, 0.5, 0.5, 0.5)
    assert Lateness(1, 0.3, 0.2, 0.1, 0.2).within(0.5) == (1, 0.3, 0.2, 0.1, 0.2)
    assert Lateness(1, 30.0, None, 0.0, 30.0).within(0.5) == (1, 0.5, None, 0.0, 0.5)


@pytest.mark.parametrize(
    ("seen", "excused", "blame"),
    [
        pytest.param(window(loop=0.4), 0.0, 1.0, id="nothing-is-excused"),
        pytest.param(window(loop=0.1), 0.7, 0.3, id="what-is-not-excused"),
        pytest.param(window(loop=0.4), 0.9, 0.4, id="what-ran-was-not-stopped"),
        pytest.param(window(loop=0.4, wall=1.3), 1.0, 0.1, id="it-may-have-run-before"),
        pytest.param(window(loop=0.2, wall=1.3), 1.0, 0.0, id="all-of-it-before"),
        pytest.param(window(loop=None), 1.5, 0.0, id="no-clock"),
    ],
)
def test_the_loop_is_to_blame_for_what_is_not_excused_and_for_its_cpu_time(
    seen: Window, excused: float, blame: float
) -> None:
    assert to_blame(1.0, seen, excused) == pytest.approx(blame)


# -- windows -----------------------------------------------------------------------------------------------------------


def reading(**known: Any) -> Reading:
    begin = {"at": 100.0, "loop": 1.0, "process": 2.0, "starved": 3.0, "slices": 4, "collecting": 5.0, "others": {}}
    return Reading(**{**begin, **known})


def test_a_window_is_what_two_readings_differ_by() -> None:
    after = Reading(101.5, 1.25, 2.5, 3.125, 14, 5.5, {})
    assert between(reading(), after) == Window(1.5, 0.25, 0.5, 0.125, 0.5, 10, None)


@pytest.mark.parametrize(
    ("before", "after", "busiest"),
    [
        ({}, {}, None),
        ({1: 5.0}, {}, None),
        ({}, {1: 0.5}, (1, 0.5)),
        ({1: 5.0, 2: 1.0}, {1: 5.25, 2: 1.5}, (2, 0.5)),
        ({1: 5.0}, {1: 5.25, 2: 0.5}, (2, 0.5)),
    ],
)
def test_the_busiest_thread_is_the_one_that_ran_longest_since(
    before: dict[int, float], after: dict[int, float], busiest: tuple[int, float] | None
) -> None:
    assert between(reading(others=before), reading(others=after)).busiest == busiest


@pytest.mark.parametrize("which", ["before", "after", "both"])
def test_what_one_reading_does_not_know_the_window_does_not_either(which: str) -> None:
    known, unknown = reading(), reading(loop=None, starved=None, slices=None)
    before = known if which == "after" else unknown
    after = known if which == "before" else unknown
    seen = between(before, after)
    assert (seen.loop, seen.starved, seen.slices) == (None, 0.0, 0)


# -- waits for the GIL -------------------------------------------------------------------------------------------------

ASKED = 200  # times in a second


@pytest.mark.parametrize(
    ("seen", "kept_out", "seconds"),
    [
        pytest.param(window(slices=ASKED + 2, process=1.0), 1.0, 1.0, id="asked-all-the-time"),
        pytest.param(window(slices=ASKED + 2, process=1.0), 0.4, 0.4, id="no-longer-than-the-watchdog"),
        pytest.param(window(slices=ASKED // 2 + 2, process=1.0), 0.6, 0.5, id="no-longer-than-it-asked"),
        pytest.param(window(slices=ASKED + 2, process=0.5), 1.0, 1.0, id="somebody-ran-half-of-it"),
        pytest.param(window(slices=ASKED + 2, process=0.4), 1.0, 0.0, id="nobody-ran"),
        pytest.param(window(slices=ASKED + 2, process=1.1, loop=0.7), 1.0, 0.0, id="it-ran-itself"),
        pytest.param(window(slices=ASKED + 2, process=1.1, loop=0.1), 1.0, 1.0, id="asking-takes-a-little"),
        pytest.param(window(slices=ASKED + 2, process=1.0, loop=None), 1.0, 0.0, id="no-clock"),
        pytest.param(window(slices=0, process=1.0), 1.0, 0.0, id="it-slept"),
        pytest.param(window(slices=2, process=1.0), 1.0, 0.0, id="it-slept-and-woke-up"),
        pytest.param(window(slices=ASKED // 3, process=1.0), 1.0, 0.0, id="asked-too-seldom"),
        pytest.param(window(slices=ASKED + 2, process=1.0), 0.0, 0.0, id="the-watchdog-came-in"),
        pytest.param(window(slices=ASKED + 2, process=1.0), None, 1.0, id="the-watchdog-slept-too"),
        pytest.param(window(slices=ASKED // 2 + 2, process=1.0), None, 0.5, id="the-watchdog-slept-for-longer"),
        pytest.param(window(slices=9 * ASKED, process=9.0), None, 1.0, id="no-longer-than-there-was-time"),
    ],
)
def test_who_asks_for_the_gil_all_the_time_while_another_runs_is_held_up(
    seen: Window, kept_out: float | None, seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "getswitchinterval", lambda: 1 / ASKED)
    assert held_up(seen, kept_out) == pytest.approx(seconds)


# -- the clocks themselves ---------------------------------------------------------------------------------------------


class PlayedScheduler:
    def __init__(self, runnable: bool) -> None:
        self.runnable = runnable
        self.counts: tuple[float, int] | None = (0.0, 0)

    def open(self) -> None:
        pass

    def schedule(self) -> Schedule | None:
        return None if self.counts is None else Schedule(*self.counts)

    def is_runnable(self) -> bool:
        return self.runnable

    def close(self) -> None:
        self.counts = None


class Played:
    """LoopClocks, of a thread whose CPU time and schedule are made up."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, runnable: bool = True) -> None:
        self.scheduler = PlayedScheduler(runnable)
        self.loop: float | None = 10.0
        self.seconds: list[float | None] = []
        monkeypatch.setattr(readings, "Scheduler", lambda: self.scheduler)
        monkeypatch.setattr(readings, "cpu_seconds", lambda clock: self.seconds.pop(0) if self.seconds else self.loop)
        self.clocks = LoopClocks()


def test_a_thread_that_wants_a_core_and_gets_none_starves_for_as_long_as_nothing_else_is_known(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    played = Played(monkeypatch)
    played.clocks.read(100.0)
    played.clocks.read(100.3)
    assert played.clocks.starving() == pytest.approx(0.3)
    played.clocks.read(100.4)
    assert played.clocks.starving() == pytest.approx(0.4)


def test_it_starves_only_since_it_ran_last(monkeypatch: pytest.MonkeyPatch) -> None:
    played = Played(monkeypatch)
    played.clocks.read(100.0)
    played.clocks.read(100.3)
    played.loop = 10.05
    played.clocks.read(100.4)
    assert played.clocks.starving() == pytest.approx(0.05), "of the last window, what it did not run"


def test_what_the_kernel_has_counted_is_not_counted_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    played = Played(monkeypatch)
    played.clocks.read(100.0)
    played.scheduler.counts = (0.25, 3)
    played.clocks.read(100.3)
    assert played.clocks.starving() == pytest.approx(0.05)


def test_a_thread_that_waits_for_something_else_does_not_starve(monkeypatch: pytest.MonkeyPatch) -> None:
    played = Played(monkeypatch, runnable=False)
    played.clocks.read(100.0)
    played.clocks.read(100.3)
    assert played.clocks.starving() == 0.0


def test_a_thread_that_runs_at_the_moment_does_not_starve(monkeypatch: pytest.MonkeyPatch) -> None:
    played = Played(monkeypatch)
    played.clocks.read(100.0)
    played.clocks.read(100.3)
    played.seconds = [10.0, 10.001]
    assert played.clocks.starving() == 0.0


def test_without_a_clock_nobody_starves(monkeypatch: pytest.MonkeyPatch) -> None:
    played = Played(monkeypatch)
    played.loop = None
    played.clocks.read(100.0)
    played.clocks.read(100.3)
    assert played.clocks.starving() == 0.0


@linux
def test_the_clocks_of_a_thread_are_read_by_another(gate: Gate, new_gate: type[Gate]) -> None:
    made = new_gate()
    clocks: list[LoopClocks] = []

    def loop() -> None:
        clocks.append(LoopClocks())
        made.open()
        gate.wait()

    thread = threading.Thread(target=loop)
    bystander = threading.Thread(target=gate.wait)
    thread.start()
    bystander.start()
    made.wait()
    try:
        (of_thread,) = clocks
        seen = of_thread.read(12.5)
        assert of_thread.ident == thread.ident
        assert seen.at == 12.5
        assert None not in (seen.loop, seen.starved, seen.slices)
        assert seen.slices > 0  # type: ignore[operator]
        assert bystander.ident in seen.others
        assert thread.ident not in seen.others
        assert threading.get_ident() not in seen.others, "whoever looks does not count"
    finally:
        gate.open()
        within(thread)
        within(bystander)
    of_thread.close()
    of_thread.close()
    after = of_thread.read(13.0)
    assert (after.starved, after.slices) == (None, None)
    end = monotonic() + PATIENCE
    while of_thread.read(13.0).loop is not None:  # a thread that was joined may take a moment to be gone
        assert monotonic() < end
    assert of_thread.starving() == 0.0


# -- garbage -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def time_passes(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [500.0]
    monkeypatch.setattr(garbage, "time", SimpleNamespace(monotonic=lambda: now[0]))
    return now


def collect(counting: Collections, now: list[float], seconds: float, generation: int = 2) -> None:
    info = {"generation": generation}
    counting._on_collection("start", info)
    now[0] += seconds
    counting._on_collection("stop", info)


def test_collections_are_counted_for_the_thread_in_which_they_happen(time_passes: list[float]) -> None:
    counting = Collections()
    own = threading.get_ident()
    collect(counting, time_passes, 0.25)
    collect(counting, time_passes, 0.5, generation=1)
    assert counting.spent(own) == pytest.approx(0.75)
    assert counting.spent(own + 1) == 0.0


def test_a_collection_that_goes_on_counts_already(time_passes: list[float]) -> None:
    counting = Collections()
    counting._on_collection("start", {"generation": 2})
    time_passes[0] += 0.25
    assert counting.spent(threading.get_ident()) == pytest.approx(0.25)


def test_collections_of_the_youngest_are_not_counted(time_passes: list[float]) -> None:
    counting = Collections()
    collect(counting, time_passes, 0.25, generation=0)
    assert counting.spent(threading.get_ident()) == 0.0


def test_the_place_of_a_long_collection_is_remembered(time_passes: list[float]) -> None:
    counting = Collections()
    collect(counting, time_passes, 0.019)
    assert counting.stacks == {}
    collect(counting, time_passes, 0.021)
    (stack,) = counting.stacks.values()
    assert stack.place is not None
    assert stack.place.function == "collect"


def test_a_collection_that_had_begun_before_anybody_counted_is_not_counted(time_passes: list[float]) -> None:
    counting = Collections()
    counting._on_collection("stop", {"generation": 2})
    assert counting.spent(threading.get_ident()) == 0.0


def test_collections_are_counted_while_anybody_wants_it() -> None:
    counting = Collections()
    counting.start("one")
    counting.start("other")
    try:
        counting.stop("one")
        counting.stop("one")
        assert gc.callbacks.count(counting._on_collection) == 1
        gc.collect()
        assert counting.spent(threading.get_ident()) > 0
    finally:
        counting.stop("other")
    assert counting._on_collection not in gc.callbacks
    assert counting.spent(threading.get_ident()) == 0.0
    counting.start("one")
    assert counting._on_collection in gc.callbacks
    counting.stop("one")


def test_a_forked_child_counts_nothing() -> None:
    counting = Collections()
    counting.start("one")
    counting.after_fork_in_child()
    assert counting._on_collection not in gc.callbacks
    counting.start("one")
    assert gc.callbacks.count(counting._on_collection) == 1
    counting.stop("one")
    counting.after_fork_in_child()

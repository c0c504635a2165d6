"""The watchdog looks at whoever is due or rests, misses no call, and needs nobody to survive; the clocks it reads."""

from __future__ import annotations

import logging
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import CodeType
from typing import Any

import pytest

from bridge.diagnostics import clocks, punctuality, watchdog
from bridge.diagnostics.delivery import logging_thread
from bridge.diagnostics.punctuality import Punctuality, Tick
from bridge.diagnostics.watchdog import RESTING, Watchdog
from tests.conftest import PATIENCE, Gate, within
from tests.interruptions import interrupt, of_bridge, where_handlers_run

linux = pytest.mark.skipif(sys.platform != "linux", reason="reads Linux's clocks")


class Recorder:
    """A watcher that notes its looks, and wants the next one after `wait` seconds."""

    def __init__(self, wait: float | None = None):
        self.wait = wait
        self.ticks: list[Tick] = []

    def look(self, tick: Tick) -> float | None:
        self.ticks.append(tick)
        return self.wait

    @property
    def looks(self) -> int:
        return len(self.ticks)


class FakeClock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def threadless(clock: FakeClock, monkeypatch: pytest.MonkeyPatch) -> Watchdog:
    """A watchdog that looks when the test says so."""
    start = threading.Thread.start

    def unless_it_is_the_watchdogs(thread: threading.Thread) -> None:
        if thread.name != watchdog.THREAD_NAME:
            start(thread)

    monkeypatch.setattr(threading.Thread, "start", unless_it_is_the_watchdogs)
    return Watchdog(clock)


@pytest.fixture
def dog(monkeypatch: pytest.MonkeyPatch) -> Iterator[Watchdog]:
    """A watchdog of its own, with a thread of its own."""
    dog = Watchdog()
    yield dog
    thread = dog._thread
    dog.stop()
    if thread is not None:
        within(thread)


def until(condition: Callable[[], object]) -> None:
    """Wait for what another thread does, without its help."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


# -- who is looked at, and when ----------------------------------------------------------------------------------------


def test_each_is_looked_at_when_its_time_has_come(threadless: Watchdog, clock: FakeClock) -> None:
    often, seldom = Recorder(0.05), Recorder(1.0)
    threadless.watch(often)
    threadless.watch(seldom)
    assert threadless.look(Tick(clock.now)) == pytest.approx(clock.now + 0.05)
    clock.now += 0.05
    assert threadless.look(Tick(clock.now)) == pytest.approx(clock.now + 0.05)
    assert (often.looks, seldom.looks) == (2, 1)
    clock.now += 0.97
    assert threadless.look(Tick(clock.now)) == pytest.approx(clock.now + 0.05)
    assert (often.looks, seldom.looks) == (3, 2)


def test_what_looking_took_does_not_put_off_the_next_look(threadless: Watchdog, clock: FakeClock) -> None:
    class Slow(Recorder):
        def look(self, tick: Tick) -> float | None:
            clock.now += 0.02
            return super().look(tick)

    threadless.watch(Slow(0.05))
    began = clock.now
    assert threadless.look(Tick(clock.now)) == pytest.approx(began + 0.05)


def test_who_rests_is_looked_at_whenever_somebody_is_due_and_asks_for_no_look(
    threadless: Watchdog, clock: FakeClock
) -> None:
    resting = Recorder(None)
    threadless.watch(resting)
    assert threadless.look(Tick(clock.now)) == RESTING
    busy = Recorder(0.05)
    threadless.watch(busy)
    assert threadless.look(Tick(clock.now)) == pytest.approx(clock.now + 0.05)
    assert (resting.looks, busy.looks) == (2, 1)


def test_when_only_the_resting_are_looked_at_the_others_keep_their_time(threadless: Watchdog, clock: FakeClock) -> None:
    resting, busy = Recorder(None), Recorder(0.05)
    threadless.watch(resting)
    threadless.watch(busy)
    threadless.look(Tick(clock.now))
    clock.now += 0.06
    assert threadless.look(Tick(clock.now), resting=True) == pytest.approx(clock.now - 0.01)
    assert (resting.looks, busy.looks) == (2, 1)


def test_nobody_is_looked_at_after_it_was_taken_out(threadless: Watchdog, clock: FakeClock) -> None:
    one, other = Recorder(0.0), Recorder(0.0)
    threadless.watch(one)
    threadless.watch(other)
    threadless.unwatch(one)
    threadless.unwatch(one)
    threadless.look(Tick(clock.now))
    assert (one.looks, other.looks) == (0, 1)


def test_who_is_taken_out_while_it_is_looked_at_stays_out(threadless: Watchdog, clock: FakeClock) -> None:
    class Leaving(Recorder):
        def look(self, tick: Tick) -> float | None:
            threadless.unwatch(self)
            return super().look(tick)

    leaving = Leaving(0.0)
    threadless.watch(leaving)
    assert threadless.look(Tick(clock.now)) == RESTING
    threadless.look(Tick(clock.now))
    assert leaving.looks == 1


def test_one_that_raises_is_logged_and_dropped_and_the_others_are_looked_at(
    threadless: Watchdog, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(Recorder):
        def look(self, tick: Tick) -> float | None:
            super().look(tick)
            raise ValueError("broken")

    broken, sound = Broken(), Recorder(0.0)
    threadless.watch(broken)
    threadless.watch(sound)
    threadless.look(Tick(clock.now))
    threadless.look(Tick(clock.now))
    assert (broken.looks, sound.looks) == (1, 2)
    assert logging_thread.flush(PATIENCE)
    (record,) = caplog.records
    assert (record.name, record.levelno) == ("bridge", logging.ERROR)
    assert "is watched no longer" in record.message


# -- how late it was ---------------------------------------------------------------------------------------------------


class System:
    """Plays the system for a watchdog's thread: what its clocks and counters say is set by the test."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        self.clock = FakeClock()
        self.worked = 0.0
        self.slept: int | None = 0
        monkeypatch.setattr(punctuality, "thread_time", lambda: self.worked)
        monkeypatch.setattr(punctuality, "times_slept", lambda: self.slept)
        self.punctuality = Punctuality(self.clock.now, self.clock)
        self.punctuality.tick(self.clock.now, sleeps=0)

    def passes(self, seconds: float, *, worked: float = 0.0, slept: int | None = 1) -> None:
        self.clock.now += seconds
        self.worked += worked
        self.slept = None if slept is None or self.slept is None else self.slept + slept

    def tick(self, wait: float = 0.05, **more: Any) -> Tick:
        """The next tick, due so many seconds after 100.0."""
        tick = self.punctuality.tick(100.0 + wait, **more)
        return tick._replace(late=round(tick.late, 6), kept_out=tick.kept_out and round(tick.kept_out, 6))


@pytest.fixture
def system(monkeypatch: pytest.MonkeyPatch) -> System:
    return System(monkeypatch)


@pytest.mark.parametrize(
    ("took", "worked", "slept", "late", "kept_out"),
    [
        pytest.param(0.05, 0.0, 1, 0.0, 0.0, id="punctual"),
        pytest.param(0.35, 0.0, 41, 0.3, 0.2, id="asked-for-the-gil"),
        pytest.param(0.15, 0.0, 41, 0.1, 0.1, id="kept-out-no-longer-than-late"),
        pytest.param(30.0, 0.0, 1, 29.95, 0.0, id="stopped-while-it-slept"),
        pytest.param(30.0, 0.001, 0, 29.95, 0.0, id="stopped-during-a-look"),
        pytest.param(0.25, 0.25, 0, 0.0, 0.0, id="a-look-took-long"),
        pytest.param(0.25, 0.05, 41, 0.2, 0.2, id="asked-for-the-gil-during-a-look"),
        pytest.param(0.35, 0.0, None, 0.3, None, id="the-system-does-not-tell"),
    ],
)
def test_how_late_a_look_is_that_was_due_after_50_ms(
    system: System, took: float, worked: float, slept: int | None, late: float, kept_out: float | None
) -> None:
    system.passes(took, worked=worked, slept=slept)
    assert system.tick() == Tick(100.0 + took, late, kept_out)


def test_each_tick_tells_of_its_own_time(system: System) -> None:
    system.passes(30.0, worked=1.0, slept=10)
    system.tick()
    system.passes(0.05)
    assert system.tick(30.05) == Tick(130.05, 0.0, 0.0)


def test_after_a_look_in_between_the_next_tick_tells_of_all_the_time(system: System) -> None:
    """Not everybody has been looked at in between."""
    system.passes(30.0, slept=0)
    assert system.punctuality.between(100.0) == Tick(130.0, 30.0, 0.0)
    system.passes(0.05)
    assert system.tick(30.05).late == 0.0
    system.passes(30.0, slept=0)
    system.punctuality.between(130.05)
    system.passes(0.05)
    assert system.tick(30.10).late == 30.0


def test_a_thread_that_comes_up_late_was_kept_out_as_long_as_it_asked(system: System) -> None:
    system.passes(0.35, worked=0.05, slept=40)
    first = Punctuality(100.0, system.clock).tick(100.0, sleeps=0)
    assert (first.late, first.kept_out) == (pytest.approx(0.3), pytest.approx(0.2))


class Gateway:
    """A gate through which the watchdog is called, or not."""

    def __init__(self, clock: FakeClock, took: float, called: bool):
        self.clock, self.took, self.called = clock, took, called
        self.timeout: float | None = None

    def acquire(self, timeout: float) -> bool:
        self.timeout = timeout
        self.clock.now += self.took
        return self.called

    def release(self) -> None:
        pass


def test_a_sleep_lasts_until_somebody_is_due(threadless: Watchdog, clock: FakeClock) -> None:
    threadless._gate = gate = Gateway(clock, took=0.05, called=False)  # type: ignore[assignment]
    assert threadless._sleep(clock.now + 0.05) is None
    assert gate.timeout == pytest.approx(0.05)
    assert threadless._sleep(clock.now - 1) is None
    assert gate.timeout == 0.0
    assert threadless._sleep(RESTING) is None
    assert gate.timeout == -1


def test_a_call_tells_since_when_the_watchdog_could_have_come(threadless: Watchdog, clock: FakeClock) -> None:
    threadless._gate = Gateway(clock, took=0.3, called=True)  # type: ignore[assignment]
    threadless.wake()
    clock.now += 0.1
    threadless.wake()
    assert threadless._sleep(RESTING) == 100.0, "the first one counts"
    assert threadless._sleep(RESTING) == clock.now, "and for one sleep only"


def test_who_was_due_before_a_call_is_late_since_then(threadless: Watchdog, clock: FakeClock) -> None:
    """After a stop the call of a loop that wakes up may be what ends the sleep, and another one was due meanwhile."""
    recorder = Recorder(0.05)

    class Stopped(Gateway):
        def acquire(self, timeout: float) -> bool:
            if recorder.looks == 2:
                threadless._stopping = True
            self.clock.now += self.took
            threadless.wake()
            return self.called

    threadless._gate = Stopped(clock, took=30.0, called=True)  # type: ignore[assignment]
    threadless._started_at = clock.now
    threadless.watch(recorder)
    threadless._run()
    assert recorder.ticks[1].called
    assert recorder.ticks[1].late == pytest.approx(29.95)


# -- its thread --------------------------------------------------------------------------------------------------------


def test_the_thread_comes_with_the_first_and_leaves_after_the_last(
    dog: Watchdog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watchdog, "LINGER", 0.001)
    assert dog._thread is None
    one = Recorder(None)
    dog.watch(one)
    thread = dog._thread
    assert thread is not None
    assert thread.daemon
    until(lambda: dog.parked)
    dog.unwatch(one)
    within(thread)
    assert dog._thread is None
    dog.watch(one)
    assert dog._thread not in (None, thread)


def test_the_thread_stays_for_who_comes_while_it_lingers(dog: Watchdog) -> None:
    one, other = Recorder(None), Recorder(None)
    dog.watch(one)
    thread = dog._thread
    until(lambda: one.looks)
    dog.unwatch(one)
    dog.watch(other)
    until(lambda: other.looks)
    assert dog._thread is thread


def test_somebody_who_comes_at_the_last_moment_keeps_the_thread(threadless: Watchdog) -> None:
    threadless.watch(Recorder(None))
    assert not threadless._leave()
    assert threadless._thread is not None


def test_it_is_not_parked_while_nobody_rests(dog: Watchdog) -> None:
    busy = Recorder(None)
    dog.watch(busy)
    until(lambda: dog.parked)
    busy.wait = 0.0
    dog.wake()
    until(lambda: busy.looks > 5)
    seen = set()
    for _ in range(20):
        looks = busy.looks
        until(lambda looks=looks: busy.looks > looks)
        seen.add(dog.parked)
    assert seen == {False}


def test_who_rests_can_call_while_another_one_is_due_much_later(dog: Watchdog) -> None:
    """Such as a loop that wakes up while an executor is looked at now and then."""
    resting, busy = Recorder(None), Recorder(3600.0)
    dog.watch(busy)
    dog.watch(resting)
    until(lambda: resting.looks and dog.parked)
    looks = resting.looks
    dog.wake()
    until(lambda: resting.looks > looks)
    assert busy.looks == 1


def test_a_change_between_the_look_and_the_parking_is_seen(dog: Watchdog) -> None:
    """Whoever reads `parked` before it is set does not call; so it must be looked at after it was set."""
    seen_while_parked = threading.Event()

    class Resting(Recorder):
        def look(self, tick: Tick) -> float | None:
            if dog.parked:
                seen_while_parked.set()
            return super().look(tick)

    dog.watch(Resting(None))
    assert seen_while_parked.wait(PATIENCE)


class Door:
    """As a loop's: the owner changes something and calls only if the watchdog is parked."""

    def __init__(self, dog: Watchdog):
        self.dog = dog
        self.awake = False
        self.seen = threading.Event()

    def look(self, tick: Tick) -> float | None:
        if not self.awake:
            return None
        self.awake = False
        self.seen.set()
        return 0.0005

    def wake_up(self) -> None:
        self.seen.clear()
        self.awake = True
        if self.dog.parked:
            self.dog.wake()
        assert self.seen.wait(PATIENCE), "this call was lost"


@pytest.mark.parametrize("seed", range(3))
def test_no_call_is_lost(seed: int, dog: Watchdog) -> None:
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    failures: list[BaseException] = []

    def own(number: int) -> None:
        choose = random.Random(seed * 100 + number)
        door = Door(dog)
        dog.watch(door)
        try:
            for _ in range(200):
                door.wake_up()
                if choose.random() < 0.3:
                    time.sleep(choose.choice([0, 0.0003, 0.001]))
                if choose.random() < 0.1:
                    dog.unwatch(door)
                    dog.watch(door)
        except BaseException as error:
            failures.append(error)
        finally:
            dog.unwatch(door)

    owners = [threading.Thread(target=own, args=(number,)) for number in range(4)]
    try:
        for owner in owners:
            owner.start()
        for owner in owners:
            owner.join(6 * PATIENCE)
    finally:
        sys.setswitchinterval(interval)
    assert not any(owner.is_alive() for owner in owners)
    assert not failures


def test_where_an_interruption_comes_the_next_who_comes_is_looked_at() -> None:
    def counts(code: CodeType, offset: int) -> bool:
        return of_bridge(code, offset) and where_handlers_run(code, offset)

    number, position = 0, None
    while number == 0 or position is not None:
        number += 1
        dog, later = Watchdog(), Recorder(None)
        position = interrupt(lambda dog=dog: dog.watch(Recorder(None)), number, counts=counts)  # type: ignore[misc]
        dog.watch(later)
        until(lambda later=later: later.looks)  # type: ignore[misc]
        dog.stop()
    assert number > 5


def test_a_thread_that_cannot_be_started_is_no_error(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    caplog.set_level(logging.DEBUG, "bridge")
    dog = Watchdog()
    dog.watch(Recorder())
    assert dog._thread is None
    assert "nothing is watched: can't start new thread" in caplog.text


def test_after_the_end_nothing_starts(dog: Watchdog) -> None:
    dog.watch(Recorder(None))
    thread = dog._thread
    dog.stop()
    assert thread is not None
    within(thread)
    late = Recorder(None)
    dog.watch(late)
    assert dog._thread is thread
    assert not late.looks


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_a_forked_child_watches_nothing_and_can_start_anew(gate: Gate) -> None:
    class Held(Recorder):
        def look(self, tick: Tick) -> float | None:
            gate.wait()
            return super().look(tick)

    held = Held(None)
    watchdog.watchdog.watch(held)
    watchdog.watchdog._lock.acquire()  # as another thread may at the moment of the fork
    child = os.fork()
    if child == 0:
        signal.alarm(2 * int(PATIENCE))  # ends it
        ours = watchdog.watchdog
        code = 1
        try:
            own = Recorder(None)
            if not ours._watchers and ours._thread is None:
                ours.watch(own)
                until(lambda: own.looks and ours.parked)
                code = 0
        finally:
            os._exit(code)
    watchdog.watchdog._lock.release()
    gate.open()
    _, status = os.waitpid(child, 0)
    watchdog.watchdog.unwatch(held)
    assert os.waitstatus_to_exitcode(status) == 0


# -- the clocks --------------------------------------------------------------------------------------------------------


@linux
def test_a_threads_clock_runs_while_it_computes_and_is_read_from_elsewhere(gate: Gate) -> None:
    stop = threading.Event()

    def compute() -> None:
        while not stop.is_set():
            pass

    computing, waiting = threading.Thread(target=compute), threading.Thread(target=gate.wait)
    computing.start()
    waiting.start()
    busy, idle = clocks.clock_of(computing.native_id), clocks.clock_of(waiting.native_id)
    until(lambda: (clocks.cpu_seconds(busy) or 0.0) > 0.05)
    assert (clocks.cpu_seconds(idle) or 0.0) < 0.05
    stop.set()
    gate.open()
    within(computing)
    within(waiting)


@linux
def test_the_clock_of_a_thread_that_has_ended_is_not_known() -> None:
    thread = threading.Thread(target=int)
    thread.start()
    within(thread)
    clock = clocks.clock_of(thread.native_id)
    until(lambda: clocks.cpu_seconds(clock) is None)  # the system takes its time


@linux
def test_ones_own_clock_is_that_of_the_thread() -> None:
    before, clock = time.thread_time(), clocks.own_clock()
    assert clock == clocks.clock_of(threading.get_native_id())
    assert before <= (clocks.cpu_seconds(clock) or 0.0) <= time.thread_time()


@linux
def test_the_scheduler_tells_how_often_a_thread_was_given_a_core_and_whether_it_wants_one(new_gate: type[Gate]) -> None:
    ready, go_on, done = new_gate(), new_gate(), new_gate()
    schedulers: list[clocks.Scheduler] = []

    def wait() -> None:
        schedulers.append(clocks.Scheduler())
        ready.open()
        go_on.wait()
        done.open()

    waiting = threading.Thread(target=wait)
    waiting.start()
    ready.wait()
    (scheduler,) = schedulers
    until(lambda: not scheduler.is_runnable())
    before = scheduler.schedule()
    go_on.open()
    done.wait()
    within(waiting)
    own = clocks.Scheduler()
    assert own.is_runnable()
    after = own.schedule()
    assert before is not None
    assert after is not None
    assert before.slices > 0
    assert before.waited >= 0
    for each in (scheduler, own):
        each.close()
        assert each.schedule() is None
        assert not each.is_runnable()


@linux
@pytest.mark.parametrize("content", [b"", b"another file", b"one two three"])
def test_what_another_file_says_is_not_taken_for_a_schedule(content: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clocks, "_content", lambda descriptor: content)
    scheduler = clocks.Scheduler()
    assert scheduler.schedule() is None
    assert not scheduler.is_runnable()
    scheduler.close()


def test_what_no_clock_tells_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    assert clocks.clock_of(None) is None
    assert clocks.cpu_seconds(None) is None
    monkeypatch.setattr(clocks, "_LINUX", False)
    assert clocks.Scheduler().schedule() is None
    assert not clocks.Scheduler().is_runnable()
    assert clocks.own_clock() is None
    monkeypatch.setattr(clocks, "resource", None)
    assert clocks.times_slept() is None


@linux
def test_a_thread_that_waits_has_slept() -> None:
    before = clocks.times_slept()
    time.sleep(0.01)
    after = clocks.times_slept()
    assert before is not None
    assert after is not None
    assert after > before

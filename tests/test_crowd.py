"""Threads that get no core, for which a loop waits: nobody is blamed for that."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from bridge.diagnostics import clocks
from bridge.diagnostics.clocks import Schedule, Scheduler
from bridge.loop.watch import crowd as module
from bridge.loop.watch.crowd import Crowd
from tests.conftest import Gate
from tests.test_loop_watch import Scene, nothing_logged_yet, scene

__all__ = ["nothing_logged_yet", "scene"]

linux = pytest.mark.skipif(sys.platform != "linux", reason="reads Linux's clocks")


# -- what a thread is at -----------------------------------------------------------------------------------------------


@pytest.fixture
def native_id() -> Iterator[Callable[[Callable[[], object]], int]]:
    """Start a thread, and get its number; it has ended when the test has."""
    threads = []

    def start(target: Callable[[], object]) -> int:
        thread = threading.Thread(target=target)
        threads.append(thread)
        thread.start()
        return thread.native_id or 0

    yield start
    for thread in threads:
        thread.join()


def soon(condition: Callable[[], bool], gate: Gate) -> bool:
    """Does it become true? A thread may take a moment to come to where it waits."""
    return any(condition() or gate._event.wait(0.002) for _ in range(2000))


@linux
def test_a_thread_that_waits_for_a_lock_may_wait_for_a_thread(native_id: Any, gate: Gate, new_gate: type[Gate]) -> None:
    scheduler = Scheduler(native_id(gate.wait))
    content = scheduler._content
    assert soon(lambda: content("syscall").split()[:1] == [clocks._FUTEX], new_gate()) or clocks._FUTEX is None
    assert scheduler.may_wait_for_a_thread()
    gate.open()
    scheduler.close()


@linux
@pytest.mark.skipif(clocks._FUTEX is None, reason="the number of its system call is not known")
def test_a_thread_that_waits_for_input_does_not_wait_for_a_thread(native_id: Any, gate: Gate) -> None:
    read, write = os.pipe()
    scheduler = Scheduler(native_id(lambda: os.read(read, 1)))
    try:
        assert soon(lambda: not scheduler.may_wait_for_a_thread(), gate)
    finally:
        os.write(write, b"x")
        scheduler.close()
        os.close(write)


def test_where_it_is_not_known_a_thread_may_wait_for_another(monkeypatch: pytest.MonkeyPatch) -> None:
    scheduler = Scheduler()
    monkeypatch.setattr(scheduler, "_content", lambda name: b"")
    assert scheduler.may_wait_for_a_thread()
    assert not scheduler.is_runnable()
    assert scheduler.schedule() is None


@linux
def test_nothing_is_told_by_one_that_is_closed() -> None:
    scheduler = Scheduler()
    assert scheduler.schedule() is not None
    scheduler.close()
    scheduler.close()
    assert scheduler.schedule() is None


# -- the crowd ---------------------------------------------------------------------------------------------------------


class PlayedScheduler:
    """What the kernel would say of a thread, by its number."""

    waited: dict[int, float]
    runnable: set[int]

    def __init__(self, native_id: int) -> None:
        self.native_id = native_id

    def schedule(self) -> Schedule | None:
        waited = self.waited.get(self.native_id)
        return None if waited is None else Schedule(waited, 0)

    def is_runnable(self) -> bool:
        return self.native_id in self.runnable

    def close(self) -> None:
        pass


class PlayedThread:
    def __init__(self, number: int, native_id: int | None) -> None:
        self.ident, self.native_id = number, native_id


@pytest.fixture
def threads(monkeypatch: pytest.MonkeyPatch) -> list[PlayedThread]:
    """The loop's thread is 1, the others are 2 and 3; native ids are a hundred higher."""
    there = [PlayedThread(number, 100 + number) for number in (1, 2, 3)]
    PlayedScheduler.waited = {101: 5.0, 102: 1.0, 103: 2.0}
    PlayedScheduler.runnable = set()
    monkeypatch.setattr(module, "Scheduler", PlayedScheduler)
    monkeypatch.setattr(module.threading, "enumerate", lambda: there)
    monkeypatch.setattr(module, "cpu_seconds", lambda clock: 1.0)
    return there


def test_what_they_waited_is_counted_from_the_first_look_on(threads: list[PlayedThread]) -> None:
    crowd = Crowd(1)
    assert crowd.waited() == 0.0
    PlayedScheduler.waited |= {101: 9.0, 102: 1.25, 103: 2.5}
    assert crowd.waited() == 0.75
    assert crowd.waited() == 0.0


def test_of_a_thread_that_is_new_all_counts(threads: list[PlayedThread]) -> None:
    crowd = Crowd(1)
    threads.append(PlayedThread(4, 104))
    PlayedScheduler.waited[104] = 0.5
    assert crowd.waited() == 0.5


def test_one_that_has_ended_counts_no_more(threads: list[PlayedThread]) -> None:
    crowd = Crowd(1)
    del PlayedScheduler.waited[102]
    assert crowd.waited() == 0.0


def test_one_that_is_just_being_started_is_starving(threads: list[PlayedThread]) -> None:
    crowd = Crowd(1)
    assert not crowd.is_starving()
    threads.append(PlayedThread(4, None))
    assert crowd.is_starving()


def test_one_that_is_ready_and_does_not_run_is_starving(
    threads: list[PlayedThread], monkeypatch: pytest.MonkeyPatch
) -> None:
    crowd = Crowd(1)
    PlayedScheduler.runnable = {103}
    assert crowd.is_starving()
    ran = iter(range(10))
    monkeypatch.setattr(module, "cpu_seconds", lambda clock: next(ran))
    assert not crowd.is_starving(), "it runs"


def test_the_real_one_sees_a_thread_that_comes(native_id: Any, gate: Gate) -> None:
    crowd = Crowd(threading.get_ident())
    native_id(gate.wait)
    assert crowd.waited() >= 0.0
    gate.open()
    crowd.close()


# -- what the watcher makes of it --------------------------------------------------------------------------------------


class PlayedCrowd:
    """Threads that wait for as long as is said, between two looks."""

    seconds = 0.0
    starving = False

    def __init__(self, loop: int) -> None:
        self.closed = False

    def waited(self) -> float:
        return self.seconds

    def is_starving(self) -> bool:
        return self.starving

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def played(monkeypatch: pytest.MonkeyPatch) -> type[PlayedCrowd]:
    monkeypatch.setattr(PlayedCrowd, "seconds", 0.0)
    monkeypatch.setattr(PlayedCrowd, "starving", False)
    monkeypatch.setattr(module, "Crowd", PlayedCrowd)
    return PlayedCrowd


def test_what_threads_that_it_waits_for_had_to_wait_is_taken_off(scene: Scene, played: type[PlayedCrowd]) -> None:
    scene.clocks.waits_for_a_thread = True
    scene.runs("a")
    scene.look(0.02)
    scene.look(0.02)
    played.seconds = 0.05
    scene.look(0.08)  # 120 ms, of which 50 do not count
    assert scene.heard == []
    played.seconds = 0.0
    scene.look(0.03)
    assert scene.told == [("BRG101", 150)]


def test_unless_it_waits_for_something_else(scene: Scene, played: type[PlayedCrowd]) -> None:
    scene.runs("a")
    scene.look(0.02)
    scene.look(0.02)
    played.seconds = 0.05
    scene.look(0.08)
    assert scene.told == [("BRG101", 120)]


def test_more_than_the_time_between_two_looks_is_never_taken_off(scene: Scene, played: type[PlayedCrowd]) -> None:
    scene.clocks.waits_for_a_thread = True
    scene.runs("a")
    scene.look(0.05)
    scene.look(0.03)
    played.seconds = 9.0
    scene.look(0.02)
    played.seconds = 0.0
    scene.look(0.03)
    assert scene.told == [("BRG101", 130)]


def test_while_one_of_them_starves_it_is_not_judged(scene: Scene, played: type[PlayedCrowd]) -> None:
    scene.clocks.waits_for_a_thread = True
    played.starving = True
    scene.runs("a")
    scene.looks(0.5)
    assert scene.heard == []
    played.starving = False
    scene.look(0.01)
    assert scene.told == [("BRG101", 510)]


def test_whoever_burns_the_cpu_is_blamed_all_the_same(scene: Scene, played: type[PlayedCrowd]) -> None:
    scene.clocks.waits_for_a_thread = True
    played.starving = True
    played.seconds = 0.05
    scene.runs("a")
    for _ in range(3):
        scene.clocks.loop += 0.04
        scene.look(0.05)
    assert scene.told == [("BRG101", 150)]


def test_it_is_let_go_with_the_turn_unless_cores_are_few(
    scene: Scene, played: type[PlayedCrowd], monkeypatch: pytest.MonkeyPatch
) -> None:
    scene.runs("a")
    scene.look(0.02)
    assert scene.watcher._crowd._crowd is None
    scene.look(0.02)
    crowd: Any = scene.watcher._crowd._crowd
    assert crowd is not None
    scene.sleeps()
    scene.look(0.02)
    assert crowd.closed
    assert scene.watcher._crowd._crowd is None
    scene.clocks.starved += 0.01
    scene.runs("b", turn=2)
    scene.look(0.02)
    assert scene.watcher._crowd._crowd is not None, "at the first look, because cores are few"


def test_nobody_is_blamed_for_what_was_before_the_last_look(scene: Scene) -> None:
    scene.polls()
    scene.look(0.05)
    scene.runs("a", began=scene.now - 0.5)
    scene.look(0.05)
    assert scene.heard == []
    scene.look(0.05)
    assert scene.told == [("BRG101", 100)]

"""The worker pool's economy: who is woken, how many at a time, who leaves, and that nobody sleeps while work waits."""

from __future__ import annotations

import math
import random
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

import bridge
from bridge.threads.future_job import FutureJob
from bridge.threads.pool import WorkerPool, open_gate
from bridge.threads.worker import Worker
from tests.conftest import PATIENCE, Gate, within


def until(condition: Callable[[], object]) -> None:
    """Wait for something that other threads bring about, or fail."""
    give_up = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < give_up, "this never came about"
        time.sleep(0.0005)


def pool_of(executor: bridge.ThreadExecutor) -> WorkerPool:
    return executor._pool


@pytest.fixture
def quick_switches() -> Iterator[None]:
    """Threads change places about as often as the interpreter can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


# -- waking --------------------------------------------------------------------------------------------------------------


def test_only_one_worker_is_on_its_way_up_however_many_jobs_come(monkeypatch: pytest.MonkeyPatch, gate: Gate) -> None:
    work = Worker._work

    def slow_to_come_up(worker: Worker) -> None:
        gate.wait()
        work(worker)

    monkeypatch.setattr(Worker, "_work", slow_to_come_up)
    with bridge.ThreadExecutor(8) as executor:
        futures = [executor.submit(int) for _ in range(100)]
        made = len(pool_of(executor).workers)
        gate.open()
        assert made == 1
        assert [future.result(PATIENCE) for future in futures] == [0] * 100


def test_a_worker_that_takes_the_last_job_wakes_nobody() -> None:
    with bridge.ThreadExecutor(8) as executor:
        for _ in range(20):
            executor.submit(int).result(PATIENCE)
            until(lambda: pool_of(executor).idle)
        assert len(pool_of(executor).workers) == 1


def test_blocking_jobs_fan_out_to_every_worker() -> None:
    everybody = threading.Barrier(16, timeout=PATIENCE)
    with bridge.ThreadExecutor(16) as executor:
        for future in [executor.submit(everybody.wait) for _ in range(16)]:
            future.result(PATIENCE)
        assert len(pool_of(executor).workers) == 16


def test_idle_workers_are_woken_for_a_fan_out_too() -> None:
    with bridge.ThreadExecutor(8) as executor:
        for _ in range(5):
            everybody = threading.Barrier(8, timeout=PATIENCE)
            for future in [executor.submit(everybody.wait) for _ in range(8)]:
                future.result(PATIENCE)
            until(lambda: len(pool_of(executor).idle) == 8)
        assert len(pool_of(executor).workers) == 8


def test_the_worker_that_became_idle_last_is_taken_first(new_gate: type[Gate]) -> None:
    with bridge.ThreadExecutor(3) as executor:
        gates = [new_gate() for _ in range(3)]
        threads = []

        def wait(gate: Gate) -> int:
            gate.wait()
            return threading.get_ident()

        futures = [executor.submit(wait, gate) for gate in gates]
        until(lambda: executor.statistics().running == 3)
        for rested, number in enumerate((1, 2, 0), 1):
            gates[number].open()
            threads.append(futures[number].result(PATIENCE))
            until(lambda rested=rested: len(pool_of(executor).idle) == rested)
        for _ in range(5):
            assert executor.submit(threading.get_ident).result(PATIENCE) == threads[-1]
            until(lambda: len(pool_of(executor).idle) == 3)


def test_no_wake_up_is_lost_between_many_submitters_and_workers_that_come_and_go(quick_switches: None) -> None:
    with bridge.ThreadExecutor(3, idle_timeout=0.0005) as executor:
        counts = [0] * 6

        def submitter(number: int) -> None:
            rng = random.Random(number)
            for _ in range(150):
                burst = [executor.submit(int, "1") for _ in range(rng.choice((1, 1, 1, 2, 5)))]
                counts[number] += sum(future.result(PATIENCE) for future in burst)
                if rng.random() < 0.1:
                    time.sleep(rng.random() * 0.002)  # long enough for workers to be just about to leave
                counts[number] -= len(burst)

        threads = [threading.Thread(target=submitter, args=(number,)) for number in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(6 * PATIENCE)
            assert not thread.is_alive()
        assert counts == [0] * 6
        assert len(pool_of(executor).workers) <= 3


def test_closing_in_the_middle_of_a_flood_runs_what_was_accepted_and_refuses_the_rest(quick_switches: None) -> None:
    for seed in range(20):
        executor = bridge.ThreadExecutor(2, idle_timeout=0.0005)
        accepted: list[Any] = []
        refused = threading.Event()

        def flood(executor: bridge.ThreadExecutor = executor, accepted: list[Any] = accepted) -> None:
            try:
                while True:
                    accepted.append(executor.submit(int))
            except bridge.ExecutorClosed:
                refused.set()  # noqa: B023 - joined below

        thread = threading.Thread(target=flood)
        thread.start()
        until(lambda accepted=accepted, seed=seed: len(accepted) > 3 * seed)
        executor.shutdown(wait=False)
        within(thread)
        assert refused.is_set()
        assert [future.result(PATIENCE) for future in accepted] == [0] * len(accepted)


# -- threads -------------------------------------------------------------------------------------------------------------


def test_threads_carry_the_executors_name_and_are_daemons() -> None:
    with bridge.ThreadExecutor(1, name="files") as executor:
        thread = executor.submit(threading.current_thread).result(PATIENCE)
        assert thread.name == "files-1"
        assert thread.daemon


def test_a_thread_leaves_after_the_idle_timeout_and_another_comes_when_needed() -> None:
    with bridge.ThreadExecutor(1, idle_timeout=0.01) as executor:
        first = executor.submit(threading.current_thread).result(PATIENCE)
        within(first)
        assert not pool_of(executor).workers
        second = executor.submit(threading.current_thread).result(PATIENCE)
        assert second.name != first.name


def test_an_idle_timeout_of_zero_serves_every_job() -> None:
    with bridge.ThreadExecutor(2, idle_timeout=0) as executor:
        for number in range(200):
            assert executor.submit(int, str(number)).result(PATIENCE) == number
        until(lambda: not pool_of(executor).workers)


def test_an_endless_idle_timeout_keeps_the_thread() -> None:
    with bridge.ThreadExecutor(1, idle_timeout=math.inf) as executor:
        first = executor.submit(threading.get_ident).result(PATIENCE)
        until(lambda: pool_of(executor).idle)
        time.sleep(0.01)  # a thread that cannot rest has died by now
        assert executor.submit(threading.get_ident).result(PATIENCE) == first


def test_a_thread_that_cannot_be_started_fails_the_submission_and_only_that(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with bridge.ThreadExecutor(1) as executor:
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", fail)
            with pytest.raises(RuntimeError, match="can't start new thread"):
                executor.submit(print, "never")
        assert executor.submit(int).result(PATIENCE) == 0
        assert executor.statistics().queued == 0


def test_a_second_thread_that_cannot_be_started_only_means_waiting(monkeypatch: pytest.MonkeyPatch, gate: Gate) -> None:
    def fail(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with bridge.ThreadExecutor(2) as executor:
        first = executor.submit(gate.wait)
        until(lambda: executor.statistics().running == 1)
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", fail)
            second = executor.submit(int)
            assert len(pool_of(executor).workers) == 1
        gate.open()
        first.result(PATIENCE)
        assert second.result(PATIENCE) == 0


# -- Ctrl-C at the worst moment ------------------------------------------------------------------------------------------


class InterruptedOnce(list[Any]):
    """An idle list whose next `pop` is followed by Ctrl-C, after it has taken somebody off."""

    armed = True

    def pop(self, *args: Any) -> Any:
        worker = super().pop(*args)
        if self.armed:
            self.armed = False
            raise KeyboardInterrupt
        return worker


class InterruptedGate:
    """A worker's gate whose first opening is prevented by Ctrl-C."""

    def __init__(self, gate: Any):
        self._gate = gate
        self.acquire = gate.acquire
        self.armed = True

    def release(self) -> None:
        if self.armed:
            self.armed = False
            raise KeyboardInterrupt
        self._gate.release()


@contextmanager
def interruptible(workers: int) -> Iterator[bridge.ThreadExecutor]:
    """An executor in which nobody is left asleep even if the test fails, so that it fails and does not hang."""
    with bridge.ThreadExecutor(workers) as executor:
        resting = []
        try:
            yield executor
        except BaseException:
            resting = list(pool_of(executor).workers)
            raise
        finally:
            for worker in resting:
                open_gate(worker)


def still_serves(executor: bridge.ThreadExecutor) -> None:
    """Every slot can be used, none twice."""
    workers = executor.max_workers
    everybody = threading.Barrier(workers, timeout=PATIENCE)
    for future in [executor.submit(everybody.wait) for _ in range(workers)]:
        future.result(PATIENCE)
    gate, begun = Gate(), []

    def one() -> None:
        begun.append(1)
        gate.wait()

    futures = [executor.submit(one) for _ in range(2 * workers)]
    until(lambda: len(begun) >= workers)
    time.sleep(0.005)  # room for a surplus worker to show itself
    assert len(begun) == workers
    gate.open()
    for future in futures:
        future.result(PATIENCE)


@pytest.mark.parametrize("workers", [1, 3])
def test_ctrl_c_between_choosing_a_worker_and_waking_it_leaves_nobody_asleep(workers: int) -> None:
    with interruptible(workers) as executor:
        executor.submit(int).result(PATIENCE)
        pool = pool_of(executor)
        until(lambda: pool.idle)
        pool.idle = InterruptedOnce(pool.idle)
        ran = Gate()
        with pytest.raises(KeyboardInterrupt):  # not by `executor.submit`, which takes the job back
            pool.submit_job(FutureJob(ran.open, (), {}, None, executor.withdraw))
        ran.wait()  # it was accepted before the interruption, and nobody else comes to wake the worker
        assert pool.alarmed
        still_serves(executor)


@pytest.mark.parametrize("workers", [1, 3])
def test_ctrl_c_while_the_gate_is_being_opened_leaves_nobody_asleep(workers: int) -> None:
    with interruptible(workers) as executor:
        executor.submit(int).result(PATIENCE)
        pool = pool_of(executor)
        until(lambda: pool.idle)
        (worker,) = pool.workers
        worker.gate = InterruptedGate(worker.gate)  # type: ignore[assignment]
        ran = Gate()
        with pytest.raises(KeyboardInterrupt):
            pool.submit_job(FutureJob(ran.open, (), {}, None, executor.withdraw))
        ran.wait()
        still_serves(executor)


@pytest.mark.parametrize("started", [False, True])
@pytest.mark.parametrize("workers", [1, 3])
def test_ctrl_c_while_a_thread_is_being_started_costs_no_slot(
    monkeypatch: pytest.MonkeyPatch, workers: int, started: bool
) -> None:
    start = threading.Thread.start

    def interrupted(thread: threading.Thread) -> None:
        if started:
            start(thread)
        raise KeyboardInterrupt

    with interruptible(workers) as executor:
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", interrupted)
            with pytest.raises(KeyboardInterrupt):
                executor.submit(int)
        still_serves(executor)


def test_an_alarm_while_all_is_well_changes_nothing() -> None:
    with bridge.ThreadExecutor(3) as executor:
        for _ in range(10):
            pool_of(executor)._alarm()
            still_serves(executor)

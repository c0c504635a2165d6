"""Work that waits for a worker for too long (BRG401): when it is told, what with, and when nobody looks at all."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any

import process_targets as targets
import pytest

import bridge
from bridge.diagnostics.events import Event
from bridge.diagnostics.punctuality import Tick
from bridge.diagnostics.watchdog import Watcher, watchdog
from bridge.executors.process.crew_watch import CrewWatch
from bridge.threads import queue_watch
from bridge.threads.pool_watch import PoolWatch
from tests.conftest import PATIENCE, Gate, events_of

needs_processes = pytest.mark.skipif(sys.platform == "win32", reason="ProcessExecutor needs POSIX")


@pytest.fixture
def events() -> Iterator[list[Event]]:
    """What was reported."""
    with events_of("BRG401") as events:
        yield events


class PlayedClock:
    """`time.perf_counter`, as the test says."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> PlayedClock:
    clock = PlayedClock()
    for module in ("job", "worker", "queue_watch", "pool_watch"):
        monkeypatch.setattr(f"bridge.threads.{module}.perf_counter", clock)
    return clock


class PlayedWatchdog:
    """Notes who is watched; looks at nobody."""

    def __init__(self) -> None:
        self.watched: list[Watcher] = []

    def watch(self, watcher: Watcher) -> None:
        self.watched.append(watcher)

    def unwatch(self, watcher: Watcher) -> None:
        self.watched.remove(watcher)


@pytest.fixture
def dog(monkeypatch: pytest.MonkeyPatch) -> PlayedWatchdog:
    dog = PlayedWatchdog()
    monkeypatch.setattr(queue_watch, "watchdog", dog)
    return dog


class Played:
    """A pool whose only worker is busy until the gate opens, and whose queue is looked at when the test says so."""

    def __init__(self, executor: bridge.ThreadExecutor, clock: PlayedClock, dog: PlayedWatchdog):
        self.executor = executor
        self.pool = executor._pool
        self.clock = clock
        self.dog = dog

    @property
    def watch(self) -> PoolWatch:
        (watch,) = self.dog.watched
        assert isinstance(watch, PoolWatch)
        return watch

    def later(self, seconds: float, late: float = 0.0, kept_out: float | None = 0.0) -> float | None:
        """The watchdog looks after so many seconds; how long until it wants to look again."""
        self.clock.now += seconds
        return self.watch.look(Tick(self.clock.now, late, kept_out))


@pytest.fixture
def played(gate: Gate, clock: PlayedClock, dog: PlayedWatchdog) -> Iterator[Played]:
    begun = threading.Event()

    def hold() -> None:
        begun.set()
        gate.wait()

    with bridge.ThreadExecutor(1, name="db") as executor:
        executor.submit(hold)
        assert begun.wait(PATIENCE)
        yield Played(executor, clock, dog)
        gate.open()


def query() -> None:
    """What waits."""


def wait_for(condition: Callable[[], bool]) -> None:
    """In a thread, for what the watchdog's thread does."""
    ticking = threading.Event()
    for _ in range(int(PATIENCE / 0.01)):
        if condition():
            return
        ticking.wait(0.01)
    raise AssertionError("it did not come")


# -- when --------------------------------------------------------------------------------------------------------------


def test_told_at_the_limit_and_each_time_it_has_become_twice_as_long(played: Played, events: list[Event]) -> None:
    played.executor.submit(query)
    assert played.later(0.25) == pytest.approx(0.75)
    assert played.later(0.5) == pytest.approx(0.25)
    assert events == []
    told = []
    for _ in range(8):
        played.later(0.5)
        told.append(len(events))
    assert told == [1, 1, 2, 2, 2, 2, 3, 3]  # at 1.25, 2.25 and 4.25 s
    assert [event.attributes["bridge.duration"] for event in events] == pytest.approx([1.25, 2.25, 4.25])


def test_a_queue_that_moves_is_not_told_however_long_it_is(
    played: Played, events: list[Event], clock: PlayedClock
) -> None:
    for _ in range(100):
        played.executor.submit(query)
    for _ in range(20):
        played.later(0.9)
        played.pool.queue.popleft().claim()  # a worker has taken all that was there
        played.pool.queue.clear()
        played.executor.submit(query)
    assert events == []


def test_a_new_wait_is_told_anew(played: Played, events: list[Event]) -> None:
    for _ in range(2):
        first = played.executor.submit(query)
        played.later(3.0)
        played.executor.submit(query)
        assert first.cancel()
        assert played.later(0.0) == pytest.approx(1.0)
        played.pool.queue.clear()
    assert len(events) == 2


def test_time_for_which_the_process_was_stopped_is_not_counted(played: Played, events: list[Event]) -> None:
    played.executor.submit(query)
    assert played.later(5.9, late=5.4) == pytest.approx(0.5)
    assert played.later(5.4, late=5.3, kept_out=None) == pytest.approx(0.4)
    assert events == []
    played.later(0.5)
    assert len(events) == 1


def test_time_for_which_a_function_held_the_gil_is(played: Played, events: list[Event]) -> None:
    played.executor.submit(query)
    played.later(5.0, late=4.0, kept_out=4.0)
    assert len(events) == 1


def test_a_stop_before_it_was_submitted_is_no_excuse(played: Played, events: list[Event]) -> None:
    earlier = played.executor.submit(query)
    played.later(5.5, late=5.4)
    played.clock.now += 0.1
    played.executor.submit(query)
    assert earlier.cancel()
    played.later(1.0)
    assert len(events) == 1


# -- a queue that moves ------------------------------------------------------------------------------------------------


class Floor:
    """Workers, threads or processes, that do what the test says, and a queue that was filled at once."""

    def __init__(self, kind: str, clock: PlayedClock, workers: int):
        self.clock = clock
        self.kind = kind
        self.waiting = [bridge.threads.job.Job(query, (), {}, None) for _ in range(10_000)]
        self.workers = [
            SimpleNamespace(job=None, has_slot=True, placed=True, lent=False, pid=1, thread=threading.current_thread())
            for _ in range(workers)
        ]
        self.samples: list[tuple[float, float, float]] = []
        shared: dict[str, Any] = {"name": "x", "closing": False, "resting": [], "max_workers": workers}
        if kind == "threads":
            self.pool = SimpleNamespace(
                **shared, queue=self.waiting, workers=self.workers, samples=self.samples, crowded=False
            )
            self.watch: queue_watch.QueueWatch = PoolWatch(Weak(self.pool), 1.0)  # type: ignore[arg-type]
            self.watch._pool = lambda: self.pool  # type: ignore[attr-defined, assignment, return-value]
        else:
            roster = SimpleNamespace(queued=self.waiting, members=self.workers, running=workers, outcomes=self)
            self.pool = SimpleNamespace(**shared, roster=roster)
            self.pool.options = self.pool
            self.watch = CrewWatch(Weak(self.pool), 1.0)  # type: ignore[arg-type]
            self.watch._crew = lambda: self.pool  # type: ignore[attr-defined, assignment, return-value]

    def begin(self, *workers: int) -> None:
        """These end what they run, and begin the next call."""
        for each in workers:
            worker = self.workers[each]
            if worker.job is not None:
                self.samples.append((worker.job.queued_at, worker.job.started_at, self.clock.now))
            worker.job = self.waiting.pop(0)
            worker.job.started_at = self.clock.now

    def lend(self, worker: int) -> None:
        """It waits in a portal call."""
        lending = self.workers[worker]
        lending.has_slot = lending.placed = False
        lending.lent = True

    def looks(self, seconds: float, *workers: int, every: float = 0.1) -> None:
        """Time passes; these workers do short calls, and the watchdog looks when the watch wants it."""
        end, due = self.clock.now + seconds, self.clock.now
        while self.clock.now < end:
            self.begin(*workers)
            if self.clock.now >= due:
                due = self.clock.now + (self.watch.look(Tick(self.clock.now)) or 0.0)
            self.clock.now += every


class Weak:
    """Something that can be referred to weakly, in the place of what cannot."""

    def __init__(self, instead: object):
        self.instead = instead


@pytest.fixture(params=["threads", "processes"])
def floor(
    request: pytest.FixtureRequest, clock: PlayedClock, dog: PlayedWatchdog, monkeypatch: pytest.MonkeyPatch
) -> Callable[[int], Floor]:
    monkeypatch.setattr("bridge.executors.process.crew_watch.perf_counter", clock)
    return lambda workers: Floor(request.param, clock, workers)


@pytest.mark.parametrize("workers", [1, 2, 64])
def test_a_flood_of_short_calls_that_is_worked_off_is_not_told(
    floor: Callable[[int], Floor], events: list[Event], workers: int
) -> None:
    flood = floor(workers)
    flood.looks(10.0, *range(workers))
    assert events == []


def test_nor_are_longer_calls_that_follow_one_another(floor: Callable[[int], Floor], events: list[Event]) -> None:
    flood = floor(1)
    for _ in range(20):
        flood.begin(0)
        flood.looks(0.7, every=0.01)
    assert events == []


def test_one_function_that_keeps_the_only_worker_is_told_at_the_limit(
    floor: Callable[[int], Floor], events: list[Event]
) -> None:
    flood = floor(1)
    flood.begin(0)
    flood.looks(9.0)
    assert [round(float(event.attributes["bridge.duration"])) for event in events] == [1, 2, 4, 8]


def test_after_a_flood_it_is_told_when_it_has_kept_the_worker_for_half_of_the_wait(
    floor: Callable[[int], Floor], events: list[Event]
) -> None:
    flood = floor(1)
    flood.looks(3.0, 0)
    flood.looks(2.5)
    assert events == []
    flood.looks(1.0)
    (event,) = events
    assert event.attributes["bridge.duration"] == pytest.approx(6.0, abs=0.5)


@pytest.mark.parametrize(("stuck", "told"), [(1, False), (2, True), (3, True)])
def test_it_is_told_when_half_of_the_workers_are_stuck(
    floor: Callable[[int], Floor], events: list[Event], stuck: int, told: bool
) -> None:
    flood = floor(4)
    flood.begin(*range(stuck))
    flood.looks(3.0, *range(stuck, 4))
    assert bool(events) is told


def test_a_worker_that_has_lent_its_place_is_not_stuck(floor: Callable[[int], Floor], events: list[Event]) -> None:
    flood = floor(2)
    flood.begin(0)
    flood.lend(0)
    flood.looks(10.0, 1)
    assert events == []


def test_where_all_have_and_nothing_is_begun_it_is_told(floor: Callable[[int], Floor], events: list[Event]) -> None:
    flood = floor(2)
    flood.looks(0.5, 0, 1)
    for worker in range(2):
        flood.lend(worker)
    flood.looks(2.0)
    assert events


def test_a_stop_of_the_process_makes_no_worker_stuck(floor: Callable[[int], Floor], events: list[Event]) -> None:
    flood = floor(1)
    flood.looks(2.0, 0)
    flood.clock.now += 100.0
    flood.watch.look(Tick(flood.clock.now, 100.0, 0.0))
    flood.looks(2.0, 0)
    assert events == []


# -- who ---------------------------------------------------------------------------------------------------------------


def test_calls_of_a_whole_map_may_wait_but_nobody_behind_them(played: Played, events: list[Event]) -> None:
    results = played.executor.map(abs, range(5))
    assert played.later(100.0) == 1.0
    assert events == []
    played.executor.submit(query)
    played.later(1.5)
    (event,) = events
    assert event.attributes["bridge.function"] == f"{__name__}.query"
    assert event.attributes["bridge.queued"] == 6
    results.close()  # type: ignore[attr-defined]  # it is a generator


def test_calls_of_amap_may_wait(played: Played, gate: Gate, events: list[Event]) -> None:
    async def swallow() -> list[int]:
        return [each async for each in played.executor.amap(abs, range(5))]

    with bridge.background_loop() as portal:
        swallowing = portal.run_coroutine_threadsafe(swallow())
        wait_for(lambda: len(played.pool.queue) == 2)  # in flight
        assert played.later(100.0) == 1.0
        gate.open()
        assert swallowing.result(PATIENCE) == list(range(5))
    assert events == []


def test_what_was_cancelled_does_not_wait(played: Played, events: list[Event]) -> None:
    played.executor.submit(query)  # keeps the other one's shell in the queue
    second = played.executor.submit(query)
    assert second.cancel()
    played.later(0.5)
    played.pool.queue.popleft()
    assert played.later(5.0) == 1.0
    assert events == []


def test_with_diagnostics_off_nothing_is_told(
    played: Played, events: list[Event], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BRIDGE_DIAGNOSTICS", "0")
    played.executor.submit(query)
    played.later(5.0)
    assert events == []


def test_a_closed_executor_has_somebody_who_waits_for_all_of_it(
    played: Played, events: list[Event], dog: PlayedWatchdog
) -> None:
    played.executor.submit(query)
    played.executor.shutdown(wait=False)
    assert played.later(5.0) is None
    assert (events, dog.watched, played.pool.resting) == ([], [], [])


# -- what --------------------------------------------------------------------------------------------------------------


def test_it_says_what_keeps_the_workers_busy_and_where_the_waiting_call_comes_from(
    played: Played, events: list[Event]
) -> None:
    played.executor.submit(query)  # the line
    played.later(1.5)
    (event,) = events
    assert event.code == "BRG401"
    assert event.place is not None
    assert event.place.source.endswith("# the line")
    said, _, where = event.headline.partition(", sent at ")
    assert said == f"the only worker of 'db' is busy: {__name__}.query has waited for 1.5 s, in a queue of 1 call"
    assert where.startswith(f"{__file__}:")
    assert event.advice == (
        "bridge.map(query, ..., in_flight=1) for fewer calls at a time, or bridge.ThreadExecutor(2) for more workers"
    )
    assert event.attributes == {
        "bridge.executor.name": "db",
        "bridge.function": f"{__name__}.query",
        "bridge.duration": 1.5,
        "bridge.queued": 1,
        "bridge.workers": 1,
    }
    title, line = event.details
    assert title == "what keeps the workers busy:"
    assert line.startswith(f"  1 x {__name__}.played.<locals>.hold for 1.5 s, at ")
    assert "gate.wait()" in line or "self._event.wait(" in line


def test_occupants_that_do_the_same_are_one_line_and_a_worker_that_has_lent_its_slot_is_none(
    clock: PlayedClock, dog: PlayedWatchdog, events: list[Event], gate: Gate
) -> None:
    on_the_loop, both = threading.Event(), threading.Barrier(3, timeout=PATIENCE)

    def hold() -> None:
        both.wait()
        gate.wait()

    async def stay() -> None:
        on_the_loop.set()
        await gate.reached()

    def ask() -> None:
        portal.call(stay)

    with bridge.background_loop() as portal, bridge.ThreadExecutor(2, name="db") as executor:
        executor.submit(ask)
        assert on_the_loop.wait(PATIENCE)
        for _ in range(2):
            executor.submit(hold)
        both.wait()
        executor.submit(query)
        clock.now += 2.0
        (watch,) = dog.watched
        watch.look(Tick(clock.now))
        gate.open()
    (event,) = events
    assert event.headline.startswith("all 2 workers of 'db' are busy: ")
    (line,) = event.details[1:]
    assert line.startswith(f"  2 x {hold.__module__}.{hold.__qualname__} for up to 2.0 s, at ")


# -- nobody looks where nothing waits ----------------------------------------------------------------------------------


def test_a_pool_is_watched_from_the_first_job_that_waits_until_none_does(played: Played, dog: PlayedWatchdog) -> None:
    assert dog.watched == []
    played.executor.submit(query)
    watch = played.watch
    played.executor.submit(query)
    assert dog.watched == [watch]
    assert played.pool.resting == []
    played.pool.queue.clear()
    assert watch.look(Tick(played.clock.now)) is None
    assert dog.watched == []
    assert played.pool.resting == [watch]
    played.executor.submit(query)
    assert dog.watched == [watch]


def test_what_is_queued_while_the_watch_lies_down_is_not_missed(
    played: Played, dog: PlayedWatchdog, monkeypatch: pytest.MonkeyPatch
) -> None:
    played.executor.submit(query)
    watch = played.watch
    played.pool.queue.clear()
    unwatch = dog.unwatch

    def and_submit(watcher: Watcher) -> None:
        unwatch(watcher)
        played.executor.submit(query)  # before it lies where a submitter looks

    monkeypatch.setattr(dog, "unwatch", and_submit)
    watch.look(Tick(played.clock.now))
    assert dog.watched == [watch]


@pytest.mark.parametrize("no_limit", [None, float("inf")])
def test_without_a_limit_nobody_is_called(no_limit: float | None, dog: PlayedWatchdog, gate: Gate) -> None:
    with bridge.ThreadExecutor(1, queue_limit=no_limit) as executor:
        executor.submit(gate.wait)
        executor.submit(query)
        gate.open()
    assert dog.watched == []


def test_a_pool_that_is_gone_is_not_kept(played: Played, dog: PlayedWatchdog) -> None:
    class Gone:
        pass

    watch = PoolWatch(Gone(), 1.0)  # type: ignore[arg-type]
    dog.watched.append(watch)
    assert watch.look(Tick(0.0)) is None
    assert dog.watched == []


def test_a_forked_child_has_a_watch_of_its_own(played: Played) -> None:
    with bridge.ThreadExecutor(1, queue_limit=5.0) as executor:
        pool = executor._pool
        pool.resting.clear()  # it is watched in the parent
        pool.after_fork_in_child()
        (watch,) = pool.resting
        assert watch._limit == 5.0


# -- the limit ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [bridge.ThreadExecutor, pytest.param(bridge.ProcessExecutor, marks=needs_processes)])
def test_what_is_no_limit_is_refused(kind: Any) -> None:
    with pytest.raises(TypeError, match=r"queue_limit is in seconds, not '1 s': write queue_limit=5\.0, or None"):
        kind(1, queue_limit="1 s")
    with pytest.raises(TypeError, match="not True"):
        kind(1, queue_limit=True)
    for nonsense in (0, -1.0, float("nan")):
        with pytest.raises(ValueError, match="or None for no limit"):
            kind(1, queue_limit=nonsense)


# -- processes ---------------------------------------------------------------------------------------------------------


class PlayedRoster:
    def __init__(self) -> None:
        self.queued: list[Any] = []
        self.running = 0
        self.members: set[Any] = set()
        self.outcomes = self
        self.samples: list[tuple[float, float, float]] = []


class PlayedCrew:
    def __init__(self) -> None:
        self.roster = PlayedRoster()
        self.closing = False
        self.resting: list[Any] = []
        self.name = "render"
        self.options = self
        self.max_workers = 1


def test_time_in_which_processes_come_up_is_not_counted(
    clock: PlayedClock, dog: PlayedWatchdog, events: list[Event], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bridge.executors.process.crew_watch.perf_counter", clock)
    crew = PlayedCrew()
    watch = CrewWatch(crew, 1.0)  # type: ignore[arg-type]
    crew.roster.queued.append(bridge.threads.job.Job(query, (), {}, None))
    clock.now += 50.0
    assert watch.look(Tick(clock.now)) == pytest.approx(1.0)
    crew.roster.running = 1
    assert watch.look(Tick(clock.now)) == pytest.approx(1.0)
    clock.now += 0.9
    assert watch.look(Tick(clock.now)) == pytest.approx(0.1)
    assert events == []
    clock.now += 0.2
    watch.look(Tick(clock.now))
    (event,) = events
    assert event.attributes["bridge.duration"] == pytest.approx(1.1)
    crew.roster.queued.clear()
    dog.watched.append(watch)
    assert watch.look(Tick(clock.now)) is None
    assert crew.resting == [watch]


@needs_processes
def test_a_process_that_is_busy_is_told_with_its_function_and_the_line_that_sent_it(
    events: list[Event], tmp_path: Any
) -> None:
    flag = tmp_path / "go on"
    with bridge.ProcessExecutor(1, name="render", queue_limit=0.1) as executor:
        futures: list[Future[Any]] = [executor.submit(targets.hold_until_exists, str(flag))]  # the busy line
        wait_for(futures[0].running)
        futures.append(executor.submit(targets.echo, 1))  # the waiting line
        wait_for(lambda: bool(events))
        flag.touch()
        for future in futures:
            future.result(PATIENCE)
        wait_for(lambda: bool(executor._crew.resting))
    event = events[0]
    assert event.code == "BRG401"
    assert event.place is not None
    assert event.place.source.endswith("# the waiting line")
    assert event.headline.startswith("the only worker of 'render' is busy: ")
    (line,) = event.details[1:]
    assert "hold_until_exists for " in line
    assert " in process " in line
    assert line.endswith("# the busy line")
    assert "bridge.ProcessExecutor(2)" in event.advice


def test_the_watchdog_itself_looks_and_lets_go(events: list[Event], gate: Gate) -> None:
    with bridge.ThreadExecutor(1, queue_limit=0.05) as executor:
        executor.submit(gate.wait)
        executor.submit(query)
        wait_for(lambda: bool(events))
        assert executor._pool.resting == []
        gate.open()
        wait_for(lambda: bool(executor._pool.resting))
        assert executor._pool.resting[0] not in watchdog._watchers
    assert events[0].code == "BRG401"

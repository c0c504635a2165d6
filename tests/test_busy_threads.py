"""Functions in threads that keep the GIL busy (BRG402): told from clocks that are made up, where somebody suffers."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

import bridge
from bridge.diagnostics import clocks
from bridge.diagnostics.advice import in_a_process
from bridge.diagnostics.clocks import Schedule, Scheduler
from bridge.diagnostics.events import Event
from bridge.diagnostics.places import Place
from bridge.diagnostics.punctuality import Tick
from bridge.loop.watch import busy_threads
from bridge.loop.watch.busy_threads import BusyThreads
from bridge.loop.watch.readings import Reading
from bridge.threads.job import Job
from tests.conftest import PATIENCE, events_of

linux = pytest.mark.skipif(sys.platform != "linux", reason="reads Linux's clocks")

#: Seconds between looks.
STEP = 0.05


@pytest.fixture
def events() -> Iterator[list[Event]]:
    """What was reported."""
    with events_of("BRG402") as events:
        yield events


def count() -> None:
    """What computes."""


class Internal(Job):
    """What bridge does on its own account."""

    internal = True


class PlayedWorker:
    """A worker's thread; `runs` and `waits` are its shares of a core, and of the time it gets none."""

    def __init__(self, ident: int, runs: float = 0.0, waits: float = 0.0):
        self.pool = SimpleNamespace(name="bridge-thread")
        self.thread = SimpleNamespace(ident=ident, native_id=ident, name=f"bridge-thread-{ident}")
        self.job: Job | None = None
        self.runs = runs
        self.waits = waits
        self.closed = 0
        self.begin()

    def begin(self) -> None:
        self.job = Job(count, (), {}, None)
        self.job.started_at = self.job.queued_at


class Scene:
    """A second or so in the life of a loop and of the threads beside it; shares are of one core."""

    def __init__(self) -> None:
        self.workers: dict[int, PlayedWorker] = {}
        self.plain = self.loop = 0.0  # what a thread that is no worker runs, and the loop
        self.kept_out = 0.005  # at each look, in seconds
        self.called = False
        self.slices_each_second = 100
        self.now = 1000.0
        self.busy = BusyThreads()
        self._last = self._read()

    def worker(self, ident: int = 1, **shares: float) -> PlayedWorker:
        self.workers[ident] = worker = PlayedWorker(ident, **shares)
        return worker

    def _read(self) -> Reading:
        spent = self.now - 1000.0
        others = {ident: worker.runs * spent for ident, worker in self.workers.items()}
        process = sum(others.values()) + (self.plain + self.loop) * spent
        slices = int(self.slices_each_second * spent)
        return Reading(self.now, self.loop * spent, process, 0.0, slices, 0.0, {**others, 99: self.plain * spent})

    def looks(self, seconds: float, step: float = STEP) -> None:
        for _ in range(round(seconds / step)):
            self.now += step
            before, self._last = self._last, self._read()
            self.busy.look(Tick(self.now, self.kept_out, self.kept_out, called=self.called), before, self._last)


@pytest.fixture
def scene(monkeypatch: pytest.MonkeyPatch) -> Scene:
    scene = Scene()

    class PlayedScheduler:
        def __init__(self, native_id: int):
            self._worker = scene.workers[native_id]

        def schedule(self) -> Schedule:
            return Schedule(self._worker.waits * (scene.now - 1000.0), 0)

        def close(self) -> None:
            self._worker.closed += 1

    class Pool:
        @property
        def workers(self) -> list[PlayedWorker]:
            return list(scene.workers.values())

    monkeypatch.setattr(busy_threads, "pools", [Pool()])
    monkeypatch.setattr(busy_threads, "Scheduler", PlayedScheduler)
    return scene


# -- what is told ------------------------------------------------------------------------------------------------------


def test_told_once_for_each_call_after_half_a_second(scene: Scene, events: list[Event]) -> None:
    worker = scene.worker(runs=0.97)
    scene.looks(0.5)
    assert events == []
    scene.looks(0.1)
    (event,) = events
    assert event.code == "BRG402"
    assert event.headline == (
        f"{__name__}.count is on the CPU for 97 % of its time, in thread 'bridge-thread-1', "
        f"and the loop has to wait for the GIL each time it wakes up"
    )
    assert event.advice == "await bridge.to_process(count, ...)"
    assert event.attributes == {
        "bridge.function": f"{__name__}.count",
        "bridge.cpu.share": pytest.approx(0.97),
        "bridge.duration": pytest.approx(0.5, abs=1.1 * STEP),
        "bridge.executor.name": "bridge-thread",
        "thread.name": "bridge-thread-1",
    }
    scene.looks(2.0)
    assert len(events) == 1
    worker.begin()
    scene.looks(1.2)
    assert len(events) == 2


def test_a_generator_of_which_no_line_is_known_is_to_be_streamed_from_a_process(
    scene: Scene, events: list[Event]
) -> None:
    def numbers() -> Iterator[int]:
        yield 1

    worker = scene.worker(runs=0.97)
    worker.job.fn = numbers  # type: ignore[union-attr]
    scene.looks(0.6)
    assert [event.advice for event in events] == ['bridge.stream(numbers, ..., to="process")']


def test_several_that_share_the_gil_are_told_together(scene: Scene, events: list[Event]) -> None:
    scene.worker(1, runs=0.4)
    scene.worker(2, runs=0.55)
    scene.looks(0.6)
    (event,) = events
    assert event.attributes["thread.name"] == "bridge-thread-2"
    assert event.details[0] == f"so is {__name__}.count in thread 'bridge-thread-1', 40 %"


def test_time_for_which_a_thread_got_no_core_is_not_its_own(scene: Scene, events: list[Event]) -> None:
    scene.worker(runs=0.45, waits=0.5)
    scene.looks(0.6)
    (event,) = events
    assert event.attributes["bridge.cpu.share"] == pytest.approx(0.9)


def test_what_was_seen_in_vain_before_does_not_matter(scene: Scene, events: list[Event]) -> None:
    scene.worker(runs=0.97)
    scene.kept_out = 0.0
    scene.looks(5.0)
    scene.kept_out = 0.005
    scene.looks(1.2)
    assert len(events) == 1


# -- what is not -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("worker", "around"),
    [
        pytest.param({"runs": 1.0}, {"kept_out": 0.0}, id="c-code-without-the-gil"),
        pytest.param({"runs": 1.0}, {"kept_out": 0.0025}, id="hardly-ever-in-the-way"),
        pytest.param({"runs": 0.97}, {"slices_each_second": 0}, id="the-loop-sleeps"),
        pytest.param({"runs": 0.97}, {"slices_each_second": 10}, id="the-loop-hardly-wakes"),
        pytest.param({"runs": 0.7}, {}, id="waits-for-a-third"),
        pytest.param({"runs": 0.1}, {}, id="waits-nearly-always"),
        pytest.param({"runs": 1.0}, {"loop": 0.4}, id="the-loop-itself-has-the-gil"),
        pytest.param({"runs": 1.0}, {"plain": 1.0}, id="another-thread-may-have-it"),
        pytest.param({"runs": 0.97}, {"called": True}, id="called-by-who-has-the-gil"),
    ],
)
def test_innocent(scene: Scene, events: list[Event], worker: dict[str, float], around: dict[str, Any]) -> None:
    scene.worker(**worker)
    for name, value in around.items():
        setattr(scene, name, value)
    scene.looks(3.0)
    assert events == []


def test_what_bridge_does_on_its_own_account_is_nothing_the_program_could_send_elsewhere(
    scene: Scene, events: list[Event]
) -> None:
    worker = scene.worker(runs=0.97)
    worker.job = Internal(count, (), {}, None)
    scene.looks(3.0)
    assert events == []


def test_two_that_run_at_the_same_time_do_so_without_the_gil(scene: Scene, events: list[Event]) -> None:
    scene.worker(1, runs=0.9)
    scene.worker(2, runs=0.9)
    scene.looks(3.0)
    assert events == []


def test_two_that_ask_for_a_core_at_the_same_time_do_so_without_the_gil(scene: Scene, events: list[Event]) -> None:
    scene.worker(1, runs=0.5, waits=0.5)
    scene.worker(2, runs=0.5, waits=0.5)
    scene.looks(3.0)
    assert events == []


def test_many_short_calls_are_not_one_long_one(scene: Scene, events: list[Event]) -> None:
    worker = scene.worker(runs=0.97)
    for _ in range(10):
        scene.looks(0.3)
        worker.begin()
    assert events == []


def test_what_others_did_in_many_short_calls_is_not_added_to_a_long_one(scene: Scene, events: list[Event]) -> None:
    scene.worker(1, runs=0.5)
    other = scene.worker(2, runs=0.45)
    for _ in range(10):
        scene.looks(0.3)
        other.begin()
    assert events == []


def test_few_looks_prove_nothing(scene: Scene, events: list[Event]) -> None:
    scene.worker(runs=0.97)
    scene.looks(1.0, step=0.25)
    assert events == []
    scene.looks(0.5, step=0.25)
    assert len(events) == 1


# -- what it costs -----------------------------------------------------------------------------------------------------


def test_the_loop_is_looked_at_only_while_a_worker_runs_for_long(scene: Scene) -> None:
    scene.plain = 1.0
    worker = scene.worker(runs=0.1)
    scene.looks(0.3)
    assert not scene.busy.follows
    worker.runs = 0.97
    scene.looks(2 * STEP)
    assert scene.busy.follows
    worker.job = None
    scene.looks(STEP)
    assert not scene.busy.follows
    assert worker.closed


def test_a_loop_that_sleeps_all_the_while_is_let_go_of_after_half_a_second(scene: Scene) -> None:
    scene.slices_each_second = 0
    worker = scene.worker(runs=0.97)
    scene.looks(0.55)
    assert scene.busy.follows
    scene.looks(STEP)
    assert not scene.busy.follows
    assert worker.closed


def test_whoever_is_forgotten_lets_go_of_the_clocks(scene: Scene) -> None:
    worker = scene.worker(runs=0.97)
    scene.looks(2 * STEP)
    scene.busy.forget()
    assert worker.closed
    closed = worker.closed
    scene.looks(2 * STEP)
    scene.busy = BusyThreads()
    assert worker.closed > closed


# -- the clocks of another thread --------------------------------------------------------------------------------------


@linux
def test_the_schedule_of_any_thread_can_be_read(new_gate: Any) -> None:
    ready, go_on = new_gate(), new_gate()
    natives: list[int] = []

    def stay() -> None:
        natives.append(threading.get_native_id())
        ready.open()
        go_on.wait()

    thread = threading.Thread(target=stay)
    thread.start()
    ready.wait()
    scheduler = Scheduler(natives[0])
    schedule = scheduler.schedule()
    assert schedule is not None
    with open(f"/proc/self/task/{natives[0]}/schedstat") as file:
        assert schedule.slices <= int(file.read().split()[2])
    go_on.open()
    thread.join(PATIENCE)
    scheduler.close()
    assert scheduler.schedule() is None
    assert Scheduler(2**30).schedule() is None, "no such thread"
    assert clocks.clock_of(None) is None


# -- what to write instead ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "advice"),
    [
        ("x = await bridge.to_thread(count, 3, b=4)", "await bridge.to_process(count, 3, b=4)"),
        ("task = create_task(asyncio.to_thread(count, 3))", "await bridge.to_process(count, 3)"),
        ("await loop.run_in_executor(None, count, 3)", "await bridge.to_process(count, 3)"),
        ("future = executor.submit(self.model.count, 3)", "await bridge.to_process(self.model.count, 3)"),
        ("if await executor.run(count):", "await bridge.to_process(count)"),
        ("async for each in bridge.stream(count, 3, in_flight=4):", 'bridge.stream(count, 3, in_flight=4, to="process")'),
        ("async for each in bridge.stream(count, 3, to='db'):", 'bridge.stream(count, 3, to="process")'),
        ("async for each in executor.stream(count, 3):", 'bridge.stream(count, 3, to="process")'),
        ("async for each in bridge.map(count, [3]):", 'bridge.map(count, [3], to="process")'),
        ("await bridge.to_thread(count, 3, to=4)", "await bridge.to_process(count, 3, to=4)"),
        ("x = list(map(count, [3]))", None),
        ("await bridge.to_thread(lambda: count(3))", None),
        ("await bridge.to_thread(count, lambda: 3)", None),
        ("await counted(3)", None),
    ],
)
def test_the_line_that_sends_it_to_a_thread_is_made_one_that_sends_it_to_a_process(
    line: str, advice: str | None, tmp_path: Any
) -> None:
    program = tmp_path / "program.py"
    program.write_text(f"def f():\n    {line}\n")
    assert in_a_process(Place(str(program), 2, "f"), "count") == advice


def test_a_long_call_is_shortened(tmp_path: Any) -> None:
    program = tmp_path / "program.py"
    program.write_text(f"to_thread(\n    count,\n    {'x' * 100},\n)\n")
    assert in_a_process(Place(str(program), 1, "f"), "count") == "await bridge.to_process(count, ...)"
    other = tmp_path / "other.py"
    other.write_text(f"bridge.stream(\n    count,\n    {'x' * 100},\n)\n")
    assert in_a_process(Place(str(other), 1, "f"), "count") == 'bridge.stream(count, ..., to="process")'


# -- on a loop ---------------------------------------------------------------------------------------------------------


@linux
def test_the_line_that_made_the_call_is_named_where_no_task_stands_at_one(events: list[Event]) -> None:
    from bridge.threads.pool import pools
    from bridge.threads.site import place_of_job

    begun, gate = threading.Event(), threading.Event()

    def hold() -> None:
        begun.set()
        gate.wait(PATIENCE)

    async def main() -> Place | None:
        import asyncio

        task = asyncio.create_task(bridge.to_thread(hold))  # the line
        while not begun.is_set():
            await asyncio.sleep(0.001)
        jobs = [worker.job for pool in list(pools) for worker in list(pool.workers) if worker.job is not None]
        (job,) = [job for job in jobs if job.fn is hold]
        place = place_of_job(job)
        gate.set()
        await task
        return place

    place = bridge.run(main, diagnostics=True)
    assert place is not None
    assert place.file == __file__
    assert place.source.endswith("# the line")

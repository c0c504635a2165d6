"""From when until when loops are watched, whatever loop it is; and that a blocked one is reported while it is blocked.

Where a report is expected, the loop is held until it has come, so that nothing depends on how long that takes.
"""

from __future__ import annotations

import asyncio
import gc
import glob
import logging
import os
import random
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from functools import partial, update_wrapper
from time import monotonic
from types import SimpleNamespace
from typing import Any

import anyio
import pytest
import trio

import bridge
from bridge.diagnostics import switch
from bridge.diagnostics.events import Event
from bridge.diagnostics.switch import VARIABLE
from bridge.diagnostics.watchdog import watchdog
from bridge.errors import WrongThread
from bridge.loop.watch import foreign_loops
from bridge.loop.watch.foreign_loops import watch_here
from bridge.loop.watch.garbage import collections
from bridge.loop.watch.watcher import LoopWatcher
from tests.conftest import LOOPS, PATIENCE, within

#: Seconds that are soon over, and longer than anything here takes that is not held.
SOON = 0.02


class Reports:
    """What is reported. A loop can be held until it is reported itself."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self._came = threading.Condition()

    def __call__(self, event: Event) -> None:
        with self._came:
            self.events.append(event)
            self._came.notify_all()

    def hold(self) -> Event:
        """Return when a loop is reported as blocked, which is this one."""
        return self.hold_as(None)

    def hold_as(self, task: str | None) -> Event:
        """Of the task of that name."""
        with self._came:
            seen = len(self.events)

            def came() -> Event | None:
                mine = (e for e in self.events[seen:] if task in (None, e.attributes.get("bridge.task.name")))
                return next((event for event in mine if event.code == "BRG101"), None)

            assert self._came.wait_for(came, PATIENCE), "nothing was reported"
            found = came()
            assert found is not None
            return found


@pytest.fixture
def reports() -> Iterator[Reports]:
    reports = Reports()
    with bridge.on_event(reports):
        yield reports


def watched() -> int:
    """How many loops are watched."""
    return sum(isinstance(each, LoopWatcher) for each in watchdog._watchers.copy())


def open_clocks() -> int:
    """How many files of /proc are open for the clocks of loops' threads."""
    links = []
    for descriptor in glob.glob("/proc/self/fd/*"):
        try:
            links.append(os.readlink(descriptor))
        except OSError:  # that of the folder itself
            continue
    return sum("/task/" in link and link.endswith(("/schedstat", "/stat", "/syscall")) for link in links)


def left_after() -> tuple[int, int, int]:
    """What is left when those have ended whose end was begun elsewhere, by a finalizer that started a loop for it."""
    end = monotonic() + PATIENCE
    while True:
        gc.collect()
        left = watched(), open_clocks(), len(collections._users)
        if left == (0, 0, 0) or monotonic() > end:
            return left
        threading.Event().wait(0.01)


@pytest.fixture(autouse=True)
def nothing_left(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """No watcher, no file, no count of collections, and nothing that went wrong on the way."""
    assert left_after() == (0, 0, 0)
    yield
    assert left_after() == (0, 0, 0)
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


def once(loop: asyncio.AbstractEventLoop) -> Any:
    """Run it; return the Watch that was in force."""
    seen = []

    async def main() -> None:
        seen.append(loop._watch)  # type: ignore[attr-defined]

    loop.run_until_complete(main())
    return seen[0]


def in_a_thread(fn: Callable[..., Any], *args: Any) -> Any:
    outcome: list[Any] = []
    thread = threading.Thread(target=lambda: outcome.append(fn(*args)))
    thread.start()
    within(thread)
    return outcome[0]


# -- bridge's own loop -------------------------------------------------------------------------------------------------


def test_a_loop_is_watched_while_it_runs_and_by_the_same_between_two_runs() -> None:
    loop = bridge.new_event_loop()
    assert watched() == 0, "not before it runs"
    running = []

    async def main() -> Any:
        running.append(loop._watch.watcher.running)
        return loop._watch

    one = loop.run_until_complete(main())
    running.append(one.watcher.running)
    other = loop.run_until_complete(main())
    assert one is other
    assert running == [True, False, True]
    assert watched() == 1
    loop.close()
    assert watched() == 0


def test_another_thread_that_runs_the_loop_has_it_watched_anew() -> None:
    loop = bridge.new_event_loop()
    before = open_clocks()
    seen = [once(loop), *(in_a_thread(once, loop) for _ in range(3)), once(loop)]
    assert len(set(seen)) == 5, "threads that follow one another may have the same ident"
    assert [each.closed for each in seen] == [True, True, True, True, False]
    assert watched() == 1
    if sys.platform == "linux":
        assert open_clocks() == before + 3
    loop.close()


def test_a_loop_that_is_closed_is_watched_no_more_and_can_be_closed_again() -> None:
    loop = bridge.new_event_loop()
    watch = once(loop)
    loop.close()
    loop.close()
    watch.close()
    assert watched() == 0


@pytest.mark.filterwarnings("ignore:unclosed event loop:ResourceWarning")
def test_a_loop_that_is_dropped_without_being_closed_is_watched_no_more() -> None:
    loop = bridge.new_event_loop()
    once(loop)
    assert watched() == 1
    del loop
    gc.collect()
    assert watched() == 0


def test_nothing_grows_with_the_number_of_loops() -> None:
    before = open_clocks(), threading.active_count()
    for _ in range(50):
        with asyncio.Runner(loop_factory=bridge.new_event_loop) as runner:
            runner.run(asyncio.sleep(0))
    assert watched() == 0
    assert (open_clocks(), threading.active_count()) <= (before[0], before[1] + 1), "one watchdog"


@pytest.mark.parametrize("elsewhere", [False, True])
def test_a_loop_that_is_run_while_it_runs_stays_watched(elsewhere: bool, reports: Reports) -> None:
    loop = bridge.new_event_loop()
    loop.slow_callback_duration = SOON

    def again() -> None:
        with pytest.raises(RuntimeError, match="running"):
            loop.run_forever()

    async def main() -> None:
        watch = loop._watch
        if elsewhere:
            in_a_thread(again)
        else:
            again()
        assert loop._watch is watch
        reports.hold()

    loop.run_until_complete(main())
    loop.close()


def test_a_closed_loop_that_is_run_is_not_watched() -> None:
    loop = bridge.new_event_loop()
    loop.close()
    with pytest.raises(RuntimeError, match="closed"):
        loop.run_forever()
    assert watched() == 0


def test_a_loop_that_spins_without_ever_sleeping_is_reported_all_the_same(reports: Reports) -> None:
    """It is always seen between two turns, where it polls, and never calls the watchdog."""

    async def main() -> None:
        loop: Any = asyncio.get_running_loop()
        loop.slow_callback_duration = 0.004
        end = monotonic() + PATIENCE
        while loop._watch.watcher._at_rest < 6 and not watchdog.parked:
            assert monotonic() < end
            await asyncio.sleep(0)
        reports.hold()

    bridge.run(main)


def test_a_loop_that_has_slept_for_long_is_reported(reports: Reports) -> None:
    async def main() -> None:
        asyncio.get_running_loop().slow_callback_duration = SOON
        for _ in range(3):
            with anyio.fail_after(PATIENCE):
                while not watchdog.parked:
                    await asyncio.sleep(0.001 if watchdog.parked else 0.1)
            reports.hold()

    bridge.run(main)


def test_a_loop_that_is_woken_by_a_thread_is_reported(reports: Reports) -> None:
    with bridge.background_loop() as portal:
        loop = portal.call(asyncio.get_running_loop)
        loop.slow_callback_duration = SOON
        for _ in range(3):
            end = monotonic() + PATIENCE
            while not watchdog.parked:
                assert monotonic() < end
            event = portal.call(reports.hold)
            assert event.attributes["bridge.cause"] == "waiting"


def test_a_loop_that_has_slept_calls_once_and_only_if_it_is_the_one_that_rests(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside a loop at rest, the watchdog would else be woken at each nap of a busy one."""
    monkeypatch.setattr("bridge.loop.sleeper.watchdog", SimpleNamespace(parked=True))
    calls: list[str] = []
    with closing(bridge.new_event_loop()) as loop:
        loop._selector.select(0.001)
        loop._selector.at_waking = lambda: calls.append("woken")
        loop._selector.select(0.001)
        loop._selector.select(0.001)
    assert calls == ["woken"]


def test_a_report_comes_while_the_loop_is_blocked_and_names_the_line_and_the_task(reports: Reports) -> None:
    def hold() -> Event:
        return reports.hold()

    async def main() -> None:
        asyncio.get_running_loop().slow_callback_duration = SOON
        event = hold()
        assert event.name == "bridge.loop.blocked"
        assert event.attributes["bridge.task.name"] == "Task-of-main"
        assert event.place is not None
        assert event.place.file == __file__
        stack = event.details[event.details.index("stack, innermost first:") :]
        assert [name for line in stack for name in ("hold()", "reports.hold()") if f"{name}" in line.partition(": ")[2]]
        assert all(each.code != "BRG102" for each in reports.events), "not yet"
        await asyncio.sleep(0.1)

    loop = bridge.new_event_loop()
    loop.run_until_complete(loop.create_task(main(), name="Task-of-main"))
    loop.close()
    assert [event.code for event in reports.events if event.code != "BRG101"] == ["BRG102"]


def test_the_end_of_a_block_is_told_when_the_loop_stops_with_it(reports: Reports) -> None:
    async def main() -> None:
        asyncio.get_running_loop().slow_callback_duration = SOON
        reports.hold()

    bridge.run(main)
    assert [event.code for event in reports.events][-1] == "BRG102"


@pytest.mark.parametrize("debug", [False, True])
@pytest.mark.parametrize(
    ("what", "known", "guessed"),
    [
        ("inner", "slow", "slow, ..."),
        ("method", "released.wait, PATIENCE", "event.wait, ..."),
        ("partial", "partial(released.wait, PATIENCE)", "event.wait, ..."),
    ],
)
def test_what_the_loop_calls_itself_is_written_as_the_program_may_have_it(
    what: str, known: str, guessed: str, debug: bool
) -> None:
    """Debug mode knows the line that has scheduled it."""
    advice = []
    released = threading.Event()

    def hear(event: Event) -> None:
        if event.code == "BRG101":
            advice.append(event.advice)
            released.set()

    async def main() -> None:
        loop: Any = asyncio.get_running_loop()
        loop.slow_callback_duration = SOON

        def inner() -> None: ...

        slow = update_wrapper(partial(released.wait, PATIENCE), inner)
        slow.__qualname__ = inner.__qualname__.replace("inner", "slow")  # type: ignore[attr-defined]
        if what == "inner":
            loop.call_soon(slow)
        elif what == "method":
            loop.call_soon(released.wait, PATIENCE)
        else:
            loop.call_soon(partial(released.wait, PATIENCE))
        await asyncio.sleep(0)

    with bridge.on_event(hear):
        bridge.run(main, debug=debug)
        assert released.is_set()
    written = known if debug else guessed
    assert advice[0] == f"await bridge.to_thread({written}) in a coroutine, and have the loop run that"


def test_many_callbacks_of_one_turn_are_told(reports: Reports) -> None:
    """A turn of callbacks that end as soon as the watchdog has seen enough of them."""
    loop = bridge.new_event_loop()
    loop.slow_callback_duration = 0.05
    count = [0]

    def short() -> None:
        count[0] += 1
        until = monotonic() + 0.004
        while monotonic() < until:
            pass

    async def main() -> None:
        end = monotonic() + PATIENCE
        while not any(event.code == "BRG103" for event in reports.events):
            assert monotonic() < end
            for _ in range(40):
                loop.call_soon(short)
            await asyncio.sleep(0)
            await asyncio.sleep(0.001)

    loop.run_until_complete(main())
    loop.close()
    told = next(event for event in reports.events if event.code == "BRG103")
    assert told.place is not None
    assert told.place.function.endswith("short")
    assert "40 callbacks" in told.headline or "41 callbacks" in told.headline


# -- on, or not --------------------------------------------------------------------------------------------------------


@pytest.fixture(params=[None, "0"])
def environment(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str | None:
    monkeypatch.delenv(VARIABLE, raising=False)
    if request.param is not None:
        monkeypatch.setenv(VARIABLE, request.param)
    return request.param  # type: ignore[no-any-return]


def expected(said: bool | None, environment: str | None) -> bool:
    return environment is None if said is None else said


@pytest.mark.parametrize("said", [None, True, False])
def test_a_new_loop_is_watched_unless_somebody_says_otherwise(said: bool | None, environment: str | None) -> None:
    loop = bridge.new_event_loop(diagnostics=said)
    watch = once(loop)
    wanted = expected(said, environment)
    assert loop.is_watched is wanted
    assert (watch is not None) is wanted
    assert watched() == wanted
    loop.close()


async def count_watched() -> int:
    return watched()


@pytest.mark.parametrize("said", [None, True, False])
@pytest.mark.parametrize("name", LOOPS)
def test_what_bridge_runs_is_watched_unless_somebody_says_otherwise(
    name: str, said: bool | None, environment: str | None
) -> None:
    assert bridge.run(count_watched, **options(name), diagnostics=said) == expected(said, environment)
    assert watched() == 0


def options(name: str) -> dict[str, Any]:
    """For `bridge.run` on one of LOOPS."""
    backend, known = LOOPS[name]
    return {"backend": backend} if backend == "trio" else {"loop_factory": known.get("loop_factory")}


@pytest.mark.parametrize("said", [None, True, False])
@pytest.mark.parametrize("name", [name for name in LOOPS if name != "trio"])
def test_a_background_loop_is_watched_unless_somebody_says_otherwise(
    name: str, said: bool | None, environment: str | None
) -> None:
    with bridge.background_loop(**options(name), diagnostics=said) as portal:
        assert portal.call(watched) == expected(said, environment)
    assert watched() == 0


def test_a_factory_that_says_no_has_the_last_word_unless_the_run_says_yes() -> None:
    def factory() -> Any:
        return bridge.new_event_loop(diagnostics=False)

    assert bridge.run(count_watched, loop_factory=factory) == 0
    assert bridge.run(count_watched, loop_factory=factory, diagnostics=True) == 1
    assert bridge.run(count_watched, loop_factory=bridge.new_event_loop, diagnostics=True) == 1, "not twice"


@pytest.mark.parametrize("name", LOOPS)
def test_whatever_loop_bridge_runs_it_is_reported_from_its_first_step_on(name: str, reports: Reports) -> None:
    async def main() -> Event:
        return reports.hold()

    event = bridge.run(main, **options(name))
    assert event.place is not None
    assert event.place.file == __file__
    assert f"await {'trio' if name == 'trio' else 'asyncio'}" in event.advice or "bridge.to_" in event.advice


@pytest.mark.parametrize("name", [name for name in LOOPS if name != "trio"])
def test_whatever_loop_runs_in_the_background_it_is_reported(name: str, reports: Reports) -> None:
    with bridge.background_loop(**options(name)) as portal:
        portal.call(reports.hold)


# -- watch -------------------------------------------------------------------------------------------------------------

foreign = pytest.mark.parametrize("anyio_backend", [name for name in LOOPS if name != "bridge"], indirect=True)


@pytest.mark.anyio
async def test_a_loop_is_reported_inside_the_block(anyio_backend: Any, loop_name: str, reports: Reports) -> None:
    async with bridge.watch(threshold=SOON):
        reports.hold()
        await anyio.sleep(0.001)
        reports.hold()
    assert loop_name == "bridge" or [event.code for event in reports.events][-1] == "BRG102", (
        "told when the block is left"
    )


@foreign
@pytest.mark.anyio
async def test_a_loop_is_watched_until_the_block_is_left(anyio_backend: Any) -> None:
    before = watched()
    async with bridge.watch():
        assert watched() == before + 1
    assert watched() == before
    with pytest.raises(ZeroDivisionError):
        async with bridge.watch():
            raise ZeroDivisionError
    assert watched() == before
    with anyio.CancelScope() as scope:
        async with bridge.watch():
            scope.cancel()
            await anyio.sleep_forever()
    assert watched() == before


@foreign
@pytest.mark.anyio
async def test_a_block_inside_another_one_does_nothing_more(anyio_backend: Any) -> None:
    async with bridge.watch():
        count = watched()
        async with bridge.watch():
            assert watched() == count
        assert watched() == count
    assert watched() == count - 1


@foreign
@pytest.mark.anyio
async def test_blocks_of_several_tasks_may_end_in_any_order(anyio_backend: Any, reports: Reports) -> None:
    before = watched()
    entered, leave = anyio.Event(), anyio.Event()

    async def first() -> None:
        async with bridge.watch(threshold=SOON):
            entered.set()
            await leave.wait()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(first)
        await entered.wait()
        async with bridge.watch(threshold=SOON):
            leave.set()
            with anyio.fail_after(PATIENCE):
                while watched() == before or tasks_left(tasks):
                    await anyio.sleep(0.001)
            assert watched() == before + 1
            reports.hold()
        assert watched() == before


def tasks_left(tasks: Any) -> bool:
    """Has `first` not ended yet?"""
    nursery = getattr(tasks, "_nursery", None)
    return bool(nursery.child_tasks if nursery is not None else tasks._tasks)


def test_on_a_loop_that_watches_itself_the_block_does_nothing_more() -> None:
    async def main() -> None:
        assert watched() == 1
        async with bridge.watch():
            assert watched() == 1
        assert watched() == 1

    bridge.run(main)


def test_on_a_loop_of_bridges_that_does_not_watch_itself_it_does(reports: Reports) -> None:
    async def main() -> None:
        loop: Any = asyncio.get_running_loop()
        async with bridge.watch(threshold=SOON):
            assert watched() == 1
            blocks = next(iter(foreign_loops._watched.values()))
            assert blocks.watch.watcher._view.wakes is loop.calls_the_watchdog
            reports.hold()

    bridge.run(main, diagnostics=False)


@pytest.mark.parametrize("name", [name for name in LOOPS if name != "trio"])
@pytest.mark.parametrize("environment", ["0.1", "0.7"])
def test_the_threshold_is_in_force_for_as_long_as_the_block(
    name: str, environment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BRIDGE_SLOW_CALLBACK_DURATION", environment)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.slow_callback_duration = 0.3
        async with bridge.watch():
            assert loop.slow_callback_duration == 0.3
        async with bridge.watch(threshold=0.2):
            assert loop.slow_callback_duration == 0.2
            with suppress(ZeroDivisionError):
                async with bridge.watch(threshold=0.1):
                    assert loop.slow_callback_duration == 0.1
                    raise ZeroDivisionError
            assert loop.slow_callback_duration == 0.2
        assert loop.slow_callback_duration == 0.3

    bridge.run(main, **options(name))


@pytest.mark.parametrize("name", [name for name in LOOPS if name != "trio"])
def test_thresholds_of_blocks_that_overlap_leave_the_loops_own(name: str) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.slow_callback_duration = 0.4
        first, second = bridge.watch(threshold=0.2), bridge.watch(threshold=0.1)
        await first.__aenter__()
        await second.__aenter__()
        await first.__aexit__(None, None, None)
        assert loop.slow_callback_duration == 0.1
        await second.__aexit__(None, None, None)
        assert loop.slow_callback_duration == 0.4
        async with bridge.watch(threshold=0.2):
            loop.slow_callback_duration = 0.3
        assert loop.slow_callback_duration == 0.3

    bridge.run(main, **options(name))


@pytest.mark.parametrize("name", [name for name in LOOPS if name != "trio"])
def test_the_environment_says_the_threshold_of_a_loop_for_which_nobody_has(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BRIDGE_SLOW_CALLBACK_DURATION", "0.7")

    async def main() -> None:
        loop = asyncio.get_running_loop()
        assert loop.slow_callback_duration == 0.7  # bridge.run watches, too
        async with bridge.watch(threshold=0.1):
            async with bridge.watch():
                assert loop.slow_callback_duration == 0.1
        loop.slow_callback_duration = 0.4
        async with bridge.watch():
            assert loop.slow_callback_duration == 0.4

    bridge.run(main, **options(name))


def test_the_environment_says_the_threshold_on_trio(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BRIDGE_SLOW_CALLBACK_DURATION", " 7e-1 ")

    async def main() -> None:
        async with bridge.watch():
            (blocks,) = foreign_loops._watched.values()
            assert blocks.watch.watcher._view.threshold() == 0.7

    trio.run(main)


@pytest.mark.parametrize("text", ["soon", "0", "-1", "nan", "inf", "0,5"])
def test_a_threshold_in_the_environment_that_is_none_is_told_once_and_not_used(
    text: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    switch._seconds.cache_clear()
    monkeypatch.setenv("BRIDGE_SLOW_CALLBACK_DURATION", text)
    for _ in range(2):
        loop = bridge.new_event_loop()
        loop.close()
        assert loop.slow_callback_duration == 0.1
    (record,) = caplog.records
    needed = f"a number of seconds above 0 is needed, such as 0.1, not '{text}'"
    assert record.getMessage() == f"BRIDGE_SLOW_CALLBACK_DURATION: {needed}; 0.1 is used"


@pytest.mark.parametrize("text", ["", " "])
def test_an_empty_threshold_in_the_environment_is_none(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BRIDGE_SLOW_CALLBACK_DURATION", text)
    loop = bridge.new_event_loop()
    loop.close()
    assert loop.slow_callback_duration == 0.1


@pytest.mark.parametrize(("given", "threshold"), [(None, 0.1), (0.25, 0.25)])
def test_the_threshold_on_trio_is_the_blocks_own(
    given: float | None, threshold: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("BRIDGE_SLOW_CALLBACK_DURATION")

    async def main() -> None:
        async with bridge.watch(threshold=given):
            (blocks,) = foreign_loops._watched.values()
            assert blocks.watch.watcher._view.threshold() == threshold

    trio.run(main)


@pytest.mark.parametrize("threshold", ["0.1", True, None.__class__, 1j])
def test_a_threshold_is_a_number(threshold: Any) -> None:
    with pytest.raises(TypeError, match=r"threshold is in seconds, not .*: write bridge\.watch\(threshold=0\.1\)"):
        bridge.watch(threshold=threshold)


@pytest.mark.parametrize("threshold", [0, -1.0, float("nan")])
def test_a_threshold_is_positive(threshold: float) -> None:
    with pytest.raises(ValueError, match="threshold is in seconds and must be positive"):
        bridge.watch(threshold=threshold)


@foreign
@pytest.mark.anyio
async def test_no_threshold_is_too_large(anyio_backend: Any) -> None:
    async with bridge.watch(threshold=1e12):
        await anyio.sleep(0.001)
    async with bridge.watch(threshold=1):
        pass
    thread = watchdog._thread
    assert thread is None or thread.is_alive()


@foreign
@pytest.mark.anyio
async def test_one_watch_is_entered_once_at_a_time(anyio_backend: Any) -> None:
    watch = bridge.watch()
    count = watched()
    async with watch as same:
        assert same is watch
        with pytest.raises(RuntimeError, match=r"already entered: write bridge\.watch\(\) for another one"):
            await watch.__aenter__()
        assert watched() == count + 1
    async with watch:
        assert watched() == count + 1
    assert watched() == count


def test_where_no_loop_runs_there_is_nothing_to_watch() -> None:
    with pytest.raises(WrongThread):
        watch_here()
    entering = bridge.watch().__aenter__()
    with pytest.raises(WrongThread):
        entering.send(None)
    assert watched() == 0


@pytest.mark.parametrize("name", [name for name in LOOPS if name not in ("trio", "bridge")])
def test_a_loop_that_is_closed_inside_the_block_is_not_watched_for_ever(name: str) -> None:
    def leave_behind() -> None:
        loop = (LOOPS[name][1].get("loop_factory") or asyncio.new_event_loop)()

        async def main() -> None:
            async with bridge.watch():
                loop.call_soon(loop.stop)
                await asyncio.get_running_loop().create_future()

        task = loop.create_task(main())
        loop.run_forever()
        task._log_destroy_pending = False
        loop.close()

    in_a_thread(leave_behind)
    end = monotonic() + PATIENCE
    while watched():  # it has to be looked at once more
        assert monotonic() < end
        gc.collect()


@pytest.mark.parametrize("name", [name for name in LOOPS if name not in ("trio", "bridge")])
def test_a_block_that_outlasts_a_run_of_its_loop_goes_on_in_the_next(name: str, reports: Reports) -> None:
    """As that of a fixture, around a test."""
    loop = (LOOPS[name][1].get("loop_factory") or asyncio.new_event_loop)()
    watch = bridge.watch(threshold=SOON)

    async def hold() -> None:
        for _ in range(3):
            await asyncio.sleep(SOON)  # looked at in between
        reports.hold()

    def run(coro: Any) -> None:
        loop.run_until_complete(coro)

    run(watch.__aenter__())
    (lambda: run(hold()))()
    run(watch.__aexit__(None, None, None))
    loop.close()


# -- forked children ---------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_a_forked_child_watches_its_loops_and_the_parent_goes_on_with_its_own(reports: Reports) -> None:
    loop = bridge.new_event_loop()
    loop.slow_callback_duration = SOON
    watch = once(loop)

    async def hold() -> Any:
        reports.hold()
        return loop._watch

    child = os.fork()
    if child == 0:
        code = 3
        try:
            signal.alarm(int(PATIENCE))  # ends it
            bad = watched() != 0 or bool(collections._users)
            own = loop.run_until_complete(hold())
            bad |= own is watch or watched() != 1 or len(collections._users) != 1 or open_clocks() > 3
            bridge.run(hold)
            bad |= watched() != 1
            loop.close()
            bad |= watched() != 0 or bool(collections._users)
            code = int(bad)
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert loop.run_until_complete(hold()) is watch
    loop.close()


# -- many at once ------------------------------------------------------------------------------------------------------


class Coming:
    """One thread that makes loops, runs them, blocks them, and ends them in one way or another."""

    def __init__(self, seed: int, reports: Reports):
        self.choose = random.Random(seed)
        self.name = f"stress-{seed}"
        self.reports = reports
        self.held = 0

    def live(self) -> None:
        for _ in range(6):
            self.choose.choice([self.own_loop, self.foreign_loop, self.trio_run])()

    def own_loop(self) -> None:
        loop = bridge.new_event_loop()
        loop.slow_callback_duration = 0.003
        for _ in range(self.choose.randrange(1, 4)):
            if self.choose.random() < 0.3:
                in_a_thread(self.run, loop, self.work())
            else:
                self.run(loop, self.work())
        self.end(loop)

    def foreign_loop(self) -> None:
        loop = self.choose.choice([LOOPS[name][1].get("loop_factory", asyncio.new_event_loop) for name in FOREIGN])()
        for _ in range(self.choose.randrange(1, 3)):
            self.run(loop, self.watched_work())
        loop.close()

    def trio_run(self) -> None:
        async def main() -> None:
            async with bridge.watch(threshold=0.003):
                await trio.sleep(self.choose.choice([0, 0.001]))

        trio.run(main)

    def end(self, loop: Any) -> None:
        if self.choose.random() < 0.8:
            loop.close()  # else it is dropped

    def run(self, loop: Any, work: Any) -> None:
        loop.run_until_complete(loop.create_task(work, name=self.name))

    async def watched_work(self) -> None:
        async with bridge.watch(threshold=0.003):
            await self.work()

    async def work(self) -> None:
        for _ in range(self.choose.randrange(1, 4)):
            match self.choose.randrange(3):
                case 0:
                    await asyncio.sleep(self.choose.choice([0, 0.0005, 0.002, 0.01]))
                case 1:
                    for _ in range(self.choose.choice([10, 1000])):
                        await asyncio.sleep(0)
                case _:
                    if self.choose.random() < 0.1:
                        gc.collect()
            if self.choose.random() < 0.6:
                self.held += 1
                self.reports.hold_as(self.name)


FOREIGN = [name for name in LOOPS if name not in ("trio", "bridge")]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.filterwarnings("ignore:unclosed event loop:ResourceWarning")
def test_loops_that_come_and_go_are_reported_whenever_they_block_and_leave_nothing_behind(
    seed: int, reports: Reports
) -> None:
    failures: list[BaseException] = []

    def live(coming: Coming) -> None:
        try:
            coming.live()
        except BaseException as error:
            failures.append(error)

    comings = [Coming(10 * seed + number, reports) for number in range(4)]
    threads = [threading.Thread(target=live, args=(coming,)) for coming in comings]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-4)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
            assert not thread.is_alive()
    finally:
        sys.setswitchinterval(interval)
    if failures:
        raise failures[0]
    assert sum(coming.held for coming in comings) > 5
    gc.collect()
    assert watched() == 0
    assert not foreign_loops._watched, [(h, b.open, b.watch.closed) for h, b in foreign_loops._watched.items()]

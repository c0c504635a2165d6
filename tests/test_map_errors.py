"""bridge.map and Executor.amap when calls fail: which input it was, errors in the place of results, time, crashes.

Nearly every test runs on each loop, with threads, processes, a foreign thread pool and a foreign process pool.
"""

# ruff: noqa: F811 - fixtures are imported by name
from __future__ import annotations

import functools
import gc
import inspect
import itertools
import os
import pickle
import sys
import threading
import time
import weakref
from collections import namedtuple
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

import anyio
import loky
import map_targets as targets
import process_targets
import pytest
from decorated_targets import decorated
from map_targets import Awkward, Bad
from process_targets import Gate, Tally

import bridge
from bridge.executors import input_notes
from tests.processes import (  # noqa: F401
    alive,
    anyio_backend,
    begun,
    collect,
    gate,
    new_gate,
    no_thread_left,
    tally,
    until,
)

pytestmark = [pytest.mark.anyio, pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX")]

#: Seconds that a call may take in tests of `timeout=`. A call that does nothing takes less on any machine.
LIMIT = 1.5

PLACES = ("thread", "process", "foreign threads", "foreign processes")
#: Where a function can be told that its result is not wanted any more.
TELLABLE = PLACES[:3]
IN_PROCESSES = ("process", "foreign processes")


@pytest.fixture(scope="module")
async def places(anyio_backend: Any) -> AsyncIterator[dict[str, Any]]:
    async with (
        bridge.ThreadExecutor(2) as threads,
        bridge.ProcessExecutor(2, grace=0.2) as processes,
        bridge.ForeignExecutor(ThreadPoolExecutor(2), owns=True) as foreign_threads,
        bridge.ForeignExecutor(loky.ProcessPoolExecutor(2), owns=True) as foreign_processes,
    ):
        await processes.prestart()
        await foreign_processes.run(os.getpid)
        yield dict(zip(PLACES, (threads, processes, foreign_threads, foreign_processes), strict=True))


@pytest.fixture(params=PLACES)
def place(request: pytest.FixtureRequest, places: dict[str, Any]) -> Any:
    return places[request.param]


@pytest.fixture(params=TELLABLE)
def tellable(request: pytest.FixtureRequest, places: dict[str, Any]) -> Any:
    return places[request.param]


@pytest.fixture(params=IN_PROCESSES)
def far(request: pytest.FixtureRequest, places: dict[str, Any]) -> Any:
    return places[request.param]


@pytest.fixture
def threads(places: dict[str, Any]) -> bridge.ThreadExecutor:
    return places["thread"]


@pytest.fixture
def processes(places: dict[str, Any]) -> bridge.ProcessExecutor:
    return places["process"]


def inputs_named(error: BaseException) -> list[str]:
    """What the notes of an error say about inputs."""
    return [note for note in getattr(error, "__notes__", []) if "bridge.map input" in note]


def note_on(error: BaseException) -> str:
    (note,) = inputs_named(error)
    return note


async def error_of(results: AsyncIterator[Any]) -> BaseException:
    with pytest.raises(Exception) as caught:  # noqa: PT011
        async for _ in results:
            pass
    return caught.value


async def all_of(results: AsyncIterator[Any]) -> list[Any]:
    return [result async for result in results]


# -- which input ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ordered", [True, False])
async def test_an_error_says_for_which_input(place: Any, ordered: bool) -> None:
    error = await error_of(bridge.map(targets.check, [0, 1, 2, 24, 4], to=place, ordered=ordered))
    assert type(error) is Bad
    assert note_on(error) == "bridge.map input 3 (the first is 0): map_targets.check(24)"


async def test_of_several_iterables_all_items_are_named(place: Any) -> None:
    async def divisors() -> AsyncIterator[int]:
        for number in (5, 4, 0, 1):
            yield number

    for by in ([5, 4, 0, 1], divisors()):
        error = await error_of(place.amap(targets.divide, itertools.count(7), by))
        assert type(error) is ZeroDivisionError
        assert note_on(error) == "bridge.map input 2 (the first is 0): map_targets.divide(9, 0)"


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("in_flight", [None, 50])
async def test_the_index_is_right_among_calls_that_travel_together(
    processes: bridge.ProcessExecutor, ordered: bool, in_flight: int | None
) -> None:
    source = [*range(0, 7000, 7), 3, *range(0, 700, 7)]
    error = await error_of(processes.amap(targets.check, source, ordered=ordered, in_flight=in_flight))
    assert note_on(error) == "bridge.map input 1000 (the first is 0): map_targets.check(3)"


async def test_a_coroutine_function_in_processes(processes: bridge.ProcessExecutor) -> None:
    error = await error_of(processes.amap(targets.double_on_a_loop, range(5)))
    assert note_on(error).endswith("input 3 (the first is 0): map_targets.double_on_a_loop(3)")


async def test_notes_are_there_after_pickling(place: Any) -> None:
    error = await error_of(place.amap(targets.check, [3]))
    travelled = pickle.loads(pickle.dumps(error))
    assert travelled.__notes__ == error.__notes__
    assert {type(note) for note in travelled.__notes__} == {str}


async def test_a_map_inside_a_worker_process_names_its_input_too(processes: bridge.ProcessExecutor) -> None:
    error = await error_of(processes.amap(targets.map_inside, [[0], [1, 2, 3]]))
    assert inputs_named(error) == [
        "bridge.map input 2 (the first is 0): map_targets.check(3)",
        "bridge.map input 1 (the first is 0): map_targets.map_inside([1, 2, 3])",
    ]


async def test_a_map_inside_a_thread_names_its_input_too(threads: bridge.ThreadExecutor) -> None:
    def outer(numbers: list[int]) -> list[int]:
        return bridge.portal().call(targets.map_inside, numbers)

    error = await error_of(threads.amap(outer, [[0], [1, 2, 3]]))
    inner, outside = inputs_named(error)
    assert inner.endswith("input 2 (the first is 0): map_targets.check(3)")
    assert outside.endswith("outer([1, 2, 3])")
    assert "input 1 " in outside


# -- what is shown of an input -------------------------------------------------------------------------------------------


class Raising:
    def __repr__(self) -> str:
        raise LookupError("no repr today")


class Exiting:
    def __repr__(self) -> str:
        raise SystemExit


class Endless(dict[Any, Any]):
    def __iter__(self) -> Any:
        return itertools.count()

    def items(self) -> Any:
        return ((number, number) for number in itertools.count())


@dataclass
class Login:
    name: str
    page: bytes = field(default=b"p" * 10_000_000)
    password: str = field(default="secret", repr=False)


Point = namedtuple("Point", "x y")

HUGE = {
    "a text": "x" * 50_000_000,
    "bytes": b"x" * 50_000_000,
    "a list": list(range(1_000_000)),
    "a dict": dict.fromkeys(range(1_000_000), "value"),
    "a nest": [[["x" * 10_000] * 10_000] * 10] * 10,
    "a number": 1 << 10_000_000,
    "a dataclass": Login("me"),
    "a named tuple": Point("x" * 1_000_000, list(range(1_000_000))),
    "an endless mapping": Endless({1: 1}),
}


def refuse(*_: Any) -> None:
    raise Bad


@pytest.mark.parametrize("thing", HUGE.values(), ids=HUGE)
async def test_what_is_shown_is_bounded(threads: bridge.ThreadExecutor, thing: Any) -> None:
    error = await error_of(threads.amap(refuse, [thing]))
    assert len(note_on(error)) < 1000
    assert "secret" not in note_on(error)


SHOWN: list[tuple[Any, str]] = [
    (5, "5"),
    ("file.txt", "'file.txt'"),
    ([[[[1]]]], "[[[[...]]]]"),
    ([1, "two", (3,), {4: {5}}], "[1, 'two', (3,), {4: {5}}]"),
    (Point(1, 2), "Point(x=1, y=2)"),
    (list(range(9)), "[0, 1, 2, 3, 4, 5, ...]"),
    (Raising(), "<Raising object, whose repr raises LookupError>"),
    (Exiting(), "<Exiting object, whose repr raises SystemExit>"),
    ([Raising(), 2], "[<Raising object, whose repr raises LookupError>, 2]"),
]


@pytest.mark.parametrize(("thing", "text"), SHOWN, ids=[text for _, text in SHOWN])
async def test_what_is_shown(threads: bridge.ThreadExecutor, thing: Any, text: str) -> None:
    error = await error_of(threads.amap(refuse, [thing]))
    assert type(error) is Bad
    assert note_on(error).endswith(f"refuse({text})")


async def test_a_repr_that_blocks_holds_up_neither_the_result_nor_the_loop(
    place: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(input_notes, "PATIENCE", 0.05)
    opened, called = threading.Event(), []

    class Blocking:
        def __reduce__(self) -> Any:
            return targets.echo, ("a stand-in",)

        def __repr__(self) -> str:
            called.append(threading.current_thread() is threading.main_thread())
            opened.wait(process_targets.PATIENCE)
            return "too late"

    try:
        errors = await all_of(place.amap(divmod, [Blocking(), Blocking(), 1], itertools.repeat(0), errors="return"))
    finally:
        opened.set()
    texts = [note_on(error) for error in errors]
    assert [text.rpartition(": ")[2] for text in texts] == [
        f"builtins.divmod(<{Blocking.__qualname__} object>, <int object>)",
        f"builtins.divmod(<{Blocking.__qualname__} object>, <int object>)",
        "builtins.divmod(1, 0)",
    ]
    assert called == [False]


async def test_a_function_whose_repr_blocks_is_no_better(
    threads: bridge.ThreadExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(input_notes, "PATIENCE", 0.05)
    opened = threading.Event()

    class Blocking:
        def __call__(self, number: int) -> None:
            raise Bad(number)

        def __repr__(self) -> str:
            assert threading.current_thread() is not threading.main_thread()
            opened.wait(process_targets.PATIENCE)
            return "too late"

    try:
        (error,) = await all_of(threads.amap(Blocking(), [5], errors="return"))
    finally:
        opened.set()
    assert note_on(error).endswith(f": <{Blocking.__qualname__} object>(<int object>)")


# -- on which object -----------------------------------------------------------------------------------------------------


class Refusing(Exception):
    """It takes no notes."""

    def add_note(self, note: str) -> None:
        raise RuntimeError("no notes, please")


@dataclass(frozen=True)
class Frozen(Exception):
    reason: str = "it is cold"


class Crooked(Exception):
    __notes__ = 5  # type: ignore[assignment]


@pytest.mark.parametrize("kind", [Refusing, Frozen, Crooked])
async def test_an_error_that_takes_no_notes_is_left_as_it_is(threads: bridge.ThreadExecutor, kind: Any) -> None:
    raised = kind()

    def fail(_: int) -> None:
        raise raised

    assert await all_of(threads.amap(fail, [1], errors="return")) == [raised]
    assert await error_of(threads.amap(fail, [1])) is raised


class Custom(Exception):
    def __init__(self, code: int, *, reason: str):
        super().__init__(f"{code}: {reason}")
        self.code = code


@pytest.mark.parametrize(
    "raised",
    [ValueError("the same"), Custom(5, reason="why"), OSError(2, "gone", "file"), ExceptionGroup("two", [Bad(), Bad()])],
    ids=["built in", "of its own", "OSError", "group"],
)
@pytest.mark.parametrize("name", ["thread", "foreign threads"])
async def test_one_error_object_raised_for_several_inputs_has_no_wrong_note(
    places: dict[str, Any], name: str, raised: Exception
) -> None:
    def fail(_: int) -> None:
        raise raised

    raised.__cause__ = cause = LookupError("the cause")
    for _ in range(2):  # a second map finds the notes of the first
        errors = await all_of(places[name].amap(fail, range(5), errors="return"))
        assert [note_on(error).partition(":")[0] for error in errors] == [
            f"bridge.map input {number} (the first is 0)" for number in range(5)
        ]
        assert {type(error) for error in errors} == {type(raised)}
        assert {str(error) for error in errors} == {str(raised)}
        assert {error.__cause__ for error in errors} == {cause}
        assert all(vars(error).keys() == vars(raised).keys() for error in errors)


@pytest.mark.parametrize("errors", ["raise", "return"])
async def test_an_error_is_in_no_reference_cycle(place: Any, errors: Any) -> None:
    async def of_one_map() -> weakref.ref[BaseException]:
        try:
            async with aclosing(place.amap(targets.check, [3], errors=errors)) as results:
                async for result in results:
                    return weakref.ref(result)
        except Bad as error:
            return weakref.ref(error)
        raise AssertionError("no error")

    gc.collect()
    gc.disable()
    try:
        reference = await of_one_map()
        await until(lambda: reference() is None)
    finally:
        gc.enable()


# -- errors="return" -----------------------------------------------------------------------------------------------------


async def test_errors_come_in_the_place_of_results(place: Any) -> None:
    results = await all_of(bridge.map(targets.check, range(30), to=place, errors="return"))
    assert len(results) == 30
    for number, result in enumerate(results):
        if number % 7 == 3:
            assert type(result) is Bad
            assert note_on(result) == f"bridge.map input {number} (the first is 0): map_targets.check({number})"
        else:
            assert result == number


async def test_as_completed_each_input_has_its_result_or_its_error(place: Any) -> None:
    results = await all_of(place.amap(targets.check, range(30), errors="return", ordered=False, in_flight=5))
    bad = [result for result in results if isinstance(result, Bad)]
    assert sorted(result for result in results if isinstance(result, int)) == [n for n in range(30) if n % 7 != 3]
    assert sorted(error.args[0] for error in bad) == [3, 10, 17, 24]
    assert all(note_on(error).endswith(f"({error.args[0]})") for error in bad)


async def test_an_async_input_goes_on_after_errors(place: Any) -> None:
    async def numbers() -> AsyncIterator[int]:
        for number in range(12):
            yield number

    results = await all_of(place.amap(targets.check, numbers(), errors="return", in_flight=3))
    assert [type(result) for result in results] == [Bad if n % 7 == 3 else int for n in range(12)]


async def test_thousands_of_short_calls_each_have_their_outcome(processes: bridge.ProcessExecutor) -> None:
    results = await all_of(processes.amap(targets.check, range(1500), errors="return"))
    assert [type(result) for result in results] == [Bad if n % 7 == 3 else int for n in range(1500)]
    assert note_on(results[1004]).endswith("input 1004 (the first is 0): map_targets.check(1004)")


@pytest.mark.parametrize("ordered", [True, False])
async def test_what_is_no_exception_is_raised(place: Any, ordered: bool) -> None:
    found: list[Any] = []
    with pytest.raises(SystemExit, match="enough") as caught:
        await collect(
            place.amap(targets.exit_at, range(9), itertools.repeat(2), errors="return", in_flight=1, ordered=ordered),
            found,
        )
    assert found == [0, 1]
    assert "(2, 2)" in note_on(caught.value)


async def test_an_error_of_the_input_is_raised(place: Any) -> None:
    def numbers() -> Any:
        yield 1
        raise LookupError("the input is broken")

    found: list[Any] = []
    with pytest.raises(LookupError, match="the input is broken"):
        await collect(place.amap(targets.check, numbers(), errors="return"), found)
    assert found == [1]


@pytest.mark.parametrize("errors", ["raise", "return"])
@pytest.mark.parametrize("kind", [bridge.ThreadExecutor, bridge.ProcessExecutor])
async def test_a_closed_executor_is_raised_after_what_it_has_done(kind: Any, errors: Any) -> None:
    executor = kind(1)
    found: list[Any] = []

    def numbers() -> Any:
        yield from range(2)
        executor.shutdown(wait=False)
        yield 2

    with pytest.raises(bridge.ExecutorClosed):
        await collect(executor.amap(targets.check, numbers(), errors=errors), found)
    assert found in ([0, 1], [0])  # in a process the second waits for the third, to travel with it
    await executor.aclose()


async def test_a_stop_iteration_is_returned_as_what_it_would_have_been_raised_as(place: Any) -> None:
    (error,) = await all_of(place.amap(next, [iter(())], errors="return"))
    assert type(error) is RuntimeError
    assert "raised StopIteration" in str(error)


@pytest.mark.parametrize("wrong", ["ignore", "", None, True])
async def test_other_ways_with_errors_are_refused_at_the_call(place: Any, wrong: Any) -> None:
    for use in (place.amap, functools.partial(bridge.map, to=place)):
        with pytest.raises(ValueError, match="errors= is 'raise', or 'return'"):
            use(targets.check, [1], errors=wrong)


# -- what does not travel ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["unpicklable", "not rebuilt"])
@pytest.mark.parametrize("at", [0, 40])
async def test_an_argument_that_does_not_travel_is_named_and_costs_one_input(
    processes: bridge.ProcessExecutor, kind: str, at: int
) -> None:
    source: list[Any] = [*range(at), Awkward(kind), *range(at, 60)]
    note = f"bridge.map input {at} (the first is 0): map_targets.echo(Awkward({kind!r}))"
    found: list[Any] = []
    with pytest.raises(pickle.PickleError) as caught:
        await collect(processes.amap(targets.echo, source), found)
    assert found == source[:at]
    assert note_on(caught.value) == note
    if kind == "unpicklable":
        assert "cannot pickle args[0]" in str(caught.value)

    results = await all_of(processes.amap(targets.echo, source, errors="return"))
    assert note_on(results.pop(at)) == note
    assert results == list(range(60))


@pytest.mark.parametrize("at", [0, 40])
async def test_a_result_that_cannot_be_pickled_is_named_and_costs_one_input(
    processes: bridge.ProcessExecutor, at: int
) -> None:
    arguments = (range(60), itertools.repeat("unpicklable"), itertools.repeat(at))
    note = f"bridge.map input {at} (the first is 0): map_targets.make_at({at}, 'unpicklable', {at})"
    found: list[Any] = []
    with pytest.raises(pickle.PicklingError, match="an awkward thing stays") as caught:
        await collect(processes.amap(targets.make_at, *arguments), found)
    assert found == list(range(at))
    assert note_on(caught.value) == note

    results = await all_of(processes.amap(targets.make_at, *arguments, errors="return"))
    assert note_on(results.pop(at)) == note
    assert results == [number for number in range(60) if number != at]


async def test_a_result_that_cannot_be_rebuilt_is_named(processes: bridge.ProcessExecutor) -> None:
    arguments = (range(60), itertools.repeat("not rebuilt"), itertools.repeat(40))
    results = await all_of(processes.amap(targets.make_at, *arguments, errors="return"))
    assert "input 40 (the first is 0): map_targets.make_at(40, 'not rebuilt', 40)" in note_on(results.pop(40))
    assert results == [number for number in range(60) if number != 40]

    error = await error_of(processes.amap(targets.make_at, *arguments))
    assert isinstance(error, pickle.UnpicklingError)
    first, last = map(int, next(n for n in error.__notes__ if "bridge.map" in n).split("inputs ")[1].split()[0:3:2])
    assert first <= 40 <= last  # the results of these came together


async def test_an_error_that_cannot_be_pickled_is_named(processes: bridge.ProcessExecutor) -> None:
    for errors in ("raise", "return"):
        results = processes.amap(targets.raise_unsendable_at, range(60), itertools.repeat(40), errors=errors)  # type: ignore[call-overload]
        error = await error_of(results) if errors == "raise" else (await all_of(results))[40]
        assert isinstance(error, pickle.PicklingError)
        assert "it is the input's fault" in str(error)
        assert "map_targets.raise_unsendable_at(40, 40)" in note_on(error)


async def test_with_a_foreign_pool_of_processes_it_is_named_as_well(places: dict[str, Any]) -> None:
    executor = places["foreign processes"]
    results = await all_of(executor.amap(targets.echo, [1, Awkward("unpicklable"), 2], errors="return"))
    assert (results[0], results[2]) == (1, 2)
    assert note_on(results[1]).endswith("input 1 (the first is 0): map_targets.echo(Awkward('unpicklable'))")


# -- crashes -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ordered", [True, False])
async def test_each_worker_that_dies_costs_exactly_one_input(
    processes: bridge.ProcessExecutor, tally: Tally, ordered: bool
) -> None:
    crashing = [7, 8, 40]
    arguments = (range(60), itertools.repeat(tally), itertools.repeat(crashing))
    results = await all_of(processes.amap(targets.crash_at, *arguments, errors="return", ordered=ordered))
    died = [result for result in results if isinstance(result, bridge.WorkerDied)]
    assert sorted(n for n in results if isinstance(n, int)) == [n for n in range(60) if n not in crashing]
    assert len(results) == 60
    assert sorted(int(note_on(error).split()[2]) for error in died) == crashing
    assert tally.count() == {str(number): 1 for number in range(60)}
    if ordered:
        assert [results[number] for number in crashing] == died


@pytest.mark.parametrize("in_flight", [None, 1])
async def test_a_crash_among_calls_that_travel_together_names_its_input(
    processes: bridge.ProcessExecutor, tally: Tally, in_flight: int | None
) -> None:
    arguments = (range(500), itertools.repeat(tally), itertools.repeat([200]))
    with pytest.raises(bridge.WorkerDied) as caught:
        await collect(processes.amap(targets.crash_at, *arguments, in_flight=in_flight), [])
    assert "input 200 (the first is 0): map_targets.crash_at(200, " in note_on(caught.value)
    assert set(tally.count().values()) == {1}


# -- time ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("errors", ["raise", "return"])
async def test_a_call_that_takes_too_long_is_ended_and_named(tellable: Any, errors: Any) -> None:
    arguments = (range(6), itertools.repeat(2))
    results = bridge.map(targets.hang_at, *arguments, to=tellable, errors=errors, timeout=LIMIT)
    note = "bridge.map input 2 (the first is 0): map_targets.hang_at(2, 2)"
    if errors == "raise":
        error = await error_of(results)
    else:
        found = await all_of(results)
        error = found.pop(2)
        assert found == [0, 1, 3, 4, 5]
    assert type(error) is bridge.OffloadTimeout
    assert note_on(error) == note
    assert f"map_targets.hang_at did not end within {LIMIT:g} s on" in str(error)


async def test_what_cannot_be_told_to_end_is_waited_for(places: dict[str, Any]) -> None:
    for name in ("foreign processes", "thread"):
        found = await all_of(
            places[name].amap(
                targets.sleep_at,
                range(4),
                itertools.repeat(1),
                itertools.repeat(2 * LIMIT),
                errors="return",
                timeout=LIMIT,
            )
        )
        error = found.pop(1)
        assert type(error) is bridge.OffloadTimeout
        assert f"map_targets.sleep_at(1, 1, {2 * LIMIT})" in note_on(error)
        assert found == [0, 2, 3]


async def test_in_a_process_it_is_killed_also_while_the_consumer_is_busy(
    processes: bridge.ProcessExecutor, begun: Gate
) -> None:
    arguments = (range(4), itertools.repeat(1), itertools.repeat(begun))
    async with aclosing(processes.amap(targets.sleep_for_ever_at, *arguments, errors="return", timeout=LIMIT)) as results:
        assert await anext(results) == 0
        pid = int(await begun.reached())
        await until(lambda: not alive(pid))  # and the consumer has asked for nothing
        assert type(await anext(results)) is bridge.OffloadTimeout
        assert [result async for result in results] == [2, 3]


async def test_among_short_calls_one_that_hangs_costs_exactly_one_input(processes: bridge.ProcessExecutor) -> None:
    for ordered in (True, False):
        results = await all_of(
            processes.amap(
                targets.hang_at, range(300), itertools.repeat(150), errors="return", timeout=LIMIT, ordered=ordered
            )
        )
        (error,) = (result for result in results if not isinstance(result, int))
        assert type(error) is bridge.OffloadTimeout
        assert "map_targets.hang_at(150, 150)" in note_on(error)
        assert sorted(r for r in results if isinstance(r, int)) == [n for n in range(300) if n != 150]


async def test_time_in_the_queue_does_not_count(tellable: Any) -> None:
    naps = [LIMIT / 3] * 12  # two at a time
    started = time.monotonic()
    assert await all_of(tellable.amap(time.sleep, naps, timeout=LIMIT, in_flight=12)) == [None] * 12
    assert time.monotonic() - started > LIMIT


async def test_a_portal_call_is_ended_with_its_function(tellable: Any) -> None:
    def ask(number: int) -> int:
        if number == 1:
            bridge.portal().call(anyio.sleep_forever)
        return number

    results = await all_of(tellable.amap(ask, range(3), errors="return", timeout=LIMIT))
    assert type(results.pop(1)) is bridge.OffloadTimeout
    assert results == [0, 2]


async def test_an_error_of_its_own_goes_before_the_timeout(tellable: Any) -> None:
    def clean_up_badly(_: int) -> None:
        try:
            targets.hang_at(1, 1)
        finally:
            raise Bad("the clean-up failed")

    waited_for = bridge.offload(cancel="wait")(clean_up_badly)  # a slow machine kills it before it has ended
    (error,) = await all_of(tellable.amap(waited_for, [1], errors="return", timeout=0.1))
    assert type(error) is Bad
    assert note_on(error)


@pytest.mark.parametrize(
    ("wrong", "kind"),
    [(0, ValueError), (-1, ValueError), (float("nan"), ValueError), ("5", TypeError), (True, TypeError)],
)
async def test_a_timeout_that_makes_no_sense_is_refused_at_the_call(
    place: Any, wrong: Any, kind: type[Exception]
) -> None:
    for use in (place.amap, functools.partial(bridge.map, to=place)):
        with pytest.raises(kind, match="timeout= "):
            use(targets.check, [1], timeout=wrong)


@pytest.mark.parametrize("limit", [1e10, float("inf"), 3])
async def test_a_timeout_may_be_as_long_as_one_likes(place: Any, limit: float) -> None:
    assert await all_of(place.amap(targets.check, [0, 1], timeout=limit)) == [0, 1]


# -- leaving -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("timeout", [None, 60])
async def test_leaving_early_withdraws_and_ends(tellable: Any, begun: Gate, tally: Tally, timeout: float | None) -> None:
    def work(number: int, begun: Gate, tally: Tally) -> int:
        tally.add(number)
        if number:
            process_targets.until_cancelled(begun)
        return number

    arguments = (range(100), itertools.repeat(begun), itertools.repeat(tally))
    results = tellable.amap(work, *arguments, errors="return", timeout=timeout, in_flight=4)
    async with aclosing(results):
        async for number in results:
            assert number == 0
            await begun.reached()
            break
    counted = tally.lines()
    assert len(counted) <= 5
    assert await tellable.run(targets.echo, "still there") == "still there"
    assert tally.lines() == counted


async def test_leaving_early_kills_what_runs_in_a_process(processes: bridge.ProcessExecutor, begun: Gate) -> None:
    arguments = (range(9), itertools.repeat(1), itertools.repeat(begun))
    async with aclosing(processes.amap(targets.sleep_for_ever_at, *arguments, errors="return")) as results:
        assert await anext(results) == 0
        pid = int(await begun.reached())
    assert not alive(pid)


async def test_cancelling_the_consumer_is_no_result(tellable: Any, begun: Gate) -> None:
    found: list[Any] = []

    async def consume() -> None:
        arguments = (range(9), itertools.repeat(begun))
        await collect(tellable.amap(hang_from_one_on, *arguments, errors="return", timeout=60), found)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(consume)
        await begun.reached()
        tasks.cancel_scope.cancel()
    assert found in ([], [0])
    assert await tellable.run(targets.echo, 5) == 5


def hang_from_one_on(number: int, begun: Gate) -> int:
    if number:
        process_targets.until_cancelled(begun)
    return number


# -- functions that `offload` has decorated ------------------------------------------------------------------------------


async def test_a_decorated_function_runs_where_its_decorator_says() -> None:
    @bridge.offload(to="files")
    def name_of_thread(_: int) -> str:
        return threading.current_thread().name

    async with bridge.lanes(files=bridge.ThreadExecutor(1, name="files"), other=bridge.ThreadExecutor(1, name="other")):
        assert set(await all_of(bridge.map(name_of_thread, range(3)))) == {"files-1"}
        assert set(await all_of(bridge.map(name_of_thread, range(3), to="other"))) == {"other-1"}
        names = await all_of(bridge.map(name_of_thread, range(3), to="thread"))
        assert all(name.startswith("bridge-thread") for name in names)
        assert await name_of_thread(0) == "files-1"


async def test_an_executor_runs_a_decorated_function_itself(place: Any) -> None:
    @bridge.offload(to="no such lane")
    def double(number: int) -> int:
        return 2 * number

    assert await all_of(place.amap(double, range(3))) == [0, 2, 4]
    assert await all_of(bridge.map(double, range(3), to=place)) == [0, 2, 4]


async def test_a_decorated_function_of_a_module_runs_in_its_process(processes: bridge.ProcessExecutor) -> None:
    async with bridge.lanes(process=bridge.ProcessExecutor(1)):
        results = await all_of(bridge.map(decorated, range(3)))
    assert [number for _, number in results] == [0, 1, 2]
    assert os.getpid() not in {pid for pid, _ in results}


async def test_its_timeout_and_cancel_are_those_of_the_decorator(tellable: Any) -> None:
    hang = bridge.offload(to=tellable, timeout=LIMIT)(targets.hang_at)
    results = await all_of(bridge.map(hang, range(3), itertools.repeat(1), errors="return"))
    assert type(results.pop(1)) is bridge.OffloadTimeout
    assert results == [0, 2]
    results = await all_of(bridge.map(hang, range(3), itertools.repeat(1), errors="return", timeout=2 * LIMIT))
    assert f"within {2 * LIMIT:g} s" in str(results[1])


async def test_an_abandoned_call_is_not_waited_for(place: Any, gate: Gate, begun: Gate) -> None:
    wait = bridge.offload(to=place, timeout=LIMIT, cancel="abandon")(process_targets.announce_and_wait)
    (error,) = await all_of(bridge.map(wait, [begun], [gate], errors="return"))
    assert type(error) is bridge.OffloadTimeout
    assert "announce_and_wait(<" in note_on(error)
    gate.open()
    async with aclosing(bridge.map(wait, [begun] * 3, [gate, gate, gate], [1, 2, 3])) as results:
        assert await anext(results) == 1


async def test_leaving_early_does_not_wait_for_what_may_be_abandoned(place: Any, gate: Gate, begun: Gate) -> None:
    def wait(number: int, begun: Gate, gate: Gate) -> int:
        return process_targets.announce_and_wait(begun, gate, number) if number else number

    abandoned = bridge.offload(to=place, cancel="abandon")(wait)
    arguments = (range(2), itertools.repeat(begun), itertools.repeat(gate))
    async with aclosing(bridge.map(abandoned, *arguments)) as results:
        assert await anext(results) == 0
        await begun.reached()
    assert not gate.is_open()
    gate.open()


async def test_a_function_in_a_process_that_is_to_be_waited_for_is_not_killed(
    processes: bridge.ProcessExecutor, begun: Gate, new_gate: Callable[[str], Gate]
) -> None:
    ended = new_gate("ended")
    patient = bridge.offload(to=processes, timeout=0.5, cancel="wait")(process_targets.announce_and_wait)
    opener = threading.Timer(1.5, ended.open)  # later than `grace` would have ended it
    opener.start()
    (error,) = await all_of(bridge.map(patient, [begun], [ended], errors="return"))
    opener.join()
    assert type(error) is bridge.OffloadTimeout
    assert alive(int(begun.wait()))


async def test_partials_and_methods_of_decorated_functions(place: Any) -> None:
    divide = bridge.offload(to=place)(targets.divide)
    assert await all_of(bridge.map(functools.partial(divide, 12), [3, 4])) == [4, 3]
    assert await all_of(bridge.map(functools.partial(functools.partial(divide, scale=10), 12), [3, 4])) == [40, 30]
    error = await error_of(bridge.map(functools.partial(divide, 12), [3, 0]))
    assert note_on(error) == "bridge.map input 1 (the first is 0): map_targets.divide(0)"

    class Scale:
        def __init__(self, factor: int):
            self.factor = factor

        @bridge.offload
        def times(self, number: int) -> int:
            return self.factor * number

        @classmethod
        @bridge.offload
        def name_and(cls, number: int) -> tuple[str, int]:
            return cls.__name__, number

    assert await all_of(bridge.map(Scale(3).times, [1, 2], to=place)) == [3, 6]
    assert await all_of(bridge.map(Scale.name_and, [1], to=place)) == [("Scale", 1)]


async def test_a_decorator_around_it_makes_another_function_of_it() -> None:
    @bridge.offload
    def inner(number: int) -> int:
        raise AssertionError("the decorator around it was left out")

    @functools.wraps(inner)
    async def outer(number: int) -> int:
        return -number

    with pytest.raises(TypeError, match="inner is an async function"):
        bridge.map(outer, [1])


async def test_a_policy_that_the_given_executor_cannot_keep_is_refused(threads: bridge.ThreadExecutor) -> None:
    killed = bridge.offload(to="process", cancel="kill")(targets.check)
    for to in ("thread", threads):
        with pytest.raises(ValueError, match="cancel='kill' is not possible on"):
            bridge.map(killed, [1], to=to)
    with pytest.raises(ValueError, match="cancel='kill' is not possible on"):
        threads.amap(killed, [1])


async def test_an_async_function_is_refused_before_anything_is_read(places: dict[str, Any]) -> None:
    for name in ("thread", "foreign threads", "foreign processes"):
        with pytest.raises(TypeError, match="double_on_a_loop is an async function"):
            places[name].amap(targets.double_on_a_loop, [1], errors="return")


async def test_the_signature_says_where_functions_run_by_default() -> None:
    assert inspect.signature(bridge.map).parameters["to"].default == "thread"

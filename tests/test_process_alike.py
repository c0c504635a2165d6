"""Short calls of one function travel in one frame: each is still a call of its own, whatever becomes of its neighbours.

Most tests let a worker wait at a gate while calls are submitted, so that it is given all of them together afterwards;
`batches` tells how many calls each frame had. How long a function takes is told to the executor, not measured.
"""

# ruff: noqa: F811 - fixtures are imported by name
from __future__ import annotations

import asyncio
import os
import pickle
import random
import socket
import sys
import threading
import types
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import alike_targets as alike
import anyio
import numpy as np
import process_targets as targets
import pytest
import trio
import worker_arrays as arrays
from anyio.abc import TaskGroup
from process_targets import Deliberate, Gate, Tally

import bridge
from bridge.executors.process import dispatcher, roster
from bridge.executors.process.member import MOST_IN_FLIGHT, Member
from bridge.executors.process.outcomes import pace_key
from bridge.executors.process.wire import frames
from bridge.executors.process.wire.alike import HEAD, AlikeCalls, are_harmless, can_be_shared, pack_alike
from bridge.executors.process.wire.page import SIZE, SharedPage, anonymous_file
from bridge.executors.process.worker.line import Line
from bridge.loop.asyncio_host import AsyncioHost
from bridge.loop.hosts import current_host
from bridge.threads.job import Job
from tests.conftest import PATIENCE, within
from tests.processes import (  # noqa: F401
    Attempt,
    anyio_backend,
    begun,
    executor,
    gate,
    new_gate,
    no_thread_left,
    tally,
    until,
)

pytestmark = [pytest.mark.anyio, pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX")]

#: Seconds that a function is said to take.
SHORT = 1e-6
LONG = 1.0


@pytest.fixture(scope="module")
async def one(anyio_backend: tuple[str, dict[str, Any]]) -> AsyncIterator[bridge.ProcessExecutor]:
    """A single worker: calls begin in the order of submission."""
    async with bridge.ProcessExecutor(1, name="single", grace=0.05) as executor:
        yield executor


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many calls each frame of several had, in order."""
    sizes: list[int] = []

    def spy(fn: Callable[..., Any], arguments: list[tuple[Any, ...]]) -> bytes:
        sizes.append(len(arguments))
        return pack_alike(fn, arguments)

    monkeypatch.setattr(dispatcher, "pack_alike", spy)
    return sizes


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """What lies in the pipe of a slow worker stays there. For executors that the test makes itself."""
    monkeypatch.setattr(roster, "OVERDUE", 3600.0)


def known_to_take(executor: bridge.ProcessExecutor, seconds: float, *functions: Callable[..., Any]) -> None:
    for fn in functions:
        executor._crew.roster.outcomes.paces[pace_key(fn)] = seconds


class Crowd:
    """Workers that wait at gates of their own, and calls that queue up behind them, one after another."""

    def __init__(self, executor: bridge.ProcessExecutor, tasks: TaskGroup, new_gate: Callable[[str], Gate]):
        self.attempts: list[Attempt] = []
        self._executor = executor
        self._tasks = tasks
        self._new_gate = new_gate
        self._gates: list[Gate] = []
        self._holds: list[Attempt] = []
        self.pids: list[int] = []

    async def hold(self) -> None:
        """Keep one more worker busy."""
        known_to_take(self._executor, LONG, targets.announce_and_wait)
        number = len(self._gates)
        begun, gate = self._new_gate(f"holds-{number}"), self._new_gate(f"lets-go-{number}")
        hold = Attempt()
        self._tasks.start_soon(hold.make, self._executor.run, targets.announce_and_wait, begun, gate)
        self.pids.append(int(await begun.reached()))
        self._gates.append(gate)
        self._holds.append(hold)

    async def submit(self, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Attempt:
        """The call is in the queue, behind all others, when this returns."""

        async def run() -> Any:
            return await self._executor.run(fn, *args, **kwargs)

        attempt = Attempt()
        self._tasks.start_soon(attempt.make, run)
        self.attempts.append(attempt)
        await until(lambda: self._executor.statistics().queued == len(self.attempts))
        return attempt

    async def let_go(self, number: int = 0) -> None:
        self._gates[number].open()
        await until(lambda: self._holds[number].over)

    async def end(self) -> None:
        for each in self._gates:
            each.open()
        await until(lambda: all(attempt.over for attempt in self.attempts + self._holds))

    @property
    def values(self) -> list[Any]:
        return [attempt.value for attempt in self.attempts]


@asynccontextmanager
async def crowd_of(
    executor: bridge.ProcessExecutor, new_gate: Callable[[str], Gate], *short: Callable[..., Any], held: int = 1
) -> AsyncIterator[Crowd]:
    """`held` workers are busy, and the functions named are known to be short."""
    async with anyio.create_task_group() as tasks:
        crowd = Crowd(executor, tasks, new_gate)
        for _ in range(held):
            await crowd.hold()
        known_to_take(executor, SHORT, *short)
        try:
            yield crowd
        except BaseException:
            tasks.cancel_scope.cancel()
            raise
        await crowd.end()


# -- answers -------------------------------------------------------------------------------------------------------------


def _questions(dice: random.Random) -> list[tuple[Any, tuple[Any, ...], dict[str, Any], Any]]:
    """Function, arguments, keyword arguments and answer; alike ones often behind one another, but not always."""
    kinds: list[Callable[[int], tuple[Any, tuple[Any, ...], dict[str, Any], Any]]] = [
        lambda n: (targets.echo, (n,), {}, n),
        lambda n: (targets.echo, (n, None, -n / 7, True, 1j * n), {}, (n, None, -n / 7, True, 1j * n)),
        lambda n: (targets.echo, (f"text {n}",), {}, f"text {n}"),
        lambda n: (targets.echo, (f"{n}" * 1000,), {}, f"{n}" * 1000),
        lambda n: (targets.echo, (bytes([n % 256]) * 70_000,), {}, bytes([n % 256]) * 70_000),
        lambda n: (targets.echo, (n << 5000,), {}, n << 5000),
        lambda n: (targets.echo, (), {"n": n, "fn": 1}, {"n": n, "fn": 1}),
        lambda n: (targets.echo, ([n, {"n": (n, {n})}],), {}, [n, {"n": (n, {n})}]),
        lambda n: (targets.echo, tuple(range(n, n + 20)), {}, tuple(range(n, n + 20))),
        lambda n: (pow, (2, n % 50), {}, 2 ** (n % 50)),
        lambda n: (pow, (n, 3, 1000), {}, n**3 % 1000),
        lambda n: (alike.nothing, (n,), {}, None),
        lambda n: (targets.sleep_and_return, (n,), {}, n),
        lambda n: (arrays.total, (np.full(12_500, n),), {}, 12_500.0 * n),
        lambda n: (lambda x: (x, n), (3,), {}, (3, n)),
    ]
    questions = []
    for number in range(60):
        kind = dice.choice(kinds)
        questions += [kind(number * 10 + each) for each in range(dice.randrange(1, 6))]
    return questions


async def test_answers_of_calls_of_all_kinds_at_once_are_not_mixed_up(
    executor: bridge.ProcessExecutor, batches: list[int]
) -> None:
    questions = _questions(random.Random(7))
    answers: dict[int, Any] = {}

    async def ask(number: int, fn: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        answers[number] = await executor.run(fn, *args, **kwargs)

    await executor.run(arrays.filled, 0.0, 1)  # numpy is imported
    for _ in range(3):
        known_to_take(executor, SHORT, targets.echo, pow, alike.nothing, targets.sleep_and_return)
        answers.clear()
        async with anyio.create_task_group() as tasks:
            for number, (fn, args, kwargs, _) in enumerate(questions):
                tasks.start_soon(ask, number, fn, args, kwargs)
        wrong = [(n, q[0], answers[n], q[3]) for n, q in enumerate(questions) if answers[n] != q[3]]
        assert not wrong
        assert [type(answers[n]) for n in range(len(questions))] == [type(q[3]) for q in questions]
    assert batches
    assert max(batches) > 1


async def test_calls_in_one_frame_have_their_own_answers_and_errors(
    one: bridge.ProcessExecutor, new_gate: Callable[[str], Gate], tally: Tally, batches: list[int]
) -> None:
    async with crowd_of(one, new_gate, alike.act) as crowd:
        for number in range(20):
            await crowd.submit(alike.act, tally.path, number, "raise" if number in (0, 7, 19) else "")
    assert batches[0] == 20
    for number, attempt in enumerate(crowd.attempts):
        if number in (0, 7, 19):
            assert isinstance(attempt.error, Deliberate)
            assert str(attempt.error) == str(number)
            assert any("test_process_alike.py" in note for note in attempt.error.__notes__)
        else:
            assert attempt.value == (number, crowd.pids[0])
    assert tally.lines() == [str(number) for number in range(20)]


async def test_what_is_different_is_not_put_in_the_frame_and_keeps_its_place(
    one: bridge.ProcessExecutor, new_gate: Callable[[str], Gate], tally: Tally, batches: list[int]
) -> None:
    async with crowd_of(one, new_gate, alike.act) as crowd:
        for number in range(12):
            if number == 3:
                await crowd.submit(alike.act, tally.path, ident=number)
            elif number == 8:
                await crowd.submit(targets.add_and_return, tally, number)
            else:
                await crowd.submit(alike.act, tally.path, number)
    assert crowd.attempts[3].value == (3, crowd.pids[0])
    assert tally.lines() == [str(number) for number in range(12)]
    assert batches[0] == 3
    assert max(batches) <= 4


async def test_coroutine_functions_may_travel_together(
    one: bridge.ProcessExecutor, new_gate: Callable[[str], Gate], batches: list[int]
) -> None:
    async with crowd_of(one, new_gate, targets.sleep_and_return) as crowd:
        for number in range(10):
            await crowd.submit(targets.sleep_and_return, number, 0.0001)
    assert crowd.values == list(range(10))
    assert batches[0] == 10


async def test_a_function_that_returns_nothing_returns_none(one: bridge.ProcessExecutor) -> None:
    nothing: Any = alike.nothing
    assert await one.run(nothing) is None
    assert await one.run(targets.echo, (None,)) == (None,)
    assert await one.run(targets.echo, [None]) == [None]
    assert await one.run(targets.sleep_and_return, None) is None


async def test_what_cannot_be_packed_together_is_packed_one_by_one(
    one: bridge.ProcessExecutor, new_gate: Callable[[str], Gate], tally: Tally, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[int] = []

    def refuse(fn: Callable[..., Any], arguments: list[tuple[Any, ...]]) -> bytes:
        tried.append(len(arguments))
        raise pickle.PicklingError("something odd about it")

    monkeypatch.setattr(dispatcher, "pack_alike", refuse)
    async with crowd_of(one, new_gate, alike.act) as crowd:
        for number in range(8):
            await crowd.submit(alike.act, tally.path, number)
    assert tried[0] == 8
    assert crowd.values == [(number, crowd.pids[0]) for number in range(8)]
    assert tally.lines() == [str(number) for number in range(8)]


async def test_a_batch_is_no_longer_than_what_a_worker_may_still_do(new_gate: Callable[[str], Gate]) -> None:
    async with bridge.ProcessExecutor(1, max_tasks_per_child=7) as executor:
        async with crowd_of(executor, new_gate, targets.pid_of) as crowd:
            for _ in range(20):
                await crowd.submit(targets.pid_of)
        pids = [*crowd.pids, *crowd.values]
    assert list(Counter(pids).values()) == [7, 7, 7]
    assert [pids[n] for n in range(0, 21, 7)] == list(dict.fromkeys(pids))


# -- crashes -------------------------------------------------------------------------------------------------------------


async def test_of_a_batch_whose_worker_dies_only_the_running_call_fails(
    one: bridge.ProcessExecutor, new_gate: Callable[[str], Gate], tally: Tally, batches: list[int]
) -> None:
    crashing = (4, 5, 13)
    async with crowd_of(one, new_gate, alike.act) as crowd:
        for number in range(20):
            await crowd.submit(alike.act, tally.path, number, "die" if number in crashing else "")
    assert batches[0] == 20
    failed = [n for n, attempt in enumerate(crowd.attempts) if isinstance(attempt.error, bridge.WorkerDied)]
    assert failed == list(crashing)
    values = [attempt.value for n, attempt in enumerate(crowd.attempts) if n not in crashing]
    assert [ident for ident, _ in values] == [n for n in range(20) if n not in crashing]
    pids = dict(values)
    assert {pids[n] for n in range(4)} == {crowd.pids[0]}
    assert len({pids[n] for n in (0, 6, 14)}) == 3
    assert tally.lines() == [str(number) for number in range(20)]  # each once, in order


async def test_the_last_of_a_batch_may_die_and_the_first(
    one: bridge.ProcessExecutor, new_gate: Callable[[str], Gate], tally: Tally, batches: list[int]
) -> None:
    async with crowd_of(one, new_gate, alike.act) as crowd:
        for number in range(6):
            await crowd.submit(alike.act, tally.path, number, "die" if number in (0, 5) else "")
    assert batches[0] == 6
    assert [type(attempt.error) for attempt in crowd.attempts] == [
        bridge.WorkerDied,
        *[type(None)] * 4,
        bridge.WorkerDied,
    ]
    assert tally.lines() == [str(number) for number in range(6)]


# -- longer than expected ------------------------------------------------------------------------------------------------


async def test_what_lies_behind_a_call_that_proves_long_runs_elsewhere_meanwhile(
    executor: bridge.ProcessExecutor,
    new_gate: Callable[[str], Gate],
    tally: Tally,
    batches: list[int],
    begun: Gate,
    gate: Gate,
) -> None:
    async with crowd_of(executor, new_gate, alike.act, held=2) as crowd:
        for number in range(12):
            deed = ("wait", begun.path, gate.path) if number == 3 else ()
            await crowd.submit(alike.act, tally.path, number, *deed)
        await crowd.let_go(0)
        assert int(await begun.reached()) == crowd.pids[0]
        await crowd.let_go(1)
        await until(lambda: sum(attempt.over for attempt in crowd.attempts) == 11)
        assert not crowd.attempts[3].over
        gate.open()
    assert batches[0] == 12
    first, second = crowd.pids
    assert crowd.values == [(number, first if number < 4 else second) for number in range(12)]
    assert tally.lines() == [str(number) for number in range(12)]


# -- a function that the worker does not have ----------------------------------------------------------------------------


@pytest.fixture
def elsewhere() -> Iterator[Callable[[int], int]]:
    """A function of a module that only this process has."""
    module = types.ModuleType("only_at_home")
    exec("def double(number):\n    return 2 * number\n", vars(module))
    sys.modules["only_at_home"] = module
    yield module.double
    del sys.modules["only_at_home"]


async def _each_of_them_fails(
    executor: bridge.ProcessExecutor, new_gate: Callable[[str], Gate], fn: Callable[[int], int], reason: str
) -> None:
    async with crowd_of(executor, new_gate, fn) as crowd:
        for number in range(6):
            await crowd.submit(fn, number)
    messages = {str(attempt.error) for attempt in crowd.attempts}
    assert [type(attempt.error) for attempt in crowd.attempts] == [pickle.UnpicklingError] * 6
    assert len(messages) == 1
    assert reason in messages.pop()
    assert await executor.run(targets.pid_of) == crowd.pids[0]


async def test_a_module_that_the_worker_cannot_import_fails_each_call_and_says_why(
    one: bridge.ProcessExecutor,
    new_gate: Callable[[str], Gate],
    batches: list[int],
    elsewhere: Callable[[int], int],
) -> None:
    await _each_of_them_fails(one, new_gate, elsewhere, "only_at_home'. Make it importable there")
    assert batches[0] == 6


async def test_a_name_that_the_worker_does_not_know_fails_each_call_and_says_why(
    one: bridge.ProcessExecutor, new_gate: Callable[[str], Gate], batches: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def triple(number: int) -> int:
        return 3 * number

    triple.__module__, triple.__qualname__ = targets.__name__, "triple"
    monkeypatch.setattr(targets, "triple", triple, raising=False)
    await one.run(targets.pid_of)  # the worker has imported the module without it
    await _each_of_them_fails(one, new_gate, triple, "after the other process imported that module")
    assert batches[0] == 6


# -- cancelling ----------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("patient")
async def test_one_of_a_batch_that_is_cancelled_before_it_begins_never_runs(
    new_gate: Callable[[str], Gate], tally: Tally, batches: list[int], begun: Gate, gate: Gate
) -> None:
    async with bridge.ProcessExecutor(1) as executor, crowd_of(executor, new_gate, alike.act) as crowd:
        for number in range(10):
            deed = ("wait", begun.path, gate.path) if number == 2 else ()
            await crowd.submit(alike.act, tally.path, number, *deed)
        await crowd.let_go()
        await begun.reached()
        for number in (3, 6, 9):
            crowd.attempts[number].scope.cancel()
        await until(lambda: all(crowd.attempts[number].over for number in (3, 6, 9)))
        assert not crowd.attempts[2].over
        gate.open()
    assert batches[0] == 10
    assert [n for n, attempt in enumerate(crowd.attempts) if attempt.cancelled] == [3, 6, 9]
    left = [0, 1, 2, 4, 5, 7, 8]
    assert [crowd.attempts[n].value for n in left] == [(n, crowd.pids[0]) for n in left]
    assert tally.lines() == [str(n) for n in left]


async def test_one_of_a_batch_that_is_cancelled_and_killed_takes_no_other_along(
    one: bridge.ProcessExecutor, new_gate: Callable[[str], Gate], tally: Tally, batches: list[int], begun: Gate
) -> None:
    async with crowd_of(one, new_gate, alike.act) as crowd:
        for number in range(10):
            await crowd.submit(alike.act, tally.path, number, *(("for ever", begun.path) if number == 4 else ()))
        await crowd.let_go()
        assert int(await begun.reached()) == crowd.pids[0]
        crowd.attempts[4].scope.cancel()
    assert batches[0] == 10
    assert [n for n, attempt in enumerate(crowd.attempts) if attempt.cancelled] == [4]
    left = [0, 1, 2, 3, 5, 6, 7, 8, 9]
    assert [crowd.attempts[n].value[0] for n in left] == left
    assert {crowd.attempts[n].value[1] for n in range(4)} == {crowd.pids[0]}
    assert crowd.pids[0] not in {crowd.attempts[n].value[1] for n in range(5, 10)}
    assert tally.lines() == [str(number) for number in range(10)]


@pytest.mark.parametrize("number", [0, 1, 5])
async def test_a_call_may_be_withdrawn_by_another_thread_just_when_it_is_looked_at(
    tally: Tally, monkeypatch: pytest.MonkeyPatch, gate: Gate, begun: Gate, number: int
) -> None:
    looked_at = dispatcher._goes_along
    executor = bridge.ProcessExecutor(1)
    try:
        known_to_take(executor, LONG, targets.announce_and_wait)
        hold = executor.submit(targets.announce_and_wait, begun, gate)
        await begun.reached()
        known_to_take(executor, SHORT, alike.act)
        futures = [executor.submit(alike.act, tally.path, each) for each in range(10)]

        def cancel_meanwhile(job: Job) -> bool:
            if job.args is not None and job.args[1] == number:
                assert futures[number].cancel()
            return looked_at(job)

        monkeypatch.setattr(dispatcher, "_goes_along", cancel_meanwhile)
        gate.open()
        await until(lambda: hold.done() and all(future.done() for future in futures))
        assert [n for n, future in enumerate(futures) if future.cancelled()] == [number]
        assert tally.lines() == [str(n) for n in range(10) if n != number]
    finally:
        executor.close_within(PATIENCE / 2)  # calls that are lost would keep `async with` from ending


# -- everything at once --------------------------------------------------------------------------------------------------


class Case:
    """One call, and what may become of it."""

    def __init__(self, ident: int, dice: random.Random, path: str):
        self.ident = ident
        self.attempt = Attempt()
        self.deed = dice.choices(["", "raise", "longer", "die"], [60, 6, 4, 0.8])[0]
        self.cancel_after = dice.random() * 0.02 if dice.random() < 0.2 else None
        padding = ("x" * dice.choice([0, 10, 256, 257, 5000]),)
        self.args = (path, ident, self.deed, *padding) if dice.random() < 0.7 else (path, ident, self.deed)
        self.kwargs = {"gate": "y" * dice.randrange(300)} if dice.random() < 0.15 else {}

    def right(self, ran: int) -> bool:
        attempt = self.attempt
        if attempt.cancelled:
            return ran <= 1 and self.cancel_after is not None
        if self.deed == "die":
            return ran == 1 and isinstance(attempt.error, bridge.WorkerDied)
        if self.deed == "raise":
            return ran == 1 and isinstance(attempt.error, Deliberate) and str(attempt.error) == str(self.ident)
        return ran == 1 and attempt.error is None and attempt.value[0] == self.ident


@pytest.mark.parametrize("seed", [1, 2])
async def test_every_call_of_a_wild_mixture_is_accounted_for(
    executor: bridge.ProcessExecutor, tally: Tally, batches: list[int], seed: int
) -> None:
    dice = random.Random(seed)
    cases: list[Case] = []

    async def run(case: Case) -> Any:
        act: Any = alike.act
        return await executor.run(act, *case.args, **case.kwargs)

    async def cancel(case: Case, seconds: float) -> None:
        await anyio.sleep(seconds)
        case.attempt.scope.cancel()

    for _ in range(4):
        known_to_take(executor, SHORT, alike.act)
        async with anyio.create_task_group() as tasks:
            for _ in range(120):
                case = Case(len(cases), dice, tally.path)
                cases.append(case)
                tasks.start_soon(case.attempt.make, run, case)
                if case.cancel_after is not None:
                    tasks.start_soon(cancel, case, case.cancel_after)
    ran = tally.count()
    wrong = [
        (c.ident, c.deed, c.attempt.cancelled, c.attempt.value, c.attempt.error, ran[str(c.ident)])
        for c in cases
        if not (c.attempt.over and c.right(ran[str(c.ident)]))
    ]
    assert not wrong
    assert set(ran) <= {str(case.ident) for case in cases}
    assert any(case.deed == "die" for case in cases)
    assert batches
    assert await executor.run(pow, 2, 5) == 32


# -- which calls travel together -----------------------------------------------------------------------------------------


class _Number(int): ...


class _Text(str): ...


@pytest.mark.parametrize(
    ("args", "harmless"),
    [
        pytest.param((), True, id="nothing"),
        pytest.param((1, 1.5, True, None, 2j, "text", b"bytes"), True, id="atoms"),
        pytest.param((1 << 2000,), True, id="large number"),
        pytest.param(tuple(range(16)), True, id="16"),
        pytest.param(tuple(range(17)), False, id="17"),
        pytest.param(("x" * 256, b"x" * 256), True, id="texts"),
        pytest.param(("x" * 257,), False, id="long text"),
        pytest.param((b"x" * 257,), False, id="long bytes"),
        pytest.param((_Number(1),), False, id="kind of int"),
        pytest.param((_Text("x"),), False, id="kind of str"),
        pytest.param((bytearray(b"x"),), False, id="bytearray"),
        pytest.param(((),), False, id="tuple"),
        pytest.param(([],), False, id="list"),
        pytest.param((1, {}), False, id="dict"),
        pytest.param((pow,), False, id="function"),
    ],
)
def test_only_atoms_and_short_texts_are_harmless(args: tuple[Any, ...], harmless: bool) -> None:
    assert are_harmless(args) is harmless


def test_only_functions_that_go_by_their_names_can_be_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    def local() -> None: ...

    for fn in (alike.act, targets.sleep_and_return, pow, os.getpid):
        assert can_be_shared(fn), fn
    account = targets.Account(1)
    others: Any = (local, lambda: 1, account, account.add, targets.Account, [].append, "x".join, dict.fromkeys)
    assert not any(map(can_be_shared, others))
    original = alike.nothing
    monkeypatch.setattr(alike, "nothing", local)
    assert not can_be_shared(original)
    monkeypatch.setattr(local, "__module__", "__main__")
    monkeypatch.setattr(sys.modules["__main__"], local.__qualname__, local, raising=False)
    assert not can_be_shared(local)


def test_functions_of_modules_that_travel_by_value_are_not_shared() -> None:
    import cloudpickle

    assert can_be_shared(alike.act)
    cloudpickle.register_pickle_by_value(alike)
    try:
        assert not can_be_shared(alike.act)
    finally:
        cloudpickle.unregister_pickle_by_value(alike)


class CountingUnpacker:
    def __init__(self, failures: int = 0):
        self.count = 0
        self.failures = failures

    def unpack(self, parcel: bytes) -> Any:
        self.count += 1
        if self.count <= self.failures:
            raise pickle.UnpicklingError("cannot rebuild it")
        return pickle.loads(parcel)


def test_a_parcel_of_several_calls_is_opened_once_and_only_when_the_first_begins() -> None:
    calls = AlikeCalls(250, pack_alike(pow, [(2, n) for n in range(10)]))
    unpacker: Any = CountingUnpacker()
    assert [calls.take(seq, unpacker) for seq in (250, 253, 259)] == [(pow, (2, n)) for n in (0, 3, 9)]
    assert unpacker.count == 1


def test_a_parcel_that_cannot_be_opened_says_so_for_each_call() -> None:
    calls = AlikeCalls(1, pack_alike(pow, [(2, n) for n in range(3)]))
    unpacker: Any = CountingUnpacker(failures=2)
    for seq in (1, 2):
        with pytest.raises(pickle.UnpicklingError, match="cannot rebuild it"):
            calls.take(seq, unpacker)
    assert calls.take(3, unpacker) == (pow, (2, 2))


# -- the parent's side, without a process --------------------------------------------------------------------------------


@pytest.fixture
def member() -> Iterator[Member]:
    """A worker as the parent sees it; its process is this one, and does nothing."""
    mine, yours = socket.socketpair()
    lines: Any = types.SimpleNamespace(child=types.SimpleNamespace(pid=os.getpid()), sock=mine, descriptors=None)
    lines.take, lines.give = os.pipe2(os.O_NONBLOCK)
    nobody: Any = None
    member = Member(nobody, lines, None)
    member.peer = yours  # type: ignore[attr-defined]
    yield member
    for sock in (mine, yours):
        sock.close()
    for descriptor in (lines.take, lines.give):
        os.close(descriptor)


def _jobs(count: int) -> list[Job]:
    return [Job(pow, (2, n), {}, None) for n in range(count)]


def _sent(member: Any) -> list[tuple[int, int, bytes]]:
    member.flush()
    return [(kind, ident, bytes(p)) for kind, ident, p in frames.frames_in(memoryview(member.peer.recv(1 << 16)))]


def test_several_calls_are_one_frame_and_the_first_needs_no_permit_in_an_idle_worker(member: Member) -> None:
    jobs = _jobs(5)
    member.give_alike(jobs, b"parcel", 0.25)
    assert _sent(member) == [(frames.JOBS, 1, HEAD.pack(0, 5) + b"parcel")]
    assert os.read(member.lifelines.take, 256) == bytes([2, 3, 4, 5])
    assert member.in_flight == {n + 1: (job, 0.25) for n, job in enumerate(jobs)}
    assert member.backlog == 1.25


def test_behind_others_each_call_of_a_frame_has_a_permit(member: Member) -> None:
    first, *others = _jobs(3)
    member._seq = 254
    member.give(first, b"alone", 0, 0.0)
    member.give_alike(others, b"both", 0.0)
    assert _sent(member) == [
        (frames.JOB, 255, b"\0alone"),
        (frames.JOBS, 256, HEAD.pack(frames.PERMIT, 2) + b"both"),
    ]
    assert member.take_back() == others  # 256 and 257, whose permits are 0 and 1
    assert list(member.in_flight) == [255]


def test_calls_of_a_frame_count_and_those_taken_back_do_not(member: Member) -> None:
    member.tasks_left = 6
    member.give_alike(_jobs(5), b"", 0.0)
    assert member.tasks_left == 1
    assert len(member.take_back()) == 4
    assert member.tasks_left == 5


def test_there_is_room_for_so_many_calls(member: Member) -> None:
    assert member.room(0.0, 0.001) == member.room(1e-9, 0.001) == MOST_IN_FLIGHT
    assert member.room(0.001, 0.01) == 10
    assert member.room(1.0, 0.001) == 1
    member.give_alike(_jobs(4), b"", 0.001)
    assert member.room(0.001, 0.0105) == 6
    assert member.room(0.0, 0.01) == MOST_IN_FLIGHT - 4
    member.tasks_left = 3
    assert member.room(0.0, 0.01) == member.room(0.001, 0.01) == 3


# -- what a worker keeps to be sent --------------------------------------------------------------------------------------


class Interrupted(Line):
    """A line at which something happens while a frame is being put into the outbox."""

    meanwhile: Callable[[], object] | None = None

    def _keep(self, data: bytes) -> None:
        meanwhile, self.meanwhile = self.meanwhile, None
        if meanwhile is not None:
            meanwhile()
        super()._keep(data)


@pytest.fixture
def line() -> Iterator[tuple[Interrupted, socket.socket]]:
    """A worker's end of the line, and the socket at the other end."""
    mine, yours = socket.socketpair()
    yours.setblocking(False)
    descriptor = anonymous_file("page", SIZE)
    page = SharedPage(descriptor)
    os.close(descriptor)
    stand_in: Any = types.SimpleNamespace(close=lambda: None)
    yield Interrupted(mine, stand_in, -1, page), yours
    mine.close()
    yours.close()
    page.close()


def _frame(number: int) -> bytes:
    return frames.frame(frames.RESULT, number, b"result")


def _kept(line: Line) -> list[int]:
    return [ident for _, ident, _ in line.page.unsent() or ()]


def _arrived(peer: socket.socket) -> list[int]:
    try:
        return [ident for _, ident, _ in frames.frames_in(memoryview(peer.recv(1 << 16)))]
    except BlockingIOError:
        return []


def test_a_kept_frame_is_in_the_outbox_and_not_sent(line: tuple[Interrupted, socket.socket]) -> None:
    ours, peer = line
    ours.keep(_frame(1))
    ours.keep(_frame(2))
    assert (_kept(ours), _arrived(peer)) == ([1, 2], [])
    ours.flush()
    assert (_kept(ours), _arrived(peer)) == ([], [1, 2])


def _while_another_thread_keeps(line: Interrupted, then: Callable[[], object]) -> None:
    """Do `then` in this thread while another one is about to put frame 1 into the outbox, and holds the lock."""
    inside, go_on = threading.Event(), threading.Event()

    def meanwhile() -> None:
        inside.set()
        assert go_on.wait(PATIENCE)

    line.meanwhile = meanwhile
    thread = threading.Thread(target=line.keep, args=(_frame(1),))
    thread.start()
    assert inside.wait(PATIENCE)
    try:
        then()
    finally:
        go_on.set()
        within(thread)


def test_a_frame_kept_while_another_thread_keeps_one_is_not_lost(line: tuple[Interrupted, socket.socket]) -> None:
    ours, peer = line
    _while_another_thread_keeps(ours, lambda: [*map(ours.keep, map(_frame, (2, 3)))])
    assert (_kept(ours), _arrived(peer)) == ([1, 2, 3], [])


def test_a_frame_sent_while_another_thread_keeps_one_is_sent_by_that_thread(
    line: tuple[Interrupted, socket.socket],
) -> None:
    ours, peer = line
    _while_another_thread_keeps(ours, lambda: ours.send(frames.CALL, 2))
    assert (_kept(ours), _arrived(peer)) == ([], [1, 2])


def test_a_flush_while_another_thread_keeps_a_frame_is_done_by_that_thread(
    line: tuple[Interrupted, socket.socket],
) -> None:
    ours, peer = line
    ours.keep(_frame(0))
    _while_another_thread_keeps(ours, ours.flush)
    assert (_kept(ours), _arrived(peer)) == ([], [0, 1])


@pytest.mark.parametrize("urgent", [False, True], ids=["keeps", "sends"])
def test_a_finalizer_within_keep_may_use_the_line(line: tuple[Interrupted, socket.socket], urgent: bool) -> None:
    ours, peer = line
    ours.meanwhile = (lambda: ours.send(frames.LOG, 2)) if urgent else (lambda: ours.keep(_frame(2)))
    ours.keep(_frame(1))
    assert (_kept(ours), _arrived(peer)) == (([], [1, 2]) if urgent else ([1, 2], []))
    ours.keep(_frame(3))
    ours.flush()
    assert _arrived(peer) == ([3] if urgent else [1, 2, 3])


def test_what_is_kept_behind_pending_frames_stays_behind_them(line: tuple[Interrupted, socket.socket]) -> None:
    ours, peer = line
    ours._pending.append(_frame(1))  # somebody was interrupted right after this
    ours.keep(_frame(2))
    assert (_kept(ours), _arrived(peer)) == ([1, 2], [])


# -- trio as the guest of an asyncio loop --------------------------------------------------------------------------------


@pytest.mark.parametrize("anyio_backend", ["bridge", "asyncio", "uvloop"], indirect=True)
async def test_in_a_guest_run_each_task_finds_the_host_of_its_own_kind(
    anyio_backend: tuple[str, dict[str, Any]], executor: bridge.ProcessExecutor
) -> None:
    loop = asyncio.get_running_loop()
    ours = current_host()
    turn = [0]  # even: trio's, odd: asyncio's
    found: dict[str, list[Any]] = {"trio": [], "asyncio": [], "callback": []}
    over: asyncio.Future[Any] = loop.create_future()

    async def guest() -> int:
        answer = await executor.run(pow, 2, 4)
        while turn[0] < 20:
            if turn[0] % 2 == 0:
                found["trio"].append(current_host())
                loop.call_soon(lambda: found["callback"].append(current_host()))
                turn[0] += 1
            await trio.sleep(0)
            found["trio"].append(current_host())
        return answer

    async def native() -> None:
        while turn[0] < 20:
            if turn[0] % 2:
                found["asyncio"].append(current_host())
                assert await executor.run(pow, 2, 5) == 32
                found["asyncio"].append(current_host())
                turn[0] += 1
            await asyncio.sleep(0)

    trio.lowlevel.start_guest_run(
        guest,
        run_sync_soon_threadsafe=loop.call_soon_threadsafe,
        done_callback=over.set_result,
        host_uses_signal_set_wakeup_fd=True,
    )
    assert current_host() is ours
    async with asyncio.timeout(PATIENCE):
        await native()
        outcome = await over
    assert outcome.unwrap() == 16
    assert current_host() is ours
    assert isinstance(ours, AsyncioHost)
    assert set(found["asyncio"]) == set(found["callback"]) == {ours}
    hosts = set(found["trio"])
    assert len(hosts) == 1
    assert type(hosts.pop()).__name__ == "TrioHost"
    assert len(found["trio"]) >= 20

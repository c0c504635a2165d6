"""Bad pickles on the way to a worker and back: that job's error, with the path to what is at fault, and nobody else's."""

# ruff: noqa: F811 - fixtures are imported by name
from __future__ import annotations

import os
import pickle
import sqlite3
import sys
import types
from collections.abc import Iterator
from typing import Any

import process_targets as targets
import pytest
from process_targets import Stubborn

import bridge
from tests.processes import (  # noqa: F401
    anyio_backend,
    attempt_all,
    collect,
    executor,
    no_thread_left,
    until,
)

pytestmark = [pytest.mark.anyio, pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX")]

HOME = os.getpid()


class Holder:
    def __init__(self, connection: object):
        self.connection = connection


async def test_an_argument_that_cannot_be_pickled_is_named_with_its_path(executor: bridge.ProcessExecutor) -> None:
    with sqlite3.connect(":memory:") as connection:
        with pytest.raises(pickle.PicklingError, match=r"args\[0\]\['db'\]\.connection.*sqlite3\.Connection"):
            await executor.run(targets.echo, {"db": Holder(connection)})
        with pytest.raises(pickle.PicklingError, match=r"kwargs\['db'\].*sqlite3\.Connection"):
            await executor.run(targets.echo, db=connection)
    connection.close()


async def test_a_reduce_that_raises_is_that_jobs_error(executor: bridge.ProcessExecutor) -> None:
    with pytest.raises(pickle.PicklingError, match=r"args\[1\]\[0\].*cannot be reduced") as caught:
        await executor.run(targets.echo, 1, [Stubborn("at once", HOME)])
    assert isinstance(caught.value.__cause__ or caught.value.__context__, ValueError)


async def test_an_argument_that_cannot_be_rebuilt_in_the_worker(executor: bridge.ProcessExecutor) -> None:
    with pytest.raises(pickle.UnpicklingError, match="cannot be rebuilt"):
        await executor.run(targets.echo, [Stubborn("there", HOME)])


async def test_a_result_that_cannot_be_rebuilt_at_home(executor: bridge.ProcessExecutor) -> None:
    with pytest.raises(pickle.UnpicklingError, match="cannot be rebuilt"):
        await executor.run(targets.make_stubborn, "back", HOME)


async def test_a_result_that_cannot_be_pickled_is_named_with_its_path(executor: bridge.ProcessExecutor) -> None:
    with pytest.raises(pickle.PicklingError, match=r"\['rows'\]\[1\].*lock"):
        await executor.run(targets.make_lock)
    with pytest.raises(pickle.PicklingError, match=r"\['rows'\]\[0\].*cannot be reduced"):
        await executor.run(targets.make_stubborn, "at once", HOME)


async def test_an_exception_that_cannot_be_pickled_still_says_what_it_said(executor: bridge.ProcessExecutor) -> None:
    with pytest.raises(pickle.PicklingError, match=r"Unsendable.*has a lock") as caught:
        await executor.run(targets.raise_unsendable)
    assert "in raise_unsendable" in str(caught.value.__cause__)


async def test_an_exception_that_cannot_be_rebuilt_still_says_what_it_said(executor: bridge.ProcessExecutor) -> None:
    with pytest.raises((pickle.UnpicklingError, targets.Picky), match=r"7: never mind") as caught:
        await executor.run(targets.raise_picky)
    assert "Picky" in f"{type(caught.value)} {caught.value}"
    assert "in raise_picky" in str(caught.value.__cause__)


@pytest.fixture
def only_here() -> Iterator[Any]:
    """A module that no other process can import."""
    module = types.ModuleType("only_here")
    exec("class Thing: pass", module.__dict__)
    sys.modules["only_here"] = module
    yield module
    del sys.modules["only_here"]


async def test_a_module_that_the_worker_does_not_have_is_named(executor: bridge.ProcessExecutor, only_here: Any) -> None:
    """Unless it travelled by value: then the worker has it."""
    try:
        assert type(await executor.run(targets.echo, only_here.Thing())).__name__ == "Thing"
    except pickle.UnpicklingError as error:
        assert "only_here" in str(error)  # noqa: PT017 - one of two good ends
    assert await executor.run(pow, 2, 3) == 8


async def test_an_item_of_a_stream_that_cannot_be_pickled_ends_the_stream(executor: bridge.ProcessExecutor) -> None:
    found: list[Any] = []
    with pytest.raises(pickle.PicklingError, match="lock"):
        await collect(executor.stream(lambda: iter([1, 2, targets.make_lock()])), found)
    assert found == [1, 2]


async def test_nesting_too_deep_for_pickle_is_that_jobs_error(executor: bridge.ProcessExecutor) -> None:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises((pickle.PicklingError, RecursionError)):
        await executor.run(targets.echo, deep)
    while deep:  # taken apart piece by piece, because the interpreter's own way is recursive, too
        deep = deep[0]


async def test_bad_pickles_among_good_jobs_are_their_own_errors_only(executor: bridge.ProcessExecutor) -> None:
    good = [executor.run(targets.echo, n) for n in range(40)]
    bad = [executor.run(targets.echo, Stubborn(where, HOME)) for where in ("at once", "there", "back") for _ in range(5)]
    attempts = await attempt_all(*(call for pair in zip(good, bad, strict=False) for call in pair), *good[15:])
    assert [a.value for a in attempts if a.error is None] == list(range(40))
    assert [type(a.error) for a in attempts if a.error is not None] == (
        [pickle.PicklingError] * 5 + [pickle.UnpicklingError] * 10
    )


async def test_the_worker_lives_on_after_bad_pickles(executor: bridge.ProcessExecutor) -> None:
    pid = await executor.run(targets.pid_of)
    for where in ("at once", "there", "back"):
        with pytest.raises(pickle.PickleError):
            await executor.run(targets.echo, Stubborn(where, HOME))
    with pytest.raises(pickle.PicklingError):
        await executor.run(targets.make_lock)
    assert await executor.run(targets.pid_of) == pid


async def test_a_bad_argument_of_submit_is_the_futures_error(executor: bridge.ProcessExecutor) -> None:
    future = executor.submit(targets.echo, targets.make_lock())
    await until(future.done)
    assert isinstance(future.exception(), pickle.PicklingError)
    assert "args[0]['rows'][1]" in str(future.exception())


async def test_an_exception_inside_of_a_value_arrives_as_it_was(executor: bridge.ProcessExecutor) -> None:
    (back,) = await executor.run(targets.echo, [targets.Picky(7, reason="never mind")])
    assert type(back) is targets.Picky
    assert str(back) == str(targets.Picky(7, reason="never mind"))

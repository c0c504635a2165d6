"""Where work was submitted, or is awaited: the line of the program, whatever stands between it and the job."""

from __future__ import annotations

import asyncio
import concurrent.futures
import linecache
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Generator
from dataclasses import dataclass
from types import MethodType
from typing import Any

import anyio
import pytest

import bridge
from bridge.diagnostics.places import PACKAGE, describe, is_bridges, submit_site
from bridge.threads.job import Job
from bridge.threads.site import note_site

pytestmark = pytest.mark.anyio


class Failing(bridge.ThreadExecutor):
    """Answers every job with an error that is given its site just before, as a process executor's home does it."""

    def __init__(self) -> None:
        super().__init__(1)
        self.submit_job = self.fail  # type: ignore[method-assign]

    def fail(self, job: Job) -> None:
        assert job.begin()

        def answer() -> None:
            job.error = ValueError("from far away")
            note_site(job.error, job)
            job.deliver()

        if job.awaited:
            assert job.origin is not None
            job.origin.call_soon(answer, ())
        else:
            answer()


@pytest.fixture
def executor() -> Failing:
    return Failing()


@pytest.fixture
def on_asyncio(loop_name: str) -> None:
    if loop_name == "trio":
        pytest.skip("asyncio's own")


def place_of(error: BaseException, how: str = "awaited at") -> str:
    """The source line that the one note of an error points to, which has to be in this file."""
    [note] = error.__notes__
    assert note.startswith(how)
    file, _, number = note.removeprefix(how).strip().partition(" in ")[0].rpartition(":")
    assert file == __file__
    return linecache.getline(file, int(number)).strip()


def in_bridge(source: str, **names: Any) -> Any:
    """The function `f` of a made-up module of bridge."""
    exec(compile(source, os.path.join(PACKAGE, "made_up.py"), "exec"), names)
    return names["f"]


# -- submitted -----------------------------------------------------------------------------------------------------------


def submit(executor: Failing) -> BaseException:
    error = executor.submit(len).exception(0)  # the line
    assert error is not None
    return error


def test_the_line_of_submit(executor: Failing) -> None:
    error = submit(executor)
    assert place_of(error, "submitted at").endswith("# the line")
    assert error.__notes__[0].endswith(" in submit")


def test_the_line_of_a_map_that_the_standard_library_makes_submits_of(executor: Failing) -> None:
    results = concurrent.futures.Executor.map(executor, len, ["a", "b"])  # the line
    with pytest.raises(ValueError, match="far away") as caught:
        next(results)
    assert place_of(caught.value, "submitted at").endswith("# the line")


async def test_the_line_of_run_in_executor(executor: Failing, on_asyncio: None) -> None:
    loop = asyncio.get_running_loop()
    with pytest.raises(ValueError, match="far away") as caught:
        await loop.run_in_executor(executor, len)  # the line
    assert place_of(caught.value, "submitted at").endswith("# the line")


def test_frames_of_bridge_in_between_are_passed_over() -> None:
    through = in_bridge("def f(fn):\n    return fn()", submit_site=submit_site)
    assert describe(through(submit_site)).endswith("in test_frames_of_bridge_in_between_are_passed_over")


async def test_the_consumer_of_an_async_generator_is_found() -> None:
    generator = in_bridge("async def f():\n    yield submit_site()", submit_site=submit_site)
    [site] = [site async for site in generator()]
    assert describe(site).rpartition(" in ")[2].startswith("test_the_consumer_of_an_async_generator")


def test_a_statement_of_many_lines_is_told_by_the_line_of_the_call() -> None:
    site = [
        1,
        submit_site(),  # the line
    ][1]
    assert isinstance(site, tuple)
    _, _, number = describe(site).partition(" in ")[0].rpartition(":")
    assert linecache.getline(__file__, int(number)).strip().endswith("# the line")


def test_a_method_is_told_with_its_class() -> None:
    class Owner:
        def method(self) -> Any:
            return submit_site()

    assert describe(Owner().method()).endswith(".Owner.method")


def test_only_files_of_the_package_are_bridges() -> None:
    assert is_bridges(bridge.__file__)
    assert not is_bridges(__file__)
    assert not is_bridges(PACKAGE.rstrip(os.sep) + "_of_somebody_else/module.py")


# -- awaited, on every loop ----------------------------------------------------------------------------------------------


async def test_the_line_of_the_await(executor: Failing) -> None:
    with pytest.raises(ValueError, match="far away") as caught:
        await executor.run(len)  # the line
    assert place_of(caught.value).endswith("# the line")
    assert caught.value.__notes__[0].endswith(" in test_the_line_of_the_await")


async def test_the_innermost_line_of_the_program_counts(executor: Failing) -> None:
    async def inner() -> None:
        await executor.run(len)  # the line

    async def outer() -> None:
        await inner()

    with pytest.raises(ValueError, match="far away") as caught:
        await outer()
    assert place_of(caught.value).endswith("# the line")


async def test_a_line_inside_of_async_generators_is_found(executor: Failing) -> None:
    async def inner() -> AsyncIterator[int]:
        await executor.run(len)  # the line
        yield 1

    async def outer() -> AsyncIterator[int]:
        async for item in inner():
            yield item

    with pytest.raises(ValueError, match="far away") as caught:
        await anext(outer())
    assert place_of(caught.value).endswith("# the line")


async def test_a_line_behind_an_awaitable_object_is_found(executor: Failing) -> None:
    class Wrapped:
        def __await__(self) -> Generator[Any, None, None]:
            return self.call().__await__()

        async def call(self) -> None:
            await executor.run(len)  # the line

    with pytest.raises(ValueError, match="far away") as caught:
        await Wrapped()
    assert place_of(caught.value).endswith("# the line")


async def test_offloaded_functions_are_told_by_who_calls_them(executor: Failing) -> None:
    offloaded = bridge.offload(to=executor)(len)
    with pytest.raises(ValueError, match="far away") as caught:
        await offloaded("abc")  # the line
    assert place_of(caught.value).endswith("# the line")


async def test_an_anyio_task_that_is_bridges_alone_is_told_by_its_group(executor: Failing) -> None:
    async def group() -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(executor.run, len)
            await anyio.sleep_forever()  # the line

    with pytest.raises(ExceptionGroup) as caught:
        await group()
    [error] = caught.value.exceptions
    assert place_of(error).endswith("# the line")


# -- through what asyncio puts in between --------------------------------------------------------------------------------


def shielded(awaitable: Awaitable[Any]) -> Awaitable[Any]:
    return asyncio.shield(awaitable)


def gathered(awaitable: Awaitable[Any]) -> Awaitable[Any]:
    return asyncio.gather(awaitable)


def gathered_twice(awaitable: Awaitable[Any]) -> Awaitable[Any]:
    return asyncio.gather(asyncio.gather(awaitable))


def made_a_task(awaitable: Any) -> Awaitable[Any]:
    return asyncio.create_task(awaitable)


@pytest.mark.parametrize("wrap", [shielded, gathered, gathered_twice, made_a_task])
async def test_a_task_that_is_bridges_alone_is_told_by_who_waits_for_it(
    executor: Failing, wrap: Callable[[Awaitable[Any]], Awaitable[Any]], on_asyncio: None
) -> None:
    with pytest.raises(ValueError, match="far away") as caught:
        await wrap(executor.run(len))  # the line
    assert place_of(caught.value).endswith("# the line")


async def test_waiting_with_a_timeout_is_told_by_its_line(executor: Failing, on_asyncio: None) -> None:
    with pytest.raises(ValueError, match="far away") as caught:
        await asyncio.wait_for(executor.run(len), 10)  # the line
    assert place_of(caught.value).endswith("# the line")


async def test_a_task_group_is_told_by_the_line_at_which_it_stands(executor: Failing, on_asyncio: None) -> None:
    async def group() -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(executor.run(len))
            await asyncio.Event().wait()  # the line

    with pytest.raises(ExceptionGroup) as caught:
        await group()
    [error] = caught.value.exceptions
    assert place_of(error).endswith("# the line")


async def test_tasks_that_wait_for_one_another_in_a_ring_are_no_endless_walk(on_asyncio: None) -> None:
    wait = in_bridge("async def f(wait):\n    await wait()")
    job: Any = TaskJob(len, (), {}, None)
    job.task = asyncio.create_task(wait(asyncio.Event().wait))
    job.task.add_done_callback(MethodType(lambda task, _: None, job.task))  # the task itself is called when it is done
    await asyncio.sleep(0)
    error = ValueError()
    note_site(error, job)
    assert not hasattr(error, "__notes__")
    job.task.cancel()
    await asyncio.wait([job.task])


class TaskJob(Job):
    __slots__ = ("task",)


# -- the note ------------------------------------------------------------------------------------------------------------


class SitedJob(Job):
    __slots__ = ("site",)


@pytest.fixture
def sited() -> SitedJob:
    job = SitedJob(len, (), {}, None)
    job.site = submit_site()
    return job


def test_an_error_that_comes_twice_has_one_note(sited: SitedJob) -> None:
    error = ValueError()
    note_site(error, sited)
    note_site(error, sited)
    assert len(error.__notes__) == 1


def test_notes_that_were_there_stay(sited: SitedJob) -> None:
    error = ValueError()
    error.add_note("of the function")
    note_site(error, sited)
    assert error.__notes__[0] == "of the function"
    assert error.__notes__[1].startswith("submitted at ")


def test_an_error_that_takes_no_notes_is_left_as_it_is(sited: SitedJob) -> None:
    @dataclass(frozen=True)
    class Frozen(Exception):
        detail: str

    note_site(Frozen("unchangeable"), sited)


def test_a_job_that_nobody_knows_the_site_of_gets_no_note() -> None:
    error = ValueError()
    note_site(error, Job(len, (), {}, None))
    assert not hasattr(error, "__notes__")

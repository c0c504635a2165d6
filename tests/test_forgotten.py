"""Coroutines that are never awaited (BRG201): told with the line that made them; CPython's warning comes as ever."""

from __future__ import annotations

import asyncio
import gc
import linecache
import sys
import threading
import warnings
from collections.abc import Callable, Coroutine, Iterator
from functools import partial
from typing import Any
from unittest.mock import AsyncMock

import pytest

import bridge
from bridge.diagnostics.advice import awaited
from bridge.diagnostics.events import Event
from bridge.diagnostics.places import Place
from bridge.loop.forgotten import RemembersOrigins
from tests.conftest import events_of, logged


async def save(row: str = "") -> None:
    raise AssertionError("it is never run")


@pytest.fixture
def events() -> Iterator[list[Event]]:
    """What was reported."""
    with events_of("BRG201") as events:
        yield events


@pytest.fixture
def warned() -> Iterator[list[warnings.WarningMessage]]:
    """What was warned of."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield caught


def run(main: Callable[[], Coroutine[Any, Any, None]], **options: Any) -> None:
    with asyncio.Runner(loop_factory=lambda: bridge.new_event_loop(diagnostics=True), **options) as runner:
        runner.run(main())


def forget(row: str) -> None:
    save(row)  # type: ignore[unused-coroutine]  # the line


async def forget_on_the_loop() -> None:
    forget("a")


def source_of(place: Place | None) -> str:
    assert place is not None
    assert place.file == __file__
    return linecache.getline(place.file, place.line).strip()


# -- what is told ------------------------------------------------------------------------------------------------------


def test_the_line_that_made_it_is_told(events: list[Event], warned: list[warnings.WarningMessage]) -> None:
    run(forget_on_the_loop)
    [event] = events
    assert event.code == "BRG201"
    assert source_of(event.place).endswith("# the line")
    assert event.headline.startswith(f"a coroutine was never awaited: save(), made at {event.place}: save(row)")
    assert event.advice == "await save(row)"
    assert event.attributes == {"bridge.coroutine": "save"}


def test_the_warning_is_cpythons(
    events: list[Event], warned: list[warnings.WarningMessage], monkeypatch: pytest.MonkeyPatch
) -> None:
    run(forget_on_the_loop)
    with_bridge = warned.pop()
    assert not warned
    ours = warnings._warn_unawaited_coroutine  # type: ignore[attr-defined]
    monkeypatch.setattr(warnings, "_warn_unawaited_coroutine", ours.__self__._before)
    forget("a")
    [stock] = warned
    assert str(with_bridge.message) == str(stock.message) == "coroutine 'save' was never awaited"
    assert with_bridge.category is stock.category is RuntimeWarning
    assert (with_bridge.filename, with_bridge.lineno) == (stock.filename, stock.lineno)
    assert type(with_bridge.source) is type(stock.source)
    assert len(events) == 1


def test_where_warnings_are_errors_it_is_one(events: list[Event], monkeypatch: pytest.MonkeyPatch) -> None:
    unraisable: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda args: unraisable.append(repr(args.exc_value)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run(forget_on_the_loop)
    assert unraisable == ["RuntimeWarning(\"coroutine 'save' was never awaited\")"]
    assert len(events) == 1


def test_somebody_elses_hook_is_called_as_well(events: list[Event], monkeypatch: pytest.MonkeyPatch) -> None:
    run(forget_nothing)  # ours is in place now
    seen: list[str] = []
    ours = warnings._warn_unawaited_coroutine  # type: ignore[attr-defined]

    def theirs(coro: Any) -> None:
        seen.append(coro.__name__)

    monkeypatch.setattr(ours.__self__, "_before", theirs)
    run(forget_on_the_loop)
    assert seen == ["save"]
    assert [event.code for event in events] == ["BRG201"]


async def forget_nothing() -> None:
    pass


def test_debug_mode_tells_the_whole_stack(events: list[Event], warned: list[warnings.WarningMessage]) -> None:
    run(forget_on_the_loop, debug=True)
    [event] = events
    assert source_of(event.place).endswith("# the line")
    text = "\n".join(event.details)
    assert "in forget_on_the_loop" in text
    assert "in run: runner.run(main())" in text
    assert "Coroutine created at (most recent call last)" in str(warned[0].message)


def test_debug_mode_logs_it_every_time(
    events: list[Event], warned: list[warnings.WarningMessage], caplog: pytest.LogCaptureFixture
) -> None:
    async def twice() -> None:
        for _ in range(2):
            forget("a")

    run(twice)
    assert len(logged(caplog, "bridge.tasks.BRG201")) == 1
    run(twice, debug=True)
    assert len(logged(caplog, "bridge.tasks.BRG201", 3)) == 3


def test_what_is_kept_by_a_traceback_is_told_after_the_loop_has_ended(
    events: list[Event], warned: list[warnings.WarningMessage]
) -> None:
    async def fail() -> None:
        coro = save("kept")  # the line
        raise ValueError(coro)

    try:
        run(fail)
    except ValueError:
        assert not events
    gc.collect()
    [event] = events
    assert source_of(event.place).endswith("# the line")


def test_one_that_was_made_before_the_loop_ran_is_told_without_a_line(
    events: list[Event], warned: list[warnings.WarningMessage]
) -> None:
    early = [save()]

    async def drop() -> None:
        early.clear()

    run(drop)
    [event] = events
    assert event.place is None
    assert event.headline == "a coroutine was never awaited: save(), made outside of the loop"
    assert event.details == (f"save is defined at {__file__}:{save.__code__.co_firstlineno}",)


@pytest.mark.parametrize("method", ["call_later", "call_at"])
def test_an_async_function_as_a_timers_callback_is_told_by_the_line_that_set_the_timer(
    method: str, events: list[Event], warned: list[warnings.WarningMessage]
) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        getattr(loop, method)(0, save)  # the line
        await asyncio.sleep(0.001)

    run(main)
    [event] = events
    assert source_of(event.place).endswith("# the line")
    assert "scheduled at" in event.headline
    assert event.advice == "lambda: asyncio.create_task(save())"


def test_one_that_a_plain_callback_drops_is_not_that_callback(
    events: list[Event], warned: list[warnings.WarningMessage]
) -> None:
    early = [save()]

    def drop() -> None:
        early.clear()

    async def main() -> None:
        asyncio.get_running_loop().call_soon(drop)
        await asyncio.sleep(0)

    run(main)
    [event] = events
    assert event.headline == "a coroutine was never awaited: save(), made outside of the loop"


def test_an_async_method_as_a_callback_likewise(events: list[Event], warned: list[warnings.WarningMessage]) -> None:
    class Ticker:
        async def tick(self, number: int) -> None:
            raise AssertionError("it is never run")

    async def main() -> None:
        asyncio.get_running_loop().call_later(0, Ticker().tick, 1)  # the line
        await asyncio.sleep(0.001)

    run(main)
    [event] = events
    assert source_of(event.place).endswith("# the line")
    assert event.advice == "lambda: asyncio.create_task(Ticker().tick(1))"


def test_a_callback_of_call_soon_is_told_without_a_line(
    events: list[Event], warned: list[warnings.WarningMessage]
) -> None:
    async def main() -> None:
        asyncio.get_running_loop().call_soon(save)
        await asyncio.sleep(0)

    run(main)
    [event] = events
    assert event.place is None
    assert event.headline == "a coroutine was never awaited: save(), called by the loop"


class Handler:
    async def __call__(self, number: int = 0) -> None:
        raise AssertionError("it is never run")


handler = Handler()
send = AsyncMock(name="mailer.send")
nameless = AsyncMock()

CALLBACKS: dict[str, tuple[Any, str, str]] = {
    "an object": (handler, "Handler.__call__", "that_object"),
    "a partial of an object": (partial(handler, 2), "Handler.__call__", "that_object"),
    "a mock": (send, "AsyncMock mailer.send", "mailer.send"),
    "a mock of a mock": (nameless.a.b, "AsyncMock mock.a.b", "mock.a.b"),
    "a mock that a mock has returned": (AsyncMock(name="make()"), "AsyncMock make()", "that_mock"),
    "a partial of a mock": (partial(send, 2), "AsyncMock mailer.send", "mailer.send"),
}


@pytest.mark.parametrize("what", CALLBACKS)
def test_an_object_as_a_callback_is_called_by_its_name_on_every_loop(
    what: str,
    loop_factory: Callable[[], Any] | None,
    events: list[Event],
    warned: list[warnings.WarningMessage],
) -> None:
    callback, name, written = CALLBACKS[what]

    async def main() -> None:
        async with bridge.watch():
            asyncio.get_running_loop().call_soon(callback)
            await asyncio.sleep(0)

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(main())
    [event] = events
    assert event.place is None
    assert event.headline == f"a coroutine was never awaited: {name}(), called by the loop"
    assert event.advice is not None
    assert event.advice.replace("...", "") == f"lambda: asyncio.create_task({written}())"
    text = "\n".join(event.details)
    assert "asyncio" not in text.replace("test_forgotten", "")
    assert "unittest" not in text


def test_an_object_as_a_callback_is_shown(events: list[Event], warned: list[warnings.WarningMessage]) -> None:
    async def main() -> None:
        asyncio.get_running_loop().call_soon(handler, 1)
        await asyncio.sleep(0)

    run(main)
    [event] = events
    assert event.advice == "lambda: asyncio.create_task(that_object(...))"
    assert f"the callback is {handler!r}" in event.details
    assert event.details[-1].startswith(f"Handler.__call__ is defined at {__file__}:")


def test_in_debug_mode_asyncio_lets_an_object_pass_as_a_callback(
    events: list[Event], warned: list[warnings.WarningMessage]
) -> None:
    async def main() -> None:
        async with bridge.watch():
            asyncio.get_running_loop().call_soon(handler)  # the line
            await asyncio.sleep(0)

    with asyncio.Runner(loop_factory=asyncio.new_event_loop, debug=True) as runner:
        runner.run(main())
    [event] = events
    assert source_of(event.place).endswith("# the line")
    assert event.advice == "lambda: asyncio.create_task(handler())"


def test_an_object_as_a_timers_callback_is_told_by_the_line_that_set_the_timer(
    events: list[Event], warned: list[warnings.WarningMessage]
) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.call_later(0, handler, 1)  # the line
        loop.call_later(0, send)  # the line
        loop.call_later(0, partial(send, 2))  # the line
        loop.call_later(0, partial(print, end=""))
        await asyncio.sleep(0.001)

    run(main)
    assert [source_of(event.place).endswith("# the line") for event in events] == [True] * 3
    assert [event.advice for event in events] == [
        f"lambda: asyncio.create_task({call})" for call in ("handler(1)", "send()", "partial(send, 2)()")
    ]


def test_the_call_of_an_object_is_awaited(events: list[Event], warned: list[warnings.WarningMessage]) -> None:
    async def main() -> None:
        handler(1)  # type: ignore[unused-coroutine]
        Handler()(2)  # type: ignore[unused-coroutine]
        print(handler(3), end="")

    run(main)
    assert [event.advice for event in events] == [
        "await handler(1)",
        "await Handler()(2)",
        "await that_object(...)",  # which of the two calls it was, the line does not tell
    ]


def test_what_a_callback_returns_is_told_by_the_callback(
    events: list[Event], warned: list[warnings.WarningMessage]
) -> None:
    async def main() -> None:
        asyncio.get_running_loop().call_soon(lambda: send(3))  # the line
        await asyncio.sleep(0)

    run(main)
    [event] = events
    assert source_of(event.place).endswith("# the line")
    assert "returned to the loop by the callback at" in event.headline
    assert event.advice == "asyncio.create_task(mailer.send(...))"


def test_what_a_task_keeps_until_its_end_is_no_callback(
    events: list[Event], warned: list[warnings.WarningMessage]
) -> None:
    async def main() -> None:
        kept = send(3)
        await asyncio.sleep(0)
        assert kept

    run(main)
    [event] = events
    assert event.advice == "await mailer.send(...)"


async def give_a_lambda_to_the_loop() -> None:
    asyncio.get_running_loop().call_soon(lambda: save("a"))
    await asyncio.sleep(0.01)


def start_saving() -> None:
    save("a")  # type: ignore[unused-coroutine]


async def give_a_plain_function_to_the_loop() -> None:
    asyncio.get_running_loop().call_soon(start_saving)
    await asyncio.sleep(0.01)


@pytest.mark.parametrize("main", [give_a_lambda_to_the_loop, give_a_plain_function_to_the_loop])
def test_where_nothing_can_be_awaited_a_task_is_made(
    main: Any, events: list[Event], warned: list[warnings.WarningMessage]
) -> None:
    run(main)
    assert [event.advice for event in events] == ["asyncio.create_task(save('a'))"]


def test_one_that_is_awaited_or_closed_is_not_told(events: list[Event]) -> None:
    async def main() -> None:
        save().close()
        await forget_nothing()
        task = asyncio.create_task(save())
        task.cancel()
        await asyncio.wait([task])

    run(main)
    assert not events


# -- where it is told --------------------------------------------------------------------------------------------------


def test_nothing_is_told_or_remembered_where_diagnostics_are_off(
    events: list[Event], warned: list[warnings.WarningMessage]
) -> None:
    async def main() -> None:
        assert sys.get_coroutine_origin_tracking_depth() == 0
        forget("a")

    with asyncio.Runner(loop_factory=lambda: bridge.new_event_loop(diagnostics=False)) as runner:
        runner.run(main())
    assert not events
    assert len(warned) == 1


@pytest.mark.anyio
async def test_any_loop_can_be_watched(events: list[Event], warned: list[warnings.WarningMessage]) -> None:
    before = sys.get_coroutine_origin_tracking_depth()
    async with bridge.watch():
        forget("a")
    assert sys.get_coroutine_origin_tracking_depth() == before
    [event] = events
    assert source_of(event.place).endswith("# the line")
    assert len(warned) == 1


def test_the_depth_is_put_back_and_a_deeper_one_left_alone() -> None:
    before = sys.get_coroutine_origin_tracking_depth()
    assert before == 0
    with RemembersOrigins():
        assert sys.get_coroutine_origin_tracking_depth() == 1
        with RemembersOrigins():
            pass
        assert sys.get_coroutine_origin_tracking_depth() == 1
    assert sys.get_coroutine_origin_tracking_depth() == 0
    sys.set_coroutine_origin_tracking_depth(7)
    try:
        with RemembersOrigins():
            assert sys.get_coroutine_origin_tracking_depth() == 7
        assert sys.get_coroutine_origin_tracking_depth() == 7
    finally:
        sys.set_coroutine_origin_tracking_depth(before)


def test_a_depth_that_was_set_meanwhile_stays() -> None:
    try:
        with RemembersOrigins():
            sys.set_coroutine_origin_tracking_depth(7)
        assert sys.get_coroutine_origin_tracking_depth() == 7
    finally:
        sys.set_coroutine_origin_tracking_depth(0)


def test_debug_mode_comes_and_goes_while_the_loop_runs() -> None:
    depths: list[int] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        for debug in (True, False):
            loop.set_debug(debug)
            await asyncio.sleep(0)
            await asyncio.sleep(0)  # it is set by a callback
            depths.append(sys.get_coroutine_origin_tracking_depth())

    run(main)
    deep, shallow = depths
    assert deep > 1
    assert shallow == 1
    assert sys.get_coroutine_origin_tracking_depth() == 0


def test_the_depth_is_that_of_the_loops_thread() -> None:
    seen: list[int] = []

    async def main() -> None:
        thread = threading.Thread(target=lambda: seen.append(sys.get_coroutine_origin_tracking_depth()))
        thread.start()
        thread.join()

    run(main)
    assert seen == [0]


# -- what to write -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lines", "advice"),
    [
        ("session.close()", "await session.close()"),
        ("if close(user):", "await close(user)"),
        ("elif not self.close(1, *args):", "await self.close(1, *args)"),
        ("x = [open(), a[0].close(b=2)]", "await a[0].close(b=2)"),
        ("return close(", "await close(1, 2)"),
        ("  close('a'),", "await close('a')"),
        ("pool.map(close, rows)", None),
        ("close = 1", None),
        ("with (", None),
        (f"close({'x' * 200})", "await close(...)"),
    ],
)
def test_the_call_at_the_line_is_awaited(lines: str, advice: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    text = f"{lines}\n    1,\n    2,\n)\n".splitlines(keepends=True)
    monkeypatch.setitem(linecache.cache, "made_up.py", (1, None, text, "made_up.py"))
    awaited.cache_clear()
    assert awaited(Place("made_up.py", 1, "f"), "close") == advice


def test_without_source_the_name_is_all_there_is(events: list[Event], warned: list[warnings.WarningMessage]) -> None:
    names: dict[str, Any] = {"save": save}
    exec(compile("async def main():\n    save('a')", "<typed in>", "exec"), names)
    run(names["main"])
    [event] = events
    assert event.advice == "await save(...)"
    assert event.place == Place("<typed in>", 2, "main")

"""Which line is to blame, how a stack is shown, and what to write instead of the call at a line."""

from __future__ import annotations

import asyncio
import concurrent.futures
import gc
import linecache
import os
import sys
import sysconfig
import threading
import weakref
from collections.abc import Callable, Iterator
from types import CodeType, FrameType
from typing import Any

import pytest

import bridge
from bridge.diagnostics import places, stacks
from bridge.diagnostics.advice import called_at, offloaded
from bridge.diagnostics.places import PACKAGE, Place, Site, describe, is_bridges, is_installed, is_stdlib, submit_site
from bridge.diagnostics.stacks import Stack, capture, stack_of_thread
from tests.conftest import Gate, within

STDLIB = os.path.dirname(os.__file__)
SITE_PACKAGES = os.path.join(STDLIB, "site-packages")
APP = "/srv/app/views.py"


@pytest.fixture
def module() -> Iterator[Callable[..., dict[str, Any]]]:
    """Make a module of a source text, as if it lay in any file."""
    made = []

    def make(filename: str, source: str, **names: Any) -> dict[str, Any]:
        linecache.cache[filename] = (len(source), None, source.splitlines(keepends=True), filename)
        made.append(filename)
        namespace = {"__name__": "made", **names}
        exec(compile(source, filename, "exec"), namespace)
        return namespace

    yield make
    for filename in made:
        linecache.cache.pop(filename, None)


def chain(module: Callable[..., dict[str, Any]], *files: str, innermost: Callable[[], Any]) -> Any:
    """Call through one function in each file, outermost first, to `innermost`; what that returns."""
    call = innermost
    for number, filename in reversed(list(enumerate(files))):
        if filename.endswith(" async"):
            filename = filename.removesuffix(" async")
            source = f"async def f{number}():\n    return call()\n\ndef run():\n    return step(f{number}())\n"
            call = module(filename, source, call=call, step=step)["run"]
        else:
            source = f"def f{number}():\n    return call()\n"
            call = module(filename, source, call=call)[f"f{number}"]
    return call()


def step(coroutine: Any) -> Any:
    try:
        coroutine.send(None)
    except StopIteration as stop:
        return stop.value
    raise AssertionError("it waits")


def here(outermost: FrameType | None = None) -> Stack:
    """The stack of whoever calls, without this function, to the test's own frame."""
    frame = sys._getframe(1)
    test = frame
    while test is not None and not test.f_code.co_name.startswith("test_"):
        test = test.f_back  # type: ignore[assignment]
    return capture(frame, until=test)


def functions(stack: Stack) -> list[str]:
    return [code.co_name for code, _ in stack.sites]


# -- whose a file is ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("filename", "bridges", "installed", "stdlib"),
    [
        (bridge.__file__, True, True, False),
        (asyncio.__file__, False, True, True),
        (concurrent.futures.__file__, False, True, True),
        (os.path.join(SITE_PACKAGES, "aiohttp", "web.py"), False, True, False),
        ("/usr/lib/python3/dist-packages/yaml/__init__.py", False, True, False),
        ("<frozen importlib._bootstrap>", False, True, True),
        (APP, False, False, False),
        ("<stdin>", False, False, False),
        (__file__, False, False, False),
        (PACKAGE.rstrip(os.sep) + "_tools/x.py", False, "site-packages" in PACKAGE, False),
    ],
)
def test_files_are_told_apart(filename: str, bridges: bool, installed: bool, stdlib: bool) -> None:
    assert is_bridges(filename) is bridges
    assert is_installed(filename) is installed
    assert is_stdlib(filename) is stdlib


# -- sites and places --------------------------------------------------------------------------------------------------


def test_a_submit_site_is_the_line_outside_of_bridge_and_of_those_that_submit_for_others(module) -> None:
    site = chain(
        module,
        APP,
        os.path.join(STDLIB, "asyncio", "tasks.py"),
        os.path.join(STDLIB, "concurrent", "futures", "thread.py"),
        os.path.join(PACKAGE, "made.py"),
        innermost=module(os.path.join(PACKAGE, "x.py"), "def ask(): return site()\n", site=submit_site)["ask"],
    )
    assert places.place_of(site) == Place(APP, 2, "f0")


def test_a_place_is_written_as_editors_understand_it(module) -> None:
    site = chain(module, APP, innermost=lambda: submit_site_of_caller(2))
    assert describe(site) == f"{APP}:2 in f0"
    assert places.place_of(site).source == "return call()"
    assert Place("/nowhere.py", 5, "f").source == ""


def submit_site_of_caller(depth: int) -> Site:
    frame = sys._getframe(depth)
    return frame.f_code, frame.f_lasti


def test_the_line_of_an_instruction_is_that_which_a_traceback_shows() -> None:
    def function() -> Iterator[int]:
        yield (1)  # several lines
        yield 2

        for number in [3]:
            yield number + 1

    generator = function()
    for _ in generator:
        frame = generator.gi_frame  # type: ignore[attr-defined]
        assert places.line_of((frame.f_code, frame.f_lasti)) == frame.f_lineno


def test_every_instruction_has_the_line_that_its_code_says() -> None:
    code = test_a_deep_stack_is_shown_by_its_ends.__code__
    for index, (line, *_) in enumerate(code.co_positions()):
        assert places.line_of((code, 2 * index)) == (line or code.co_firstlineno)


def test_an_instruction_that_has_not_begun_is_at_the_functions_first_line() -> None:
    def function() -> None: ...

    assert places.line_of((function.__code__, -1)) == function.__code__.co_firstlineno


# -- who is to blame ---------------------------------------------------------------------------------------------------


def test_the_innermost_line_of_the_application_is_blamed_not_what_it_calls(module) -> None:
    stack = chain(
        module,
        "/srv/app/main.py",
        os.path.join(STDLIB, "asyncio", "events.py"),
        APP,
        os.path.join(SITE_PACKAGES, "requests", "api.py"),
        os.path.join(STDLIB, "socket.py"),
        innermost=lambda: capture(sys._getframe(1)),
    )
    assert stack.place == Place(APP, 2, "f2")


def test_where_all_is_installed_the_innermost_coroutine_of_a_package_is_blamed(module) -> None:
    web, client = os.path.join(SITE_PACKAGES, "web", "a.py"), os.path.join(SITE_PACKAGES, "client", "b.py")
    stack = installed(
        chain(
            module,
            f"{web} async",
            client,
            os.path.join(STDLIB, "asyncio", "x.py") + " async",
            innermost=lambda: here(),
        )
    )
    assert stack.place == Place(web, 2, "f0")


def test_where_no_coroutine_is_the_innermost_package_is_blamed(module) -> None:
    web, client = os.path.join(SITE_PACKAGES, "web", "a.py"), os.path.join(SITE_PACKAGES, "client", "b.py")
    stack = installed(chain(module, web, client, os.path.join(STDLIB, "socket.py"), innermost=lambda: here()))
    assert stack.place == Place(client, 2, "f1")


def test_bridges_own_lines_are_blamed_when_there_is_nothing_else(module) -> None:
    file = os.path.join(PACKAGE, "made.py")
    socket = os.path.join(STDLIB, "socket.py")
    assert installed(chain(module, socket, file, innermost=lambda: here())).place == Place(socket, 2, "f0")
    assert installed(chain(module, file, innermost=lambda: here())).place == Place(file, 2, "f0")
    assert Stack(()).place is None


def installed(stack: Stack) -> Stack:
    """Without the frames of this file."""
    return Stack(tuple(site for site in stack.sites if site[0].co_filename != __file__))


def test_the_innermost_coroutine_of_the_application_is_where_an_await_could_stand(module) -> None:
    stack = chain(
        module,
        "/srv/app/outer.py async",
        f"{APP} async",
        "/srv/app/helper.py",
        os.path.join(SITE_PACKAGES, "web", "a.py") + " async",
        innermost=lambda: here(),
    )
    assert stack.awaiting is not None
    assert describe(stack.awaiting) == f"{APP}:2 in f1"
    assert chain(module, APP, innermost=lambda: here()).awaiting is None


# -- how a stack is shown ----------------------------------------------------------------------------------------------


def test_lines_are_innermost_first_and_what_was_installed_is_folded(module) -> None:
    stack = installed(
        chain(
            module,
            "/srv/app/main.py",
            os.path.join(STDLIB, "asyncio", "runners.py"),
            os.path.join(STDLIB, "asyncio", "events.py"),
            os.path.join(PACKAGE, "loop", "x.py"),
            APP,
            os.path.join(SITE_PACKAGES, "requests", "api.py"),
            innermost=lambda: here(),
        )
    )
    assert stack.lines() == (
        "(1 frame of requests)",
        f"{APP}:2 in f4: return call()",
        "(3 frames of bridge, asyncio)",
        "/srv/app/main.py:2 in f0: return call()",
    )


def test_a_line_without_its_source_is_shown_without(module) -> None:
    stack = installed(chain(module, APP, innermost=lambda: here()))
    linecache.cache.pop(APP)
    assert stack.lines() == (f"{APP}:2 in f0",)


def test_a_frozen_module_is_shown_by_its_name() -> None:
    code = compile("pass", "<frozen importlib._bootstrap>", "exec")
    assert Stack(((code, 0),)).lines() == ("(1 frame of importlib)",)


def test_a_single_module_of_the_standard_library_is_shown_without_its_ending() -> None:
    code = compile("pass", os.path.join(STDLIB, "socket.py"), "exec")
    assert Stack(((code, 0),)).lines() == ("(1 frame of socket)",)


def test_a_deep_stack_is_shown_by_its_ends() -> None:
    def dive(depth: int) -> Stack:
        return dive(depth - 1) if depth else here()

    lines = dive(100).lines()
    assert len(lines) == 31
    assert lines[15] == "... 71 lines more ..."
    assert "here()" in lines[0]


def test_a_stack_ends_before_the_frame_that_is_named() -> None:
    def inner() -> Stack:
        return capture(sys._getframe(), until=outermost)

    def outer() -> Stack:
        return inner()

    outermost = sys._getframe()
    assert functions(outer()) == ["inner", "outer"]
    assert functions(capture(None)) == []


def test_a_stack_keeps_nothing_alive() -> None:
    class Thing:
        pass

    def hold() -> tuple[Stack, weakref.ref[Thing]]:
        thing = Thing()
        return capture(sys._getframe()), weakref.ref(thing)

    stack, thing = hold()
    gc.collect()
    assert stack.sites
    assert thing() is None


def test_the_stack_of_a_thread_is_what_it_executes_now(gate: Gate) -> None:
    thread = threading.Thread(target=gate.wait)
    thread.start()
    stack = stack_of_thread(thread.ident)
    while stack is None or "wait" not in functions(stack):
        stack = stack_of_thread(thread.ident)
    gate.open()
    within(thread)
    assert functions(stack)[-1] == "_bootstrap"
    assert stack_of_thread(thread.ident) is None
    assert stack_of_thread(None) is None


# -- what to write instead ---------------------------------------------------------------------------------------------


def site_in(module: Callable[..., dict[str, Any]], line: str, filename: str = APP) -> Site:
    """Execute a line of code in which `stop` is called somewhere, and take hold of where it then is."""
    names = {"stop": lambda *args, **kwargs: submit_site_of_caller(2)}
    namespace = module(filename, f"def function(self=None):\n    return {line}\n", **names)
    site: Site = namespace["function"]()
    return site


@pytest.mark.parametrize(
    ("line", "thread"),
    [
        ("stop()", "await bridge.to_thread(stop)"),
        ("stop(1, 'a', *[2], key=3, **{})", "await bridge.to_thread(stop, 1, 'a', *[2], key=3, **{})"),
        ("stop(  1,\n        2)", "await bridge.to_thread(stop, 1, 2)"),
        ("'ä' and stop('ö')", "await bridge.to_thread(stop, 'ö')"),
        ("stop(lambda: 5)", "await bridge.to_thread(stop, lambda: 5)"),
        (f"stop({list(range(50))})", "await bridge.to_thread(stop, ...)"),
    ],
)
def test_a_call_becomes_one_that_is_awaited(line: str, thread: str, module) -> None:
    site = site_in(module, line)
    assert offloaded(site, "thread") == thread
    process = None if "lambda" in line else thread.replace("to_thread", "to_process")
    assert offloaded(site, "process") == process


@pytest.mark.parametrize("line", ["stop(lambda: 5)", "stop(each for each in '1')", "stop(key=[lambda: 5])"])
def test_what_cannot_be_pickled_is_not_sent_to_a_process(line: str, module) -> None:
    site = site_in(module, line)
    assert offloaded(site, "thread") is not None
    assert offloaded(site, "process") is None


class Slow:
    """Takes hold of where it is left, or asked for its next item."""

    def __init__(self) -> None:
        self.sites: list[Site] = []

    def __enter__(self) -> None:
        self.sites.append(submit_site_of_caller(2))

    def __exit__(self, *exc_info: object) -> None:
        self.sites.append(submit_site_of_caller(2))

    def __iter__(self) -> Slow:
        return self

    def __next__(self) -> None:
        self.sites.append(submit_site_of_caller(2))
        raise StopIteration


@pytest.mark.parametrize("line", ["with make(1): pass", "for each in make(1): pass"])
def test_what_is_done_with_the_value_of_a_call_is_not_the_call(line: str, module) -> None:
    slow = Slow()
    module(APP, f"def function():\n    {line}\n", make=lambda number: slow)["function"]()
    assert slow.sites
    for site in slow.sites:
        assert offloaded(site, "thread") is None


def test_a_method_becomes_one_that_is_awaited(module) -> None:
    namespace = module(APP, "def function(db):\n    return db.execute('x').all()\n")

    class Db:
        def execute(self, text: str) -> Any:
            return self

        def all(self) -> Site:
            return submit_site_of_caller(2)

    assert offloaded(namespace["function"](Db()), "thread") == "await bridge.to_thread(db.execute('x').all)"


def test_sleeping_has_an_async_version_in_a_thread_but_not_in_a_process(module) -> None:
    class time:  # noqa: N801
        sleep = staticmethod(lambda seconds: submit_site_of_caller(2))

    site = module(APP, "def function():\n    return time.sleep(0.5)\n", time=time)["function"]()
    assert offloaded(site, "thread") == "await asyncio.sleep(0.5)"
    assert offloaded(site, "process") == "await bridge.to_process(time.sleep, 0.5)"


@pytest.mark.parametrize("line", ["[stop] and (lambda: stop())()", "stop()"])
def test_where_the_source_is_not_there_nothing_is_advised(line: str, module) -> None:
    site = site_in(module, line)
    linecache.cache.pop(APP)
    assert offloaded(site, "thread") is None
    assert called_at(site) is None


def test_what_is_no_call_is_not_made_into_one(module) -> None:
    class Number:
        def __add__(self, other: object) -> Site:
            return submit_site_of_caller(2)

    site = module(APP, "def function(a):\n    return a + 1\n")["function"](Number())
    assert offloaded(site, "thread") is None


def test_code_that_knows_no_columns_gets_no_advice(module) -> None:
    site = site_in(module, "stop()")
    bare: CodeType = site[0].replace(co_linetable=b"")
    assert offloaded((bare, site[1]), "thread") is None
    assert offloaded((site[0], 10_000), "thread") is None


def test_an_edited_source_does_not_raise(module) -> None:
    site = site_in(module, "stop(1,\n        2)")
    for text in ["", "x\n", "def function(:\n  ((((\n)\n", "'''\n\0\n'''\n"]:
        linecache.cache[APP] = (len(text), None, text.splitlines(keepends=True), APP)
        assert offloaded(site, "thread") is None


def test_the_standard_library_lies_where_python_says() -> None:
    assert os.path.realpath(STDLIB) == os.path.realpath(sysconfig.get_paths()["stdlib"])


def test_nothing_is_collected_while_the_frames_of_all_threads_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stacks, "_MAY_COLLECT", True)
    seen: list[bool] = []

    def frames() -> dict[int, FrameType]:
        seen.append(gc.isenabled())
        return {}

    monkeypatch.setattr(sys, "_current_frames", frames)
    assert gc.isenabled()
    assert stacks.current_frames() == {}
    assert gc.isenabled()
    gc.disable()
    try:
        assert stacks.current_frames() == {}
        assert not gc.isenabled()
    finally:
        gc.enable()
    assert seen == [False, False]


def test_the_frames_of_all_threads_are_read() -> None:
    assert stacks.current_frames()[threading.get_ident()].f_code is stacks.current_frames.__code__


class Thing:
    pass


def test_reading_them_keeps_nothing_alive() -> None:
    def look() -> weakref.ref[Thing]:
        thing = Thing()
        frames = stacks.frames_of_others()
        assert threading.get_ident() not in frames
        assert stacks.stack_of_thread(threading.get_ident()) is not None
        return weakref.ref(thing)

    gc.disable()
    try:
        assert look()() is None
    finally:
        gc.enable()

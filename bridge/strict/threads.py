"""Threads that a test has started and that outlive it.

    Thread.start ──> Started: at which line, by which executor, and is it this test's?
    end of the test ── still alive, after a moment in which it may end ──> BRG502

Daemons count, since they run on during the tests that follow. Not counted: threads that come and go by themselves (idle
workers of loops, bridge's own watchdog), and those of an executor, which is told itself if it is open, or which is not
this test's.
"""

from __future__ import annotations

import ast
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures.thread import ThreadPoolExecutor
from types import FrameType
from typing import Any
from weakref import WeakKeyDictionary

from bridge.diagnostics.advice import called_at
from bridge.diagnostics.delivery import THREAD_NAME as DELIVERY_THREAD_NAME
from bridge.diagnostics.events import Event
from bridge.diagnostics.places import PACKAGE, Site, place_of, where
from bridge.diagnostics.stacks import capture, stack_of_thread
from bridge.diagnostics.watchdog import THREAD_NAME
from bridge.executors.process.crew import Crew
from bridge.strict.executors import Executors, Made
from bridge.strict.patches import Patches
from bridge.threads.pool import WorkerPool

#: Seconds that a thread has to end after the test.
PATIENCE = 1.0
#: Frames in which a thread's executor is looked for.
_NEAR = 6
#: Beginnings of names.
_COME_AND_GO = (
    THREAD_NAME,
    "bridge-sentry",
    DELIVERY_THREAD_NAME,
    "AnyIO worker",
    "Trio thread",
    "pytest_timeout",
    "QueueFeederThread",  # of processes' queues
    "pydevd.",
)
#: Classes of process pools, the standard library's and loky's, which are told themselves, or made to stay.
_OF_PROCESS_POOLS = ("_ExecutorManagerThread",)
_POOL_STARTS = getattr(getattr(ThreadPoolExecutor, "_adjust_thread_count", None), "__code__", None)
_WORKER_STARTS = WorkerPool._add_worker.__code__


class _Started:
    """How a thread has begun: at which line; whether bridge itself has started it; and whether for an executor, which is
    `made` if it is this test's."""

    __slots__ = ("by_bridge", "for_executor", "made", "site")

    def __init__(self, site: Site | None, by_bridge: bool, for_executor: bool, made: Made | None):
        self.site = site
        self.by_bridge = by_bridge
        self.for_executor = for_executor
        self.made = made


class Threads:
    """The threads of one test. `is_own` says whether what is started just now is this test's."""

    def __init__(self, is_own: Callable[[], bool], executors: Executors):
        self._is_own = is_own
        self._executors = executors
        self._started: WeakKeyDictionary[threading.Thread, _Started] = WeakKeyDictionary()

    def begin(self, patches: Patches) -> None:
        """Note what is started from now on."""
        patches.replace(threading.Thread, "start", lambda original: self._starting(patches, original))

    def left(self) -> dict[int, Event]:
        """Those that are alive, by their idents, each once. Waits a little for those that are about to end."""
        suspects = [(thread, how) for thread, how in list(self._started.items()) if self._counts(thread, how)]
        give_up = time.monotonic() + PATIENCE
        for thread, _ in suspects:
            thread.join(max(0.0, give_up - time.monotonic()))
        left = [(thread, how) for thread, how in suspects if thread.is_alive()]
        for thread, _ in left:
            del self._started[thread]
        return {thread.ident or 0: _event_of(thread, how) for thread, how in left}

    def _starting(self, patches: Patches, original: Callable[[threading.Thread], None]) -> Callable[..., None]:
        def start(thread: threading.Thread) -> None:
            if patches.active and self._is_own() and not _comes_and_goes(thread):
                self._started[thread] = self._noted(sys._getframe(1))
            original(thread)

        return start

    def _noted(self, caller: FrameType) -> _Started:
        executor = _executor_behind(caller)
        by_bridge = caller.f_code.co_filename.startswith(PACKAGE)
        made = None if executor is None else self._executors.made(executor)
        return _Started(capture(caller).blamed, by_bridge, executor is not None, made)

    def _counts(self, thread: threading.Thread, how: _Started) -> bool:
        if not thread.is_alive() or thread is threading.current_thread():
            return False
        return not how.for_executor or (how.made is not None and how.made.closed)


def _comes_and_goes(thread: threading.Thread) -> bool:
    return thread.name.startswith(_COME_AND_GO) or type(thread).__name__ in _OF_PROCESS_POOLS


def _executor_behind(frame: FrameType | None) -> Any:
    """What a thread is started for, if that is an executor, or a pool or a crew of bridge's."""
    for _ in range(_NEAR):
        if frame is None:
            break
        owner = frame.f_locals.get("self")
        if frame.f_code in (_POOL_STARTS, _WORKER_STARTS) or isinstance(owner, Crew):
            return owner
        frame = frame.f_back
    return None


def _event_of(thread: threading.Thread, how: _Started) -> Event:
    place = None if how.site is None else place_of(how.site)
    stack = stack_of_thread(thread.ident)
    return Event(
        code="BRG502",
        headline=f"the test left a thread running: {thread.name!r}{where(place, 'started at')}",
        details=() if stack is None else ("stack, innermost first:", *stack.indented()),
        advice=_advice(how),
        place=place,
        attributes={"bridge.resource": "thread", "bridge.resource.name": thread.name},
    )


def _advice(how: _Started) -> str:
    if how.by_bridge:
        return "with bridge.background_loop() as portal:"
    call = None if how.site is None else called_at(how.site)
    if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and call.func.attr == "start":
        owner = ast.unparse(call.func.value)
        if not isinstance(call.func.value, ast.Call):
            return f"{owner}.join()  # when it has been told to end"
        return f"thread = {owner}; thread.start(); ...; thread.join()  # when it has been told to end"
    return "thread.join()  # when it has been told to end"

"""CPython's tests of event loops, on bridge's: from `test.test_asyncio`, whatever makes its loop in one place.

That place (`create_event_loop`, `new_loop`, or `asyncio.new_event_loop`) is overridden with a loop of bridge's; all else
is as in the stock classes for Unix. `test_base_events` and its kin are not here: they take a stock loop apart and put
mocks into it.
"""

from __future__ import annotations

import asyncio
import selectors
import sys
from typing import Any
from unittest import TestCase, mock

from test.test_asyncio import (
    test_buffered_proto,
    test_events,
    test_runners,
    test_sendfile,
    test_sock_lowlevel,
    test_subprocess,
    test_tasks,
)
from test.test_asyncio import utils as test_utils

import bridge
from bridge.loop import event_loop
from bridge.loop.event_loop import EventLoop

_LOCK = "asks for asyncio's _ThreadSafeHandle (3.14), a lock for each call, for which calls would take a tenth longer"

#: Tests not run, by name, each with its reason.
LEFT_OUT: dict[str, str] = {
    "test_call_soon_threadsafe_handle_block_cancellation": _LOCK,
    "test_call_soon_threadsafe_handle_block_check_cancelled": _LOCK,
    "test_call_soon_threadsafe_handle_cancel_other_thread": _LOCK,
    "test_call_soon_threadsafe_handle_cancel_same_thread": _LOCK,
}

ON_WINDOWS = sys.platform == "win32"


class _Loop:
    """The loop that users get."""

    def create_event_loop(self) -> EventLoop:
        return bridge.new_event_loop()

    def new_loop(self) -> EventLoop:  # what `functional.FunctionalTestCaseMixin` calls it
        return self.create_event_loop()


class _SelectLoop(_Loop):
    def create_event_loop(self) -> EventLoop:
        return EventLoop(selectors.SelectSelector())


class _PollLoop(_Loop):
    def create_event_loop(self) -> EventLoop:
        return EventLoop(selectors.PollSelector())


class _StockPathLoop(_Loop):
    """The loop of a Python whose private details are not the ones that bridge knows."""

    def create_event_loop(self) -> EventLoop:
        with mock.patch.object(event_loop, "_details_are_known", return_value=False):
            return bridge.new_event_loop()


class _LoopByDefault:
    """For tests that ask `asyncio.new_event_loop`, or up to Python 3.13 the policy, which that asks as well."""

    def setUp(self) -> None:
        place = asyncio if sys.version_info >= (3, 14) else asyncio.get_event_loop_policy()
        patch = mock.patch.object(place, "new_event_loop", bridge.new_event_loop)
        self.enterContext(patch)  # type: ignore[attr-defined]
        super().setUp()  # type: ignore[misc]


# -- test_events -------------------------------------------------------------------------------------------------------

if ON_WINDOWS:

    class _EventLoopTests(test_events.EventLoopTestsMixin, test_events.SubprocessTestsMixin, test_utils.TestCase):
        def test_reader_callback(self) -> None:
            self.skipTest("a proactor loop has no add_reader")

        test_reader_callback_cancel = test_remove_fds_after_closing = test_reader_callback
        test_writer_callback = test_writer_callback_cancel = test_reader_callback

else:
    _UnixEventLoopTests = getattr(test_events, "UnixEventLoopTestsMixin", test_events.EventLoopTestsMixin)

    class _EventLoopTests(_UnixEventLoopTests, test_events.SubprocessTestsMixin, test_utils.TestCase):
        pass


class EventLoopTests(_Loop, _EventLoopTests):
    pass


class StockPathEventLoopTests(_StockPathLoop, _EventLoopTests):
    pass


if not ON_WINDOWS:

    class SelectEventLoopTests(_SelectLoop, _EventLoopTests):
        pass


if hasattr(selectors, "PollSelector"):

    class PollEventLoopTests(_PollLoop, _EventLoopTests):
        pass


# -- sockets, files and protocols --------------------------------------------------------------------------------------


class SockLowLevelTests(_Loop, test_sock_lowlevel.BaseSockTestsMixin, test_utils.TestCase):
    pass


class SendfileTests(_Loop, test_sendfile.SendfileTestsBase, test_utils.TestCase):
    pass


class BufferedProtocolTests(_Loop, test_buffered_proto.BaseTestBufferedProtocol, TestCase):
    pass


# -- threads and subprocesses ------------------------------------------------------------------------------------------


class RunCoroutineThreadsafeTests(_LoopByDefault, test_tasks.RunCoroutineThreadsafeTests):
    pass


if not ON_WINDOWS:

    class SubprocessThreadedWatcherTests(_LoopByDefault, test_subprocess.SubprocessThreadedWatcherTests):
        pass

    if hasattr(test_subprocess, "SubprocessSafeWatcherTests"):

        class SubprocessSafeWatcherTests(_LoopByDefault, test_subprocess.SubprocessSafeWatcherTests):
            pass

    class SubprocessPidfdWatcherTests(_LoopByDefault, test_subprocess.SubprocessPidfdWatcherTests):
        pass


# -- runners -----------------------------------------------------------------------------------------------------------


class _LoopForRunners:
    def new_loop(self) -> Any:
        """A loop on which `BaseTest.tearDown` finds what it looks for."""
        loop: Any = bridge.new_event_loop()
        stock_shutdown = loop.shutdown_asyncgens

        async def shutdown_asyncgens() -> None:
            loop.shutdown_ag_run = True
            await stock_shutdown()

        loop.shutdown_ag_run = False
        loop.shutdown_asyncgens = shutdown_asyncgens
        return loop


class RunTests(_LoopForRunners, test_runners.RunTests):
    pass


class RunnerTests(_LoopForRunners, test_runners.RunnerTests):
    pass


def tearDownModule() -> None:
    test_events.tearDownModule()

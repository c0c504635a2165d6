"""CPython's tests of executors, on `bridge.ThreadExecutor`: the thread pool classes of `test.test_concurrent_futures`.

Those of process pools are in `process_pool`; those of Future alone are not run. Scripts that the stock tests run in a new
interpreter are made to import ThreadExecutor from bridge.
"""

from __future__ import annotations

from unittest import mock

import bridge
from tests.cpython.stock import run_on_bridge, stock

_PRIVATE = "looks into ThreadPoolExecutor's private attributes ({})"
_OTHER = "makes a ThreadPoolExecutor of its own, whatever executor it is told to test"
_NO_INITIALIZER = "ThreadExecutor has no initializer=: threads share what the program has set up"

#: Tests not run, by name, each with its reason.
LEFT_OUT: dict[str, str] = {
    "test_context_manager_shutdown": _OTHER,
    "test_default_workers": _PRIVATE.format("_max_workers") + "; the default here is 64, for calls that block",
    "test_del_shutdown": _OTHER,
    "test_hang_global_shutdown_lock": _OTHER,
    "test_idle_thread_reuse": _PRIVATE.format("_threads"),
    "test_initializer": _NO_INITIALIZER,
    "test_saturation": _PRIVATE.format("_max_workers, _threads"),
    "test_shutdown_no_wait": _OTHER,
    "test_submit_after_interpreter_shutdown": "expects the stock message; bridge's ExecutorClosed has its own",
    "test_thread_names_assigned": _OTHER,
    "test_thread_names_default": _OTHER,
    "test_threads_terminate": _PRIVATE.format("_threads"),
}


class _OnBridge:
    executor_type = bridge.ThreadExecutor


class ExecutorTests(_OnBridge, stock("test_thread_pool").ThreadPoolExecutorTest):
    pass


class WaitTests(_OnBridge, stock("test_wait").ThreadPoolWaitTests):
    pass


class AsCompletedTests(_OnBridge, stock("test_as_completed").ThreadPoolAsCompletedTest):
    pass


class ShutdownTests(_OnBridge, stock("test_shutdown").ThreadPoolShutdownTest):
    def setUp(self) -> None:
        self.enterContext(mock.patch.object(stock("test_shutdown"), "assert_python_ok", run_on_bridge))
        super().setUp()


class InitializerTests(_OnBridge, stock("test_init").ThreadPoolInitializerTest):
    pass


class FailingInitializerTests(_OnBridge, stock("test_init").ThreadPoolFailingInitializerTest):
    pass

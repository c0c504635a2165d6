# ruff: noqa: PT009, PT027 - these are unittest's, as CPython's own are
"""CPython's tests of process pools, on `bridge.ProcessExecutor`: those classes of `test.test_concurrent_futures`.

CPython runs each with every start method; bridge has but one. Where CPython looks into private attributes, or breaks the
whole pool for what is one job's misfortune, a test of ours with the same name takes the place of CPython's and asserts
what bridge promises; `@instead` says why. Scripts that the stock tests run in a new interpreter are made to import
ProcessExecutor from bridge.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import sys
import tempfile
import threading
import time
import warnings
import weakref
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, Future
from functools import partial
from pickle import PicklingError, UnpicklingError
from typing import Any
from unittest import TestCase, mock

from test import support

import bridge
from tests.cpython.stock import run_on_bridge, stock
from tests.cpython.tally import instead

test_deadlock, test_init, test_shutdown = stock("test_deadlock"), stock("test_init"), stock("test_shutdown")
test_process_pool, util = stock("test_process_pool"), stock("util")

_PRIVATE = "CPython's looks into ProcessPoolExecutor's private attributes ({})"
_OTHER = "CPython's makes a ProcessPoolExecutor of its own, whatever executor it is told to test"
_BREAKS = "CPython's expects that the whole pool is broken; here one crash is one casualty"
_BAD_PICKLE = (
    "CPython's expects that the whole pool is broken; here a bad pickle is its own job's error, and no process dies"
)
_NO_FORCE = "ProcessExecutor has no kill_workers and terminate_workers (3.14): closing has a time limit instead"

#: Tests not run, by name, each with its reason.
LEFT_OUT: dict[str, str] = {
    "test_max_tasks_per_child_defaults_to_spawn_context": "looks into a private attribute (_mp_context)",
    "test_traceback_when_child_process_terminates_abruptly": "asks for the stock pool's BrokenProcessPool and its cause; "
    "WorkerDied has the exit code itself",
    "test_broken_process_pool_traceback": "looks into a private attribute (_processes), and expects a broken pool",
    "test_failed_worker_replacement_breaks_pool": "looks into private attributes, and expects a broken pool",
    "test_kill_workers": _NO_FORCE,
    "test_terminate_workers": _NO_FORCE,
    "test_force_shutdown_workers": _NO_FORCE,
    "test_force_shutdown_workers_dead_workers": _NO_FORCE,
    "test_force_shutdown_workers_invalid_op": _NO_FORCE,
    "test_force_shutdown_workers_not_started_yet": _NO_FORCE,
    "test_force_shutdown_workers_stops_pool": _NO_FORCE,
    "test_force_shutdown_during_max_tasks_worker_exit": _NO_FORCE,
}

#: Seconds for what happens soon, but not at once.
PATIENCE = 30.0


class ProcessExecutor(bridge.ProcessExecutor):
    """As CPython's tests make one: they choose a start method, of which bridge has but one."""

    def __init__(self, max_workers: int | None = None, *, mp_context: object = None, **options: Any):
        super().__init__(max_workers, **options)


class _OnBridge(util.ExecutorMixin, util.BaseTestCase):
    executor_type = ProcessExecutor
    executor: ProcessExecutor

    def setUp(self) -> None:
        if sys.platform == "win32":
            self.skipTest("there is no ProcessExecutor on Windows")
        super().setUp()

    def get_context(self) -> Any:
        """For the semaphores and servers that CPython's tests share with workers."""
        return multiprocessing.get_context("spawn")

    def create_event(self) -> Any:
        manager = self.get_context().Manager()
        self.addCleanup(manager.shutdown)  # type: ignore[attr-defined]
        return manager.Event()

    # -- what our own tests ask ----------------------------------------------------------------------------------------

    def new_gate(self) -> tuple[Callable[[], int], Callable[[], None]]:
        """A function that waits in a worker, and returns its pid once the other one was called here."""
        folder = self.enterContext(tempfile.TemporaryDirectory())  # type: ignore[attr-defined]
        path = os.path.join(folder, "gate")

        def wait() -> int:
            while not os.path.exists(path):
                time.sleep(0.005)
            return os.getpid()

        def open_gate() -> None:
            with open(path, "w"):
                pass

        return wait, open_gate

    def until(self, condition: Callable[[], object]) -> None:
        give_up = time.monotonic() + PATIENCE
        while not condition():
            self.assertLess(time.monotonic(), give_up, "this never came true")
            time.sleep(0.005)

    def assert_goes_on(self, executor: ProcessExecutor) -> None:
        self.assertEqual(executor.submit(pow, 2, 8).result(), 256)


def _pids(executor: ProcessExecutor) -> set[int]:
    return {worker.pid for worker in executor.statistics().workers}


def _busy(executor: ProcessExecutor) -> set[int]:
    return {worker.pid for worker in executor.statistics().workers if worker.function is not None}


def _is_there(pid: int) -> bool:
    """Also as a zombie."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


# -- test_process_pool -------------------------------------------------------------------------------------------------


class ProcessExecutorTests(test_process_pool.ProcessPoolExecutorTest, _OnBridge):
    @instead(f"{_BREAKS}: the job of the killed process fails, all others run, and so do those submitted later")
    def test_killed_child(self) -> None:
        wait, open_gate = self.new_gate()
        jobs = [self.executor.submit(wait) for _ in range(3 * self.worker_count)]
        self.until(lambda: len(_busy(self.executor)) == self.worker_count)
        killed = _busy(self.executor).pop()
        os.kill(killed, signal.SIGTERM)
        self.until(lambda: any(job.done() for job in jobs))
        open_gate()
        errors = [error for job in jobs if (error := job.exception()) is not None]
        self.assertEqual([type(error) for error in errors], [bridge.WorkerDied])
        self.assertEqual((errors[0].pid, errors[0].signal), (killed, signal.SIGTERM))
        self.assert_goes_on(self.executor)

    @instead("CPython's expects a private class of its own as the cause; here it is bridge's, with the same text")
    def test_traceback(self) -> None:
        line = "raise RuntimeError(123) # some comment"
        future = self.executor.submit(test_process_pool.ProcessPoolExecutorTest._test_traceback)
        with self.assertRaises(RuntimeError) as caught:
            future.result()
        self.assertIs(type(caught.exception), RuntimeError)
        self.assertEqual(caught.exception.args, (123,))
        self.assertIn(line, str(caught.exception.__cause__))
        with support.captured_stderr() as printed:
            sys.excepthook(RuntimeError, caught.exception, caught.exception.__traceback__)
        self.assertIn(line, printed.getvalue())

    @instead(_PRIVATE.format("_max_workers, _processes") + "; here the processes are counted by the jobs that run")
    def test_saturation(self) -> None:
        wait, open_gate = self.new_gate()
        jobs = [self.executor.submit(wait) for _ in range(15 * self.worker_count)]
        self.until(lambda: len(_busy(self.executor)) == self.worker_count)
        open_gate()
        self.assertEqual(len({job.result() for job in jobs}), self.worker_count)
        self.assertEqual(len(_pids(self.executor)), self.worker_count)

    @instead(_PRIVATE.format("_max_workers, _processes"))
    def test_idle_process_reuse_one(self) -> None:
        pids = {self.executor.submit(os.getpid).result() for _ in range(3)}
        self.assertEqual(len(pids), 1)
        self.assertEqual(_pids(self.executor), pids)

    @instead(_PRIVATE.format("_max_workers, _processes"))
    def test_idle_process_reuse_multiple(self) -> None:
        jobs: list[Future[int]] = []
        for number in range(6):
            jobs.append(self.executor.submit(os.getpid))
            if number % 2 == 0:
                jobs[-1].result()
        self.assertLessEqual(len({job.result() for job in jobs}), 3)
        self.assertLessEqual(len(_pids(self.executor)), 3)

    @instead(_PRIVATE.format("_processes"))
    def test_max_tasks_per_child(self) -> None:
        with self.executor_type(1, max_tasks_per_child=3) as executor:
            pids = [executor.submit(os.getpid).result() for _ in range(7)]
            self.assertEqual([pids.count(pid) for pid in dict.fromkeys(pids)], [3, 3, 1])
            self.until(lambda: not any(_is_there(pid) for pid in pids[:6]))
            self.assertEqual(_pids(executor), {pids[6]})

    @instead(_PRIVATE.format("_executor_manager_thread"))
    def test_shutdown_no_wait_max_tasks_gh119592(self) -> None:
        self._run_stranded(lambda executor: executor.shutdown(wait=False))

    @instead(_PRIVATE.format("_executor_manager_thread"))
    def test_gc_during_max_tasks_worker_exit_gh152967(self) -> None:
        self._run_stranded(lambda executor: None)

    def _run_stranded(self, leave: Callable[[ProcessExecutor], None]) -> None:
        """A worker that ends after its last job is replaced, though nobody holds the executor any more."""
        wait, open_gate = self.new_gate()
        executor = self.executor_type(1, max_tasks_per_child=1)
        jobs = [executor.submit(wait) for _ in range(3)]
        self.until(partial(_busy, executor))
        leave(executor)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)  # it is not closed
            del executor
            gc.collect()
        open_gate()
        self.assertEqual(len({job.result(PATIENCE) for job in jobs}), 3)

    @instead("CPython's counts ProcessPoolExecutor's threads; here each job is answered, whichever cannot be started")
    def test_python_finalization_error(self) -> None:
        self.executor.submit(int).result()  # what is started once for all executors is there
        for allowed in range(3):
            with self.subTest(threads=allowed), self.executor_type(2) as executor:
                with mock.patch.object(threading.Thread, "start", _start_at_most(allowed)):
                    self.assertIn(_answer(executor), ("told", 256))
                self.assert_goes_on(executor)


def _answer(executor: ProcessExecutor) -> object:
    try:
        return executor.submit(pow, 2, 8).result()
    except RuntimeError:
        return "told"


def _start_at_most(count: int) -> Callable[[threading.Thread], None]:
    """In place of `Thread.start`."""
    start = threading.Thread.start
    allowed = iter(range(count))

    def start_or_not(thread: threading.Thread) -> None:
        if next(allowed, None) is None:
            raise RuntimeError("can't create new thread at interpreter shutdown")
        start(thread)

    return start_or_not


# -- test_wait, test_as_completed --------------------------------------------------------------------------------------


class ProcessWaitTests(stock("test_wait").WaitTests, _OnBridge):
    pass


class ProcessAsCompletedTests(stock("test_as_completed").AsCompletedTests, _OnBridge):
    pass


# -- test_shutdown -----------------------------------------------------------------------------------------------------


class ProcessShutdownTests(test_shutdown.ProcessPoolShutdownTest, _OnBridge):
    def setUp(self) -> None:
        self.enterContext(mock.patch.object(test_shutdown, "assert_python_ok", run_on_bridge))
        super().setUp()

    @instead("CPython's expects the stock message; bridge's ExecutorClosed, a RuntimeError, has its own")
    def test_submit_after_interpreter_shutdown(self) -> None:
        _, out, err = run_on_bridge("-c", _SUBMIT_AFTER_SHUTDOWN)
        self.assertEqual((out.strip(), err), (b"ExecutorClosed", b""))

    @instead(
        "CPython's counts on jobs that are with processes still starting; here those jobs are withdrawn like all others"
    )
    def test_cancel_futures(self) -> None:
        wait, open_gate = self.new_gate()
        jobs = [self.executor.submit(wait) for _ in range(50)]
        self.until(lambda: len(_busy(self.executor)) == self.worker_count)
        running = [job for job in jobs if job.running()]
        self.executor.shutdown(wait=False, cancel_futures=True)
        open_gate()
        self.executor.shutdown()
        self.assertGreater(sum(job.cancelled() for job in jobs), 20)
        self.assertFalse([job for job in running if job.cancelled()])
        self.assertFalse([job for job in jobs if not job.cancelled() and job.exception() is not None])

    @instead(_PRIVATE.format("_processes"))
    def test_processes_terminate(self) -> None:
        wait, open_gate = self.new_gate()
        jobs = [self.executor.submit(wait) for _ in range(3)]
        self.until(lambda: len(_busy(self.executor)) == 3)
        pids = _pids(self.executor)
        open_gate()
        self.executor.shutdown()
        self.assertEqual({job.result() for job in jobs}, pids)
        self.assertFalse([pid for pid in pids if _is_there(pid)])

    @instead(_OTHER)
    def test_context_manager_shutdown(self) -> None:
        with self.executor_type(max_workers=5) as executor:
            self.assertEqual(list(executor.map(abs, range(-5, 5))), [5, 4, 3, 2, 1, 0, 1, 2, 3, 4])
            pids = _pids(executor)
        self.assertTrue(pids)
        self.assertFalse([pid for pid in pids if _is_there(pid)])

    @instead(_OTHER)
    def test_del_shutdown(self) -> None:
        executor = self.executor_type(max_workers=5)
        results = executor.map(_abs_and_pid(), range(-5, 5))
        forgotten = weakref.ref(executor)
        with self.assertWarns(ResourceWarning):
            del executor
            gc.collect()
        self.assertIsNone(forgotten())
        self.assert_all_done(list(results))

    @instead(_OTHER)
    def test_shutdown_no_wait(self) -> None:
        executor = self.executor_type(max_workers=5)
        results = executor.map(_abs_and_pid(), range(-5, 5))
        executor.shutdown(wait=False)
        self.assert_all_done(list(results))

    def assert_all_done(self, results: list[tuple[int, int]]) -> None:
        self.assertEqual([number for number, _ in results], [5, 4, 3, 2, 1, 0, 1, 2, 3, 4])
        self.until(lambda: not any(_is_there(pid) for _, pid in results))


def _abs_and_pid() -> Callable[[int], tuple[int, int]]:
    return lambda number: (abs(number), os.getpid())


_SUBMIT_AFTER_SHUTDOWN = """if True:
    import atexit

    @atexit.register
    def run_last():
        try:
            executor.submit(id, None)
        except RuntimeError as error:
            print(type(error).__name__)

    import bridge

    executor = bridge.ProcessExecutor(5)
    executor.submit(id, 42).result()
"""


# -- test_init ---------------------------------------------------------------------------------------------------------


class ProcessInitializerTests(test_init.InitializerMixin, _OnBridge):
    pass


class ProcessFailingInitializerTests(test_init.FailingInitializerMixin, _OnBridge):
    @instead(_PRIVATE.format("_broken") + "; here each job is told why, and the next one tries again")
    def test_initializer(self) -> None:
        for _ in range(2):
            with self.assertRaisesRegex(BrokenExecutor, "ValueError: error in initializer"):
                self.executor.submit(test_init.get_init_status).result()


class ProcessFailingInitializerResourcesTests(TestCase):
    @instead("CPython's runs process pools of its own; here a new interpreter must have nothing to report at its end")
    def test_spawn(self) -> None:
        _, out, err = run_on_bridge("-c", _FAILING_INITIALIZER)
        self.assertEqual(out.strip(), b"WorkerDied")
        first, *rest = err.splitlines()
        self.assertRegex(first, b"BRG403 .* could not be set up: __main__.fail failed: ValueError")
        self.assertEqual(rest, [b"  calls that wait for a worker fail; the next call starts one anew"])


_FAILING_INITIALIZER = """if True:
    import bridge

    def fail():
        raise ValueError

    with bridge.ProcessExecutor(2, initializer=fail) as executor:
        print(type(executor.submit(int).exception()).__name__)
"""


# -- test_deadlock -----------------------------------------------------------------------------------------------------


class ProcessDeadlockTests(test_deadlock.ExecutorDeadlockTest, _OnBridge):
    """Stricter than CPython's: after each error the executor goes on, and the jobs that were queued behind are run."""

    def setUp(self) -> None:
        self.enterContext(support.SuppressCrashReport())  # crashes are wanted, core files are not
        super().setUp()

    def _check_crash(
        self, error: type[BaseException], func: Callable[..., Any], *args: Any, ignore_stderr: bool = False
    ) -> None:
        with self.executor_type(max_workers=1) as executor:
            powers = list(executor.map(pow, [2] * 20, range(20)))  # known as short: sent ahead, into the worker's pipe
            failing = executor.submit(func, *args)
            behind = [executor.submit(pow, 2, number) for number in range(20)]
            with self.assertRaises(error) as caught:
                failing.result()
            self.assertIs(type(caught.exception), error)
            if error is bridge.WorkerDied:
                self.assertEqual(caught.exception.signal, signal.SIGSEGV)
            self.assertEqual([job.result() for job in behind], powers)
            self.assert_goes_on(executor)

    @instead(_BAD_PICKLE)
    def test_exit_at_task_unpickle(self) -> None:
        self._check_crash(SystemExit, id, test_deadlock.ExitAtUnpickle())

    @instead(_BAD_PICKLE)
    def test_error_at_task_unpickle(self) -> None:
        self._check_crash(UnpicklingError, id, test_deadlock.ErrorAtUnpickle())

    @instead(_BREAKS)
    def test_crash_at_task_unpickle(self) -> None:
        self._check_crash(bridge.WorkerDied, id, test_deadlock.CrashAtUnpickle())

    @instead(_BREAKS)
    def test_crash_during_func_exec_on_worker(self) -> None:
        self._check_crash(bridge.WorkerDied, test_deadlock._crash)

    @instead(_BREAKS)
    def test_crash_during_result_pickle_on_worker(self) -> None:
        self._check_crash(bridge.WorkerDied, test_deadlock._return_instance, test_deadlock.CrashAtPickle)

    @instead(_BAD_PICKLE)
    def test_error_during_result_unpickle_in_result_handler(self) -> None:
        self.addCleanup(setattr, sys, "stderr", sys.stderr)  # it is replaced by what is unpickled
        self._check_crash(UnpicklingError, test_deadlock._return_instance, test_deadlock.ErrorAtUnpickle)

    @instead(_BAD_PICKLE)
    def test_exit_during_result_unpickle_in_result_handler(self) -> None:
        self._check_crash(SystemExit, test_deadlock._return_instance, test_deadlock.ExitAtUnpickle)

    @instead(_BREAKS)
    def test_shutdown_deadlock(self) -> None:
        with self.executor_type(max_workers=2) as executor:
            crashing = executor.submit(test_deadlock._crash, delay=0.1)
            executor.shutdown(wait=True)
            with self.assertRaises(bridge.WorkerDied) as caught:
                crashing.result()
            self.assertEqual(caught.exception.signal, signal.SIGSEGV)

    @instead(_PRIVATE.format("_executor_manager_thread") + "; here no thread at all may be left")
    def test_shutdown_deadlock_pickle(self) -> None:
        with self.executor_type(max_workers=2) as executor:
            executor.submit(id, 42).result()
            failing = executor.submit(id, test_deadlock.ErrorAtPickle())
            executor.shutdown(wait=False)
            with self.assertRaisesRegex(PicklingError, "Error in pickle"):
                failing.result()

    @instead(_BREAKS)
    def test_crash_big_data(self) -> None:
        data = "a" * support.PIPE_MAX_SIZE
        with self.executor_type(max_workers=2) as executor:
            crashing = [executor.submit(_crash_with, data) for _ in range(5)]
            others = [executor.submit(len, data) for _ in range(5)]
            for job in crashing:
                with self.assertRaises(bridge.WorkerDied) as caught:
                    job.result()
                self.assertEqual(caught.exception.signal, signal.SIGSEGV)
            self.assertEqual([job.result() for job in others], [len(data)] * 5)

    @instead("CPython's delays a thread of ProcessPoolExecutor's own; here whoever should take the jobs in is held up")
    def test_gh105829_should_not_deadlock_if_wakeup_pipe_full(self) -> None:
        held_up, go_on = threading.Event(), threading.Event()
        wait, open_gate = self.new_gate()

        def hold_up(_: object) -> None:
            held_up.set()
            go_on.wait()

        self.executor.submit(wait).add_done_callback(hold_up)
        open_gate()
        held_up.wait()
        try:
            jobs = [self.executor.submit(int, number) for number in range(10_000)]
        finally:
            go_on.set()
        self.assertEqual([job.result() for job in jobs], list(range(10_000)))


def _crash_with(data: str) -> None:
    """`_crash_with_data`, which 3.11 does not have."""
    test_deadlock._crash()

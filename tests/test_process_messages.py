"""What messages about worker processes say is true, and what they advise works: whoever reads them cannot look inside."""

from __future__ import annotations

import errno
import functools
import os
import pickle
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import AsyncMock, Mock, create_autospec

import psutil
import pytest

import bridge
from bridge.diagnostics.events import Event
from bridge.executors.process import roster
from bridge.executors.process.obituary import initializer_failed
from tests.conftest import PATIENCE, events_of

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX")


def error_of(executor: bridge.ProcessExecutor, fn: Callable[..., Any], *args: Any) -> BaseException:
    error = executor.submit(fn, *args).exception(PATIENCE)
    assert error is not None
    return error


# -- what keeps a process from being started -----------------------------------------------------------------------------

LIMITS = ["ulimit -u", "ulimit -n", "fs.file-max", "memory limit", "/dev/shm", "SELinux", "max_workers", "limit on"]


@pytest.mark.parametrize(
    ("reason", "words"),
    [
        pytest.param(BlockingIOError(errno.EAGAIN, "no more"), ["ulimit -u", "limit on", "max_workers"], id="EAGAIN"),
        pytest.param(RuntimeError("can't start new thread"), ["ulimit -u", "limit on", "max_workers"], id="thread"),
        pytest.param(OSError(errno.EMFILE, "too many"), ["ulimit -n", "max_workers"], id="EMFILE"),
        pytest.param(OSError(errno.ENFILE, "too many"), ["fs.file-max"], id="ENFILE"),
        pytest.param(OSError(errno.ENOMEM, "no memory"), ["memory limit", "max_workers", "limit on"], id="ENOMEM"),
        pytest.param(OSError(errno.ENOSPC, "full"), ["/dev/shm"], id="ENOSPC"),
        pytest.param(PermissionError(errno.EPERM, "no"), ["SELinux"], id="EPERM"),
        pytest.param(FileNotFoundError(errno.ENOENT, "gone"), ["The current folder"], id="ENOENT"),
        pytest.param(FileNotFoundError(errno.ENOENT, "gone", "/no/python"), ["'/no/python'"], id="ENOENT-file"),
        pytest.param(AttributeError("no attribute"), ["not a limit"], id="AttributeError"),
        pytest.param(RuntimeError("can't create new thread at interpreter shutdown"), ["not a limit"], id="the end"),
        pytest.param(ValueError("something"), ["not a limit"], id="ValueError"),
    ],
)
def test_limits_are_spoken_of_only_where_one_was_reached(
    reason: BaseException, words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def launch(*args: object) -> None:
        raise reason

    monkeypatch.setattr(roster, "launch", launch)
    with bridge.ProcessExecutor(1) as executor:
        error = error_of(executor, os.getcwd)
    assert isinstance(error, bridge.WorkerDied)
    assert error.__cause__ is reason
    text = str(error)
    for word in words:
        assert word in text
    for word in set(LIMITS) - set(words):
        assert word not in text


# -- initializers --------------------------------------------------------------------------------------------------------


def set_up(*args: object) -> None: ...


def cannot_be_rebuilt() -> object:
    raise ValueError("not here")


class NotRebuilt:
    def __reduce__(self) -> tuple[Any, ...]:
        return cannot_be_rebuilt, ()


def test_what_cannot_be_pickled_of_an_initializer_is_called_as_its_author_calls_it() -> None:
    lock = threading.Lock()
    with bridge.ProcessExecutor(1, initializer=set_up, initargs=(1, {"db": lock})) as executor:
        text = str(error_of(executor, os.getcwd))
        assert "cannot pickle initargs[1]['db']: " in text
        assert "set_up did not begin" in text
        assert "set_up failed" not in text
    with bridge.ProcessExecutor(1, initializer=lambda: lock.locked()) as executor:
        assert "cannot pickle initializer (its variable 'lock'): " in str(error_of(executor, os.getcwd))


def test_an_initializer_whose_arguments_cannot_be_rebuilt_did_not_begin() -> None:
    with bridge.ProcessExecutor(1, initializer=set_up, initargs=(NotRebuilt(),)) as executor:
        text = str(error_of(executor, os.getcwd))
    assert "set_up did not begin: UnpicklingError" in text


def fail_once(path: Path) -> None:
    if path.exists():
        path.unlink()
        raise ConnectionError("the database is just starting")


def test_an_initializer_that_failed_is_tried_again_by_the_next_call_and_the_message_says_so(tmp_path: Path) -> None:
    path = tmp_path / "fails"
    path.touch()
    with bridge.ProcessExecutor(1, initializer=fail_once, initargs=(path,)) as executor:
        text = str(error_of(executor, os.getcwd))
        assert "fail_once failed: ConnectionError: the database is just starting" in text
        assert "the next call starts one anew" in text
        assert executor.submit(os.getpid).result(PATIENCE) != os.getpid()


def test_an_initializer_that_failed_is_not_said_not_to_have_begun() -> None:
    assert "set_up failed: ValueError" in str(initializer_failed("crew", 4711, set_up, ValueError("no"), began=True))


# -- workers that are stopped --------------------------------------------------------------------------------------------


def stop_itself() -> None:
    os.kill(os.getpid(), signal.SIGSTOP)
    time.sleep(3600)


def test_a_stopped_worker_is_not_called_busy() -> None:
    seen = threading.Event()
    saturated: list[Event] = []

    def listen(event: Event) -> None:
        if event.code == "BRG401" and "SIGSTOP" in str(event.details):
            saturated.append(event)
            seen.set()

    executor = bridge.ProcessExecutor(1, queue_limit=0.05)
    with bridge.on_event(listen):
        executor.submit(stop_itself)
        executor.submit(os.getpid)
        assert seen.wait(PATIENCE)
        executor.close_within(0.0)
    event = saturated[0]
    assert "stopped by a signal" in event.headline
    assert "is busy" not in event.headline
    assert "stopped by SIGSTOP: `kill -STOP`" in "\n".join(event.details)
    assert "kill -CONT" in event.advice


@pytest.mark.anyio
async def test_a_timeout_says_that_the_worker_was_stopped() -> None:
    async with bridge.ProcessExecutor(1, grace=0.0) as executor:
        await executor.run(nothing, 1)  # this module is imported there now
        with pytest.raises(bridge.OffloadTimeout, match="stopped by SIGSTOP: `kill -STOP`") as caught:
            await bridge.offload(to=executor, timeout=1.5)(stop_itself)()
        assert "was ended with its worker process" in str(caught.value)


def test_what_does_not_end_because_it_is_stopped_is_reported_so() -> None:
    executor = bridge.ProcessExecutor(1)
    with events_of("BRG404") as left:
        running = executor.submit(stop_itself)
        while not (workers := executor.statistics().workers) or workers[0].function is None:
            time.sleep(0.01)
        while psutil.Process(workers[0].pid).status() != psutil.STATUS_STOPPED:
            time.sleep(0.01)
        executor.close_within(0.0)
    assert "stopped by SIGSTOP" in left[0].headline
    error = running.exception(PATIENCE)
    assert isinstance(error, bridge.WorkerDied)
    assert "somebody" not in str(error)


# -- many calls at once --------------------------------------------------------------------------------------------------


def nothing(value: object) -> None: ...


def return_a_lock(number: int) -> object:
    return threading.Lock() if number == 30 else number


def test_arguments_and_values_that_travel_in_chunks_are_called_as_their_author_calls_them() -> None:
    with bridge.ProcessExecutor(1) as executor:
        with pytest.raises(pickle.PicklingError, match=r"^cannot pickle args\[0\]: cannot pickle '_thread.lock'"):
            list(executor.map(nothing, [*range(30), threading.Lock()], chunksize=16))
        with pytest.raises(pickle.PicklingError, match=r"^cannot pickle value: cannot pickle '_thread.lock'"):
            list(executor.map(return_a_lock, range(32), chunksize=32))


# -- the script's __main__ -----------------------------------------------------------------------------------------------

BY_NAME = """
    import pickle
    import bridge

    class Singleton:
        def __reduce__(self):
            return "THE_ONE"

    THE_ONE = Singleton()

    def load():
        return pickle.loads(b"c__main__\\nTHE_ONE\\n.")

    with bridge.ProcessExecutor(1) as executor:
        for future in executor.submit(print, THE_ONE), executor.submit(load):
            print(future.exception())
"""


def test_what_a_worker_lacks_of_the_script_is_said_to_be_missing_in_main(tmp_path: Path) -> None:
    path = tmp_path / "script.py"
    path.write_text(textwrap.dedent(BY_NAME))
    done = subprocess.run([sys.executable, path], capture_output=True, text=True, timeout=60, check=True)
    sent, loaded = done.stdout.splitlines()
    for text in sent, loaded:
        assert "THE_ONE" in text
        assert "__main__" in text
        assert "loky" not in text
    assert "Move it to a module" in sent


# -- mocks ---------------------------------------------------------------------------------------------------------------


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("fn", "argument", "part"),
    [
        (AsyncMock(), 1, "fn"),
        (AsyncMock().a.b, 1, "fn"),
        (functools.partial(AsyncMock(), 1), 1, "fn.func"),
        (len, [AsyncMock(name="mailer")], "args[0][0]"),
        (len, {"db": Mock(spec=list)}, "args[0]['db']"),
        (create_autospec(len), [], "fn"),
    ],
    ids=["fn", "attribute", "partial", "argument", "spec", "autospec"],
)
async def test_a_mock_that_cannot_be_sent_is_called_one(fn: Callable[..., Any], argument: Any, part: str) -> None:
    with pytest.raises(pickle.PicklingError) as caught:
        await bridge.to_process(fn, argument)
    message = str(caught.value)
    assert message.startswith(f"cannot pickle {part}: <")
    assert "mocks are not made for pickle" in message
    assert "Hand over a plain function, or a plain object, in its place." in message


@pytest.mark.anyio
async def test_a_mock_that_cannot_come_back_is_called_one() -> None:
    with pytest.raises(pickle.UnpicklingError, match="in the parent process: mocks are not made for pickle"):
        await bridge.to_process(Mock())


@pytest.mark.anyio
async def test_a_mock_that_can_be_sent_is_sent() -> None:
    assert await bridge.to_process(isinstance, Mock(), Mock)

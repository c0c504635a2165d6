"""A worker process as the operating system sees it, from its start until it is reaped: its end, its exit code, signals.

In: a command and the descriptors that it inherits. Out: a Child. multiprocessing does not know these processes: at the
program's end it waits for its own without a limit. They are known here, from when they are started until they are reaped.

Owners: `_lock` is held while a process is signalled and while it is reaped. Until then its number, and that of the group
it leads, are its own, so that no signal ever reaches another process.
"""

from __future__ import annotations

import errno
import fcntl
import os
import select
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from threading import RLock
from time import monotonic

#: Seconds for which killed processes are waited for.
AFTER_KILLING = 5.0
#: Seconds between looks at a process whose end may not be told, because what it has started holds the pipe for that.
_LOOK = 0.05

#: Processes that were started and have not been reaped.
_started: set[Child] = set()


class Child:
    """A process that leads a process group of its own."""

    def __init__(self, process: subprocess.Popen[bytes], ended: int):
        self.pid: int = process.pid
        #: A descriptor that is readable once the process has ended; it is closed with the worker's other descriptors.
        self.ended: int = ended
        #: As multiprocessing gives it, -N for signal N; None if something else has collected it.
        self.exit_code: int | None = None
        self._process = process
        self._lock = RLock()

    def poll(self) -> bool:
        """True if the process has ended; it is reaped then."""
        with self._lock:
            if self not in _started:
                return True
            try:
                if self._runs():
                    return False
                with suppress(OSError):
                    os.killpg(self.pid, signal.SIGKILL)  # what it has left behind
                _, status = os.waitpid(self.pid, 0)
                self.exit_code = os.waitstatus_to_exitcode(status)
            except ChildProcessError:  # something else has collected it
                pass
            self.forget()
            return True

    def _runs(self) -> bool:
        if not hasattr(os, "waitid"):  # macOS, before Python 3.13
            return os.waitpid(self.pid, os.WNOHANG) == (0, 0)
        return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None

    def wait(self, seconds: float) -> bool:
        """Wait for its end, for so many seconds at most, and reap it. True if it has ended."""
        deadline = monotonic() + seconds
        waiting = select.poll()
        with suppress(OSError, ValueError):  # it is closed
            waiting.register(self.ended, select.POLLIN)
        while not self.poll():
            left = deadline - monotonic()
            if left <= 0:
                return False
            waiting.poll(1000 * min(left, _LOOK))
        return True

    def signal(self, number: int) -> None:
        """Send a signal to the process and to its group. Needs no descriptor and no /proc; never raises OSError."""
        with self._lock:
            if self.poll():
                return
            try:
                os.killpg(self.pid, number)
            except OSError:  # of a group it leads no longer
                with suppress(OSError):
                    os.kill(self.pid, number)

    def forget(self) -> None:
        """It has been reaped, or is the child of the process that this one was forked from."""
        _started.discard(self)
        self._process.returncode = self.exit_code or 0  # else subprocess would wait for it


def start(command: Sequence[str], environment: Mapping[str, str], inherited: Sequence[int]) -> Child:
    """Start a process that inherits those descriptors, and the standard streams. Raises OSError, and leaves none then."""
    _reap_ended()
    # A pidfd tells the end of just that process; else a pipe does, whose other end is open until it has ended.
    ended, open_until_then = (-1, -1) if _pidfds_can_be_had() else _pipe()
    try:
        process = subprocess.Popen(
            command,
            env=environment,
            pass_fds=[each for each in (*inherited, open_until_then) if each >= 0],
            process_group=0,
            stdin=subprocess.DEVNULL,  # what is typed, or piped in, is this process's
            stdout=_stream(1),
            stderr=_stream(2),
        )
    except BaseException:
        _close(ended)
        raise
    finally:
        _close(open_until_then)
    child = adopt(process, ended)
    if ended < 0:
        try:
            child.ended = os.pidfd_open(child.pid)
        except BaseException:
            child.signal(signal.SIGKILL)
            child.wait(AFTER_KILLING)
            raise
    return child


def adopt(process: subprocess.Popen[bytes], ended: int) -> Child:
    """What is known of a process that leads a group of its own; see `Child` for `ended`."""
    child = Child(process, ended)
    _started.add(child)
    return child


def started() -> list[Child]:
    """Those that have not been reaped."""
    return list(_started)


def forget_all() -> None:
    """In the child of a fork: they are its parent's."""
    for child in started():
        child.forget()


def _reap_ended() -> None:
    """Processes whose end was not noticed, because what would have noticed it was interrupted."""
    for child in started():
        child.poll()


def _pidfds_can_be_had() -> bool:
    """Is there such a call, and is it allowed? Raises OSError if this process has no descriptor left."""
    if not hasattr(os, "pidfd_open"):
        return False
    try:
        os.close(os.pidfd_open(os.getpid()))
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):
            raise
        return False
    return True


def no_stream(descriptor: int) -> int:
    """A descriptor that a process is to inherit, in place of this one if that has the number of a standard stream."""
    if descriptor > 2:
        return descriptor
    try:
        return fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 3)
    finally:
        os.close(descriptor)


def _stream(number: int) -> int | None:
    """None: as it is. Of a daemon that has closed it the number may be used for something else by now."""
    try:
        return None if os.get_inheritable(number) else subprocess.DEVNULL
    except OSError:
        return subprocess.DEVNULL


def _pipe() -> tuple[int, int]:
    read, write = os.pipe()
    try:
        return read, no_stream(write)
    except BaseException:
        os.close(read)
        raise


def _close(descriptor: int) -> None:
    if descriptor >= 0:
        os.close(descriptor)

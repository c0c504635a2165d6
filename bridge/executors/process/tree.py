"""A worker process and what it has started: ending them, measuring them.

A worker leads a process group of its own. What it starts is in that group, unless it made itself a session or a group;
then it is still a descendant. The worker and its group are always reached. Its descendants are found through /proc, if
it is there and this process's own.
"""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from functools import cache
from typing import TYPE_CHECKING

from bridge.executors.process.child import Child

if TYPE_CHECKING:
    from psutil import Process

#: Looks for processes that were started while the others were being stopped.
_LOOKS = 10


def end(child: Child, number: int) -> None:
    """Send a signal to a worker and all its descendants, once to each. Takes some milliseconds. Never raises.

    Before SIGKILL they are stopped, so that none can start another meanwhile that would be missed.
    """
    if child.poll():
        return
    descendants: list[Process] = []
    try:
        with suppress(Exception):  # no descriptor, no memory, no /proc: then those that left its group are not found
            descendants = _stop_all(child) if number == signal.SIGKILL else _descendants(child.pid)
    finally:
        child.signal(number)
    _signal_each([each for each in descendants if _group_of(each.pid) != child.pid], number)


def stopping_signal(pid: int) -> str | None:
    """The name of the signal by which a child process is stopped, "a signal" if it is not known which; None if it runs.

    It is only looked at: who waits for that child will find it as it was.
    """
    try:
        seen = os.waitid(os.P_PID, pid, os.WSTOPPED | os.WNOHANG | os.WNOWAIT)
    except (AttributeError, OSError):  # macOS has no waitid; it is no child any more
        seen = None
    if seen is not None:
        try:
            return signal.Signals(seen.si_status).name
        except ValueError:
            return f"signal {seen.si_status}"
    return "a signal" if _is_stopped(pid) else None


def _is_stopped(pid: int) -> bool:
    """Also where something else has collected the news. Microseconds, where there is /proc."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[:1] == [b"T"]
    except OSError:
        return not os.path.exists("/proc/self/stat") and _is_stopped_elsewhere(pid)


def _is_stopped_elsewhere(pid: int) -> bool:
    import psutil

    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_STOPPED)
    except psutil.Error:
        return False


def rss(pid: int) -> int:
    """Resident memory in bytes, shared blocks that are mapped included; 0 if there is no such process. Microseconds."""
    try:
        with open(f"/proc/{pid}/statm", "rb") as file:
            return int(file.read().split()[1]) * _page_size()
    except ProcessLookupError:
        return 0
    except (OSError, IndexError):
        return 0 if os.path.exists("/proc/self/statm") else _rss_elsewhere(pid)


@cache
def _page_size() -> int:
    return os.sysconf("SC_PAGE_SIZE")


def _rss_elsewhere(pid: int) -> int:
    import psutil

    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.Error:
        return 0


# -- descendants ---------------------------------------------------------------------------------------------------------


def _descendants(pid: int) -> list[Process]:
    import psutil

    if os.path.isdir("/proc/self") and os.readlink("/proc/self") != str(os.getpid()):
        return []  # the numbers there are another container's
    found: list[Process] = psutil.Process(pid).children(recursive=True)
    return found


def _stop_all(child: Child) -> list[Process]:
    """Everything that descends from it, and none of it runs any more."""
    known: set[Process] = set()
    child.signal(signal.SIGSTOP)
    for _ in range(_LOOKS):
        new = [each for each in _descendants(child.pid) if each not in known]
        if not new:
            break
        known.update(new)
        _signal_each(new, signal.SIGSTOP)
    return list(known)


def _group_of(pid: int) -> int | None:
    try:
        return os.getpgid(pid)
    except OSError:
        return None


def _signal_each(processes: list[Process], number: int) -> None:
    for process in processes:
        with suppress(Exception):
            process.send_signal(number)  # not if its number belongs to another by now

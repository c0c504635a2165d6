"""Why a worker process has died, as far as can be known, and what to do about it: messages for whoever is woken by them.

In: how it ended, and what it was doing. Out: WorkerDied and WorkerMemoryExceeded, never raised here.
"""

from __future__ import annotations

import errno
import signal as signals
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from time import monotonic
from typing import Any

from bridge.errors import WorkerDied, WorkerMemoryExceeded
from bridge.threads.job import Job, name_of

#: What a worker was doing, by phase; `{fn}` is the function.
_PHASES = {
    "running": "while it ran {fn}",
    "starting": "while it was starting, so {fn} did not begin",
    "initializer": "in its initializer, so {fn} did not begin",
    "unpickling": "while it unpickled {fn} and its arguments",
    "pickling": "while it pickled what {fn} had returned",
    "idle": "while it was idle",
}
#: Phases in which the function has not begun.
_BEFORE = ("starting", "initializer")

_FAULT = (
    "To see the line at which it happened, have each worker print it: "
    "bridge.ProcessExecutor(initializer=faulthandler.enable)."
)
#: Probable cause, and what to do, by signal.
_CAUSES: dict[str, str] = {
    "SIGSEGV": f"a segmentation fault, in most cases a bug in a library that is not written in Python. {_FAULT}",
    "SIGBUS": (
        "an access to memory with nothing behind it: a mapped file that was truncated, or /dev/shm or a disk that is "
        f"full. {_FAULT}"
    ),
    "SIGABRT": (
        "the process gave itself up by abort(), as C and C++ libraries, malloc and Python do at a fatal error. "
        f"They say why on stderr. {_FAULT}"
    ),
    "SIGFPE": f"an arithmetic error, such as an integer division by zero, in a library not written in Python. {_FAULT}",
    "SIGILL": (
        "an instruction that this processor does not have, in most cases a library that was built for another one. "
        f"{_FAULT}"
    ),
    "SIGSYS": f"a system call that a sandbox (seccomp) forbids. {_FAULT}",
    "SIGTERM": (
        "somebody asked it to end: `kill`, a service manager or container runtime that stops, a job scheduler at its "
        "time limit. If it was the function itself, it has ended its own process."
    ),
    "SIGHUP": "the terminal that it belonged to was closed. Start the program under a service manager or nohup.",
    "SIGXCPU": "its limit of processor time was reached (`ulimit -t`, RLIMIT_CPU).",
    "SIGXFSZ": "its limit for the size of a file was reached (`ulimit -f`, RLIMIT_FSIZE).",
}
_OUT_OF_MEMORY = (
    "the kernel's out-of-memory killer: it has ended a process {scope} just now. Have less in memory at a time "
    "(fewer max_workers, smaller arguments), or set ProcessExecutor(memory_limit=...) so that a function which takes "
    "too much fails alone and early."
)
_KILLED = (
    "somebody sent SIGKILL (`kill -9`, a container runtime, a job scheduler at its memory or time limit); "
    "the kernel's out-of-memory killer {verdict}."
)
#: Why a process is stopped, without a full stop.
WHY_STOPPED = "`kill -STOP`, a debugger or a job scheduler does so, or the function itself"
_NOT_AGAIN = "bridge does not run it again by itself, because it might kill the next worker, too; the executor goes on."


# -- messages ------------------------------------------------------------------------------------------------------------


def worker_died(
    fn_name: str, pid: int, exitcode: int | None, executor_name: str, *, phase: str, ran_for: float
) -> WorkerDied:
    """The error for a call that was lost with its worker. `exitcode` is that of multiprocessing: -N for signal N."""
    then = "No call can be made until a worker starts." if phase in _BEFORE else _NOT_AGAIN
    how = how_it_died(fn_name, pid, exitcode, executor_name, phase=phase, ran_for=ran_for)
    return WorkerDied(
        f"{how}. Probable cause: {cause(exitcode, phase)} {then}",
        function=fn_name,
        pid=pid,
        exitcode=exitcode,
        signal=signal_of(exitcode),
    )


def how_it_died(fn_name: str, pid: int, exitcode: int | None, executor_name: str, *, phase: str, ran_for: float) -> str:
    """What is certain, without a full stop."""
    number = signal_of(exitcode)
    doing = _PHASES.get(phase, f"({phase}), with {{fn}}").format(fn=fn_name)
    after = f" for {seconds(ran_for)}" if phase == "running" else ""
    how = f"killed by {signal_name(number)}" if number is not None else _exit(exitcode)
    return f"worker process {pid} of {executor_name!r} died {doing}{after}: {how}"


def ended_at_close(fn_name: str, pid: int, exitcode: int | None, executor_name: str, ran_for: float) -> WorkerDied:
    """The error for a call that was still running when its executor stopped waiting for it and ended its worker."""
    return WorkerDied(
        f"{fn_name} was ended by bridge after {seconds(ran_for)}, with its worker process {pid}: {executor_name!r} was "
        f"told to close, and the function had not ended when the time for that was over. Raise shutdown_timeout=, or "
        f"have the function call bridge.check_cancelled() so that it ends early.",
        function=fn_name,
        pid=pid,
        exitcode=exitcode,
        signal=signal_of(exitcode),
    )


def ended_with_its_worker(fn_name: str, pid: int, stopped_by: str | None) -> str:
    """What the error of a call says that was cancelled, or took too long, and so was ended."""
    stopped = "" if stopped_by is None else f", which was stopped by {stopped_by}: {WHY_STOPPED}"
    return f"{fn_name} was ended with its worker process {pid}{stopped}"


def ended_with_another(fn_name: str, pid: int, exitcode: int | None, executor_name: str) -> WorkerDied:
    """The error for a call that had just begun in a worker process which was being ended for the call before it."""
    return WorkerDied(
        f"{fn_name} was ended by bridge, with its worker process {pid} of {executor_name!r}: the call before it was "
        f"cancelled or took too much, and had ended by itself when the signal came. {_NOT_AGAIN}",
        function=fn_name,
        pid=pid,
        exitcode=exitcode,
        signal=signal_of(exitcode),
    )


def memory_exceeded(pid: int, fn_name: str, rss: int, limit: int, executor_name: str) -> WorkerMemoryExceeded:
    """The error for a call that was ended because of its memory. Bytes."""
    return WorkerMemoryExceeded(
        f"{fn_name} was ended: its worker process {pid} of {executor_name!r} had {in_bytes(rss)} in memory, more than "
        f"memory_limit={limit} ({in_bytes(limit)}) allows. Give it less to do at a time, or raise the limit; a new "
        f"worker takes its place. {_NOT_AGAIN}",
        function=fn_name,
        pid=pid,
        exitcode=-int(signals.SIGKILL),
        signal=signals.SIGKILL,
    )


def how_setup_failed(
    executor_name: str, pid: int, initializer: Callable[..., Any] | None, reason: BaseException, began: bool
) -> str:
    """What is certain, without a full stop. `began`: the initializer was called."""
    what = "" if initializer is None else f"{name_of(initializer)} {'failed' if began else 'did not begin'}: "
    return f"worker process {pid} of {executor_name!r} could not be set up: {what}{_reason(reason)}"


def initializer_failed(
    executor_name: str,
    pid: int,
    initializer: Callable[..., Any] | None,
    reason: BaseException,
    *,
    began: bool = True,
) -> WorkerDied:
    """The error for calls that wait for workers which cannot be set up; `reason` is its cause."""
    error = WorkerDied(
        f"{how_setup_failed(executor_name, pid, initializer, reason, began)}. The calls that waited for a worker fail "
        f"with it; the next call starts one anew. Its traceback is that of the cause.",
        function=None if initializer is None else name_of(initializer),
        pid=pid,
    )
    error.__cause__ = reason
    return error


def could_not_start(executor_name: str, reason: BaseException, job: Job) -> WorkerDied:
    """The error for a call that waits for a worker process which could not be started."""
    fn = name_of(job.named)
    error = WorkerDied(
        f"no worker process of {executor_name!r} could be started, so {fn} did not begin: {_reason(reason)}. "
        f"{_cure(reason)}",
        function=fn,
    )
    error.__cause__ = reason
    return error


#: What to do about an error of the system that kept a process from being started, by errno.
_CURES: dict[int, str] = {
    errno.EAGAIN: (
        "It is a limit on processes and threads (`ulimit -u`, the container's pids limit): raise it, or ask for fewer "
        "max_workers."
    ),
    errno.EMFILE: (
        "This program has as many files and sockets open as it may (`ulimit -n`), and each worker process needs some: "
        "close what is not needed, raise the limit, or ask for fewer max_workers."
    ),
    errno.ENFILE: "The whole system has as many files open as it may (the sysctl fs.file-max).",
    errno.ENOMEM: (
        "There is not enough memory, or a limit on it is reached (`ulimit -v`, the container's memory limit): ask for "
        "fewer max_workers, or keep less in memory."
    ),
    errno.ENOSPC: "A file system is full; look at /dev/shm and at the folder of temporary files.",
    errno.EACCES: "This program may not do that; look at the file's permissions, and at a sandbox's or SELinux's rules.",
    errno.EPERM: "A sandbox or a security policy forbids it (seccomp, SELinux, a container's profile).",
}


def _cure(reason: BaseException) -> str:
    """What to do about what kept a process from being started: whole sentences."""
    number = getattr(reason, "errno", None)
    if isinstance(reason, RuntimeError) and "start new thread" in str(reason):
        number = errno.EAGAIN  # threading says no more
    if isinstance(reason, FileNotFoundError):
        missing = "The current folder" if reason.filename is None else repr(reason.filename)
        return f"{missing} does not exist, or no longer."
    cure = _CURES.get(number) if isinstance(number, int) else None
    return cure or "It is not a limit of the system as far as is known: its traceback is that of the cause."


# -- causes --------------------------------------------------------------------------------------------------------------


def cause(exitcode: int | None, phase: str) -> str:
    """The probable cause, and what to do about it: whole sentences."""
    number = signal_of(exitcode)
    if number == signals.SIGKILL:
        return _who_killed()
    if number is not None:
        return _CAUSES.get(signal_name(number), "somebody sent that signal, or the process sent it to itself.")
    if exitcode is None:
        return (
            "unknown, because something else in this program has collected its exit status: a SIGCHLD handler or "
            "os.wait(). Use os.waitpid(pid, ...) for your own children only."
        )
    if phase == "idle":
        return "something that it had started before, a thread or a handler at its exit, ended the process."
    if phase == "starting":
        return (
            "the interpreter could not start, or could not import bridge or cloudpickle. It says why on stderr; "
            "look at env=, PYTHONPATH and PYTHONHOME."
        )
    return (
        "the function, or a library that it uses, ended the process by os._exit() or C's exit(). "
        "Return a value or raise an exception in its place."
    )


def _who_killed() -> str:
    scope = out_of_memory.strikes()
    if scope:
        return _OUT_OF_MEMORY.format(scope=scope)
    unknown = not out_of_memory.counters
    return _KILLED.format(verdict="may have done so, which cannot be told here" if unknown else "did not do it")


def signal_of(exitcode: int | None) -> int | None:
    """The signal that has ended a process, if one has."""
    if exitcode is None or exitcode >= 0:
        return None
    try:
        return signals.Signals(-exitcode)
    except ValueError:
        return -exitcode


def signal_name(number: int) -> str:
    """As it is written: SIGKILL."""
    return number.name if isinstance(number, signals.Signals) else f"signal {number}"


def _exit(exitcode: int | None) -> str:
    return "its exit status is not known" if exitcode is None else f"it ended itself with exit code {exitcode}"


def _reason(error: BaseException) -> str:
    text = str(error).strip().rstrip(".")
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def seconds(value: float) -> str:
    """A time, short."""
    return f"{value * 1000:.0f} ms" if value < 1 else f"{value:.1f} s"


def in_bytes(value: int) -> str:
    """An amount of memory, short."""
    return f"{value / (1 << 20):.0f} MiB" if value < 10 << 30 else f"{value / (1 << 30):.1f} GiB"


# -- the out-of-memory killer --------------------------------------------------------------------------------------------


class OutOfMemory:
    """What the kernel's out-of-memory killer has done since this object was made, as far as the kernel tells.

    Of the counters that can be read the nearest counts: the cgroup's (version 2, then 1), else the machine's.
    """

    #: Seconds for which a rise of the counter explains deaths: several workers may be killed at once.
    together: float = 2.0

    def __init__(self, root: Path = Path("/")):
        self._root = root
        self.counters: dict[str, Path] = {}
        self._seen: dict[str, int] = {}
        self._struck: dict[str, float] = {}
        for scope, path in self._candidates():
            count = _oom_kills(path)
            if count is not None:
                self.counters[scope] = path
                self._seen[scope] = count
                break

    def strikes(self) -> str | None:
        """Where it has just killed something ("in this container", ...); None if it has not."""
        for scope, path in self.counters.items():
            count = _oom_kills(path)
            if count is not None and count > self._seen[scope]:
                self._seen[scope] = count
                self._struck[scope] = monotonic()
            if monotonic() - self._struck.get(scope, float("-inf")) < self.together:
                return scope
        return None

    def _candidates(self) -> list[tuple[str, Path]]:
        found = []
        cgroup, ours = self._root / "sys/fs/cgroup", "in this program's control group"
        with suppress(OSError):
            for line in (self._root / "proc/self/cgroup").read_text().splitlines():
                _, controllers, path = line.split(":", 2)
                if not controllers:
                    found.append((ours, cgroup / path.lstrip("/") / "memory.events"))
                elif "memory" in controllers.split(","):
                    found.append((ours, cgroup / "memory" / path.lstrip("/") / "memory.oom_control"))
        found.append(("on this machine", self._root / "proc/vmstat"))
        return found


def _oom_kills(path: Path) -> int | None:
    try:
        for line in path.read_text().splitlines():
            name, _, value = line.partition(" ")
            if name == "oom_kill":
                return int(value)
    except (OSError, ValueError):
        pass
    return None


#: Counts from the start: this module is imported before the first worker is started.
out_of_memory: OutOfMemory = OutOfMemory()

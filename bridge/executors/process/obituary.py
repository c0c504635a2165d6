"""Why a worker process has died, as far as can be known, and what to do about it: messages for whoever is woken by them.

In: how it ended, and what it was doing. Out: WorkerDied and WorkerMemoryExceeded, never raised here.
"""

from __future__ import annotations

import signal as signals
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from time import monotonic
from typing import Any

from bridge.errors import WorkerDied, WorkerMemoryExceeded
from bridge.threads.job import Job, last_name, name_of

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


def initializer_failed(
    executor_name: str, pid: int, initializer: Callable[..., Any] | None, reason: BaseException
) -> WorkerDied:
    """The error for calls that wait for workers which cannot be set up; `reason` is its cause."""
    what = "could not be set up" if initializer is None else f"could not be set up: {name_of(initializer)} failed"
    error = WorkerDied(
        f"worker process {pid} of {executor_name!r} {what}: {_reason(reason)}. No call can be made with it, and trying "
        f"again would end the same way. Its own traceback is that of the cause.",
        function=None if initializer is None else name_of(initializer),
        pid=pid,
    )
    error.__cause__ = reason
    return error


def could_not_start(executor_name: str, reason: BaseException, job: Job) -> WorkerDied:
    """The error for a call that waits for a worker which the operating system will not start."""
    fn = name_of(job.named)
    error = WorkerDied(
        f"no worker process of {executor_name!r} could be started, so {fn} did not begin: {_reason(reason)}. Look for "
        f"limits on processes, open files and memory (`ulimit -u -n`, the container's pids and memory limits), "
        f"or ask for fewer max_workers; then call {last_name(job.named)} again.",
        function=fn,
    )
    error.__cause__ = reason
    return error


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
            "the interpreter could not start, or could not import bridge, cloudpickle or loky. It says why on stderr; "
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

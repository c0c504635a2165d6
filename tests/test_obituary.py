"""What is said of a dead worker, and that ending one ends all that it has started, and nothing else."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

import bridge
from bridge.executors.process import obituary, tree
from bridge.executors.process.child import adopt
from bridge.executors.process.obituary import OutOfMemory
from bridge.threads.job import Job
from tests.conftest import PATIENCE

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX")
linux_only = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")


def died(exitcode: int | None, phase: str = "running", ran_for: float = 0.25) -> bridge.WorkerDied:
    return obituary.worker_died("work.crunch", 4711, exitcode, "crew", phase=phase, ran_for=ran_for)


@pytest.fixture(autouse=True)
def nobody_out_of_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> OutOfMemory:
    """A machine of the test's own, with a counter that the test can raise."""
    (tmp_path / "proc").mkdir()
    vmstat(tmp_path, 3)
    watch = OutOfMemory(tmp_path)
    monkeypatch.setattr(obituary, "out_of_memory", watch)
    return watch


# -- who, what, how ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("exitcode", [-signal.SIGSEGV, -signal.SIGKILL, -40, 7, 0, None])
@pytest.mark.parametrize("phase", ["running", "starting", "initializer", "unpickling", "pickling", "something new"])
def test_every_message_names_function_process_and_executor(exitcode: int | None, phase: str) -> None:
    error = died(exitcode, phase)
    for part in ("work.crunch", "4711", "'crew'", "Probable cause: "):
        assert part in str(error)
    assert (error.function, error.pid, error.exitcode) == ("work.crunch", 4711, exitcode)
    assert "{" not in str(error)
    assert ".." not in str(error).replace("(...)", "").replace("=...", "").replace(", ...", "")


@pytest.mark.parametrize(
    ("number", "advice"),
    [
        (signal.SIGSEGV, "faulthandler"),
        (signal.SIGBUS, "/dev/shm"),
        (signal.SIGABRT, "stderr"),
        (signal.SIGILL, "processor"),
        (signal.SIGTERM, "service manager"),
        (signal.SIGXCPU, "ulimit -t"),
        (signal.SIGUSR1, "somebody sent that signal"),
    ],
)
def test_a_signal_is_named_with_its_probable_cause(number: signal.Signals, advice: str) -> None:
    error = died(-number)
    assert f"killed by {number.name}" in str(error)
    assert advice in str(error)
    assert error.signal == number
    assert error.exitcode == -number


@pytest.mark.skipif(not hasattr(signal, "SIGRTMIN"), reason="needs real-time signals")
def test_a_signal_without_a_name_is_numbered() -> None:
    number = signal.SIGRTMIN + 3
    assert f"killed by signal {int(number)}" in str(died(-number))
    assert died(-number).signal == number


def test_an_exit_code_is_the_functions_own_doing() -> None:
    assert "exit code 7" in str(died(7))
    assert "os._exit()" in str(died(7))
    assert died(7).signal is None


def test_an_exit_code_at_the_start_is_the_interpreters() -> None:
    assert "PYTHONPATH" in str(died(1, "starting"))


def test_an_exit_status_that_somebody_else_took_is_said_to_be_unknown() -> None:
    assert "SIGCHLD" in str(died(None))


def test_it_says_how_long_the_function_ran() -> None:
    assert "for 250 ms" in str(died(1))
    assert "for 90.5 s" in str(died(1, ran_for=90.5))


def test_it_says_that_the_call_is_not_repeated_or_that_it_never_began() -> None:
    assert "not run it again" in str(died(1))
    assert "did not begin" in str(died(1, "initializer"))
    assert "not run it again" not in str(died(1, "initializer"))


def test_memory_exceeded_tells_both_figures() -> None:
    error = obituary.memory_exceeded(4711, "work.crunch", 413 << 20, 200 << 20, "crew")
    assert isinstance(error, bridge.WorkerMemoryExceeded)
    for part in ("work.crunch", "4711", "'crew'", "413 MiB", "200 MiB", f"memory_limit={200 << 20}"):
        assert part in str(error)
    assert error.function == "work.crunch"


def test_an_initializer_that_raised_is_named_and_its_error_is_the_cause() -> None:
    reason = ValueError("no database")
    error = obituary.initializer_failed("crew", 4711, os.getcwd, reason)
    assert error.__cause__ is reason
    for part in ("getcwd", "ValueError: no database", "'crew'", "4711"):
        assert part in str(error)
    assert "could not be set up: TypeError" in str(obituary.initializer_failed("crew", 4711, None, TypeError()))


def test_a_process_that_the_system_refuses_says_what_to_look_at() -> None:
    reason = BlockingIOError(11, "Resource temporarily unavailable")
    error = obituary.could_not_start("crew", reason, Job(os.getcwd, (), {}, None))
    assert error.__cause__ is reason
    for part in ("getcwd", "'crew'", "Resource temporarily unavailable", "ulimit"):
        assert part in str(error)


# -- the out-of-memory killer --------------------------------------------------------------------------------------------


def vmstat(root: Path, count: int) -> None:
    (root / "proc/vmstat").write_text(f"nr_free_pages 17\noom_kill {count}\n")


def memory_events(root: Path, count: int, group: str = "sys/fs/cgroup/ours") -> None:
    (root / group).mkdir(parents=True, exist_ok=True)
    (root / group / "memory.events").write_text(f"low 0\nhigh 0\nmax 9\noom 5\noom_kill {count}\noom_group_kill 0\n")


def test_sigkill_without_a_rise_of_the_counter_was_somebody(tmp_path: Path) -> None:
    assert "somebody sent SIGKILL" in str(died(-signal.SIGKILL))
    assert "out-of-memory killer did not do it" in str(died(-signal.SIGKILL))


def test_sigkill_with_a_rise_of_the_counter_was_the_kernel(tmp_path: Path) -> None:
    vmstat(tmp_path, 4)
    message = str(died(-signal.SIGKILL))
    assert "Probable cause: the kernel's out-of-memory killer" in message
    assert "on this machine" in message
    assert "memory_limit" in message


def test_workers_killed_together_have_the_same_cause_and_later_ones_have_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr(obituary, "monotonic", lambda: now[0])
    vmstat(tmp_path, 5)
    assert "the kernel's out-of-memory killer: " in str(died(-signal.SIGKILL))
    now[0] += 0.5
    assert "the kernel's out-of-memory killer: " in str(died(-signal.SIGKILL))
    now[0] += OutOfMemory.together
    assert "somebody sent SIGKILL" in str(died(-signal.SIGKILL))


def test_the_counter_of_the_control_group_comes_before_the_machines(tmp_path: Path) -> None:
    (tmp_path / "proc/self").mkdir()
    (tmp_path / "proc/self/cgroup").write_text("0::/ours\n")
    memory_events(tmp_path, 7)
    watch = OutOfMemory(tmp_path)
    vmstat(tmp_path, 99)
    assert watch.strikes() is None  # somewhere else on this machine
    memory_events(tmp_path, 8)
    assert watch.strikes() == "in this program's control group"


def test_version_one_control_groups_are_understood(tmp_path: Path) -> None:
    (tmp_path / "proc/self").mkdir()
    (tmp_path / "proc/self/cgroup").write_text("9:cpu,cpuacct:/\n4:memory:/ours\n0::/\n")
    group = tmp_path / "sys/fs/cgroup/memory/ours"
    group.mkdir(parents=True)
    control = group / "memory.oom_control"
    control.write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 0\n")
    watch = OutOfMemory(tmp_path)
    assert watch.strikes() is None
    control.write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 1\n")
    assert watch.strikes() == "in this program's control group"


def test_where_nothing_counts_nothing_is_claimed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(obituary, "out_of_memory", OutOfMemory(tmp_path / "no such machine"))
    assert "cannot be told here" in str(died(-signal.SIGKILL))


def test_counters_that_disappear_are_survived(tmp_path: Path, nobody_out_of_memory: OutOfMemory) -> None:
    (tmp_path / "proc/vmstat").unlink()
    assert nobody_out_of_memory.strikes() is None


# -- real processes ------------------------------------------------------------------------------------------------------

PRELUDE = """
import os, signal, sys, time

def say(*words):
    os.write(1, (" ".join(map(str, words)) + chr(10)).encode())

def stay():
    while True:
        signal.pause()

def session():
    '''A child with a session of its own, in the child: 0.'''
    child = os.fork()
    if not child:
        os.setsid()
    return child
"""


class Worker:
    """A process as a worker is one: leader of its group, child of this process. All that it starts holds its stdout."""

    def __init__(self, program: str):
        self.process = subprocess.Popen(
            [sys.executable, "-c", PRELUDE + program],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            process_group=0,
        )
        self.pid = self.process.pid
        self.child = adopt(self.process, -1)
        assert self.process.stdout is not None
        self.said = self.process.stdout.fileno()

    def line(self) -> list[str]:
        """The next line that any of them says."""
        text = b""
        while not text.endswith(b"\n"):
            assert select.select([self.said], [], [], PATIENCE)[0], "silence"
            text += os.read(self.said, 1) or b"(end)\n"
        return text.decode().split()

    def all_ended(self) -> bool:
        """True as soon as the last process has ended; false if one still lives after PATIENCE."""
        while select.select([self.said], [], [], PATIENCE)[0]:
            if not os.read(self.said, 4096):
                return True
        return False

    def close(self) -> None:
        for stream in (self.process.stdin, self.process.stdout):
            assert stream is not None
            stream.close()
        tree.end(self.child, signal.SIGKILL)
        assert self.child.wait(PATIENCE)


@pytest.fixture
def new_worker() -> Iterator[Callable[..., Worker]]:
    made: list[Worker] = []

    def new(program: str) -> Worker:
        made.append(Worker(program))
        return made[-1]

    yield new
    for worker in made:
        worker.close()


@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGKILL])
def test_all_descendants_end_also_those_with_sessions_of_their_own(new_worker: Callable[..., Worker], sig: int) -> None:
    worker = new_worker(
        "for _ in range(2):\n"
        "    if not session():\n"
        "        if not session() or not os.fork():\n"
        "            say('begun'); stay()\n"
        "        say('begun'); stay()\n"
        "if not os.fork():\n"
        "    say('begun'); stay()\n"
        "say('begun'); stay()\n"
    )
    for _ in range(8):
        assert worker.line() == ["begun"]
    tree.end(worker.child, sig)
    assert worker.all_ended()
    assert worker.process.wait(PATIENCE) == -sig


def test_orphans_in_the_group_end_too(new_worker: Callable[..., Worker]) -> None:
    """Nobody can tell any more whose descendants they are, but for the group."""
    worker = new_worker(
        "if not os.fork():\n"
        "    if not os.fork():\n"
        "        say('begun'); stay()\n"
        "    os._exit(0)\n"
        "os.wait(); say('begun'); stay()\n"
    )
    assert [worker.line(), worker.line()] == [["begun"]] * 2
    tree.end(worker.child, signal.SIGKILL)
    assert worker.all_ended()


def test_a_worker_that_has_died_but_was_not_reaped_leaves_no_group(new_worker: Callable[..., Worker]) -> None:
    worker = new_worker("if not os.fork():\n    say('begun'); stay()\nsys.stdin.readline(); os._exit(3)\n")
    assert worker.line() == ["begun"]
    assert worker.process.stdin is not None
    worker.process.stdin.write(b"\n")
    worker.process.stdin.flush()
    os.waitid(os.P_PID, worker.pid, os.WEXITED | os.WNOWAIT)  # dead, and its exit status not taken
    tree.end(worker.child, signal.SIGKILL)
    assert worker.all_ended()
    assert worker.process.wait(PATIENCE) == 3


def test_nothing_that_is_being_started_escapes(new_worker: Callable[..., Worker]) -> None:
    worker = new_worker(
        "for number in range(60):\n"
        "    if not session():\n"
        "        if number == 5:\n"
        "            say('begun')\n"
        "        stay()\n"
        "stay()\n"
    )
    assert worker.line() == ["begun"]
    tree.end(worker.child, signal.SIGKILL)
    assert worker.all_ended()


def test_processes_that_ignore_the_polite_signal_are_ended_by_the_other(new_worker: Callable[..., Worker]) -> None:
    worker = new_worker(
        "signal.signal(signal.SIGTERM, lambda *_: say('asked', os.getpid()))\n"
        "child = session()\n"
        "say('begun', os.getpid()); stay()\n"
    )
    both = {worker.line()[1], worker.line()[1]}
    tree.end(worker.child, signal.SIGTERM)
    assert {worker.line()[1], worker.line()[1]} == both
    tree.end(worker.child, signal.SIGKILL)
    assert worker.all_ended()


@pytest.mark.skipif(not hasattr(signal, "SIGRTMIN"), reason="needs signals that queue")
def test_each_gets_the_signal_once(new_worker: Callable[..., Worker]) -> None:
    worker = new_worker(
        "number = signal.SIGRTMIN\n"
        "signal.pthread_sigmask(signal.SIG_BLOCK, [number, signal.SIGRTMIN + 1])\n"
        "os.fork(); child = session()\n"
        "say('begun')\n"
        "count = 0\n"
        "while signal.sigwait([number, signal.SIGRTMIN + 1]) == number:\n"  # the lower number comes first
        "    count += 1\n"
        "say('count', count)\n"
        "stay()\n"
    )
    for _ in range(4):
        assert worker.line() == ["begun"]
    tree.end(worker.child, signal.SIGRTMIN)
    tree.end(worker.child, signal.SIGRTMIN + 1)
    assert [worker.line() for _ in range(4)] == [["count", "1"]] * 4
    tree.end(worker.child, signal.SIGKILL)
    assert worker.all_ended()


def test_others_are_not_touched(new_worker: Callable[..., Worker]) -> None:
    program = "child = session()\nsay('begun'); stay()\n"
    worker, other = new_worker(program), new_worker(program)
    for each in (worker, worker, other, other):
        assert each.line() == ["begun"]
    tree.end(worker.child, signal.SIGKILL)
    assert worker.all_ended()
    assert psutil.Process(other.pid).status() not in (psutil.STATUS_STOPPED, psutil.STATUS_ZOMBIE)
    assert len(psutil.Process(other.pid).children()) == 1
    tree.end(other.child, signal.SIGKILL)
    assert other.all_ended()


def test_what_is_gone_already_is_no_error(new_worker: Callable[..., Worker]) -> None:
    worker = new_worker("")
    worker.process.wait(PATIENCE)
    for sig in (signal.SIGTERM, signal.SIGKILL):
        tree.end(worker.child, sig)


@pytest.mark.parametrize("hidden", [OSError("no /proc"), psutil.NoSuchProcess(1), RuntimeError("of psutil")])
def test_a_worker_and_its_group_are_ended_where_nothing_can_be_found(
    new_worker: Callable[..., Worker], monkeypatch: pytest.MonkeyPatch, hidden: Exception
) -> None:
    def process(pid: int) -> None:
        raise hidden

    monkeypatch.setattr(psutil, "Process", process)
    worker = new_worker("os.fork(); say('begun'); stay()\n")
    assert [worker.line(), worker.line()] == [["begun"]] * 2
    tree.end(worker.child, signal.SIGKILL)
    assert worker.all_ended()


def test_the_processes_of_another_containers_proc_are_left_alone(
    new_worker: Callable[..., Worker], monkeypatch: pytest.MonkeyPatch
) -> None:
    worker, other = new_worker("say('begun'); stay()\n"), new_worker("session()\nsay('begun'); stay()\n")
    for each in (worker, other, other):
        assert each.line() == ["begun"]
    others = psutil.Process(other.pid)
    monkeypatch.setattr(psutil, "Process", lambda pid: others)
    monkeypatch.setattr(os, "readlink", lambda path: "1")
    tree.end(worker.child, signal.SIGKILL)
    assert worker.process.wait(PATIENCE) == -signal.SIGKILL
    assert others.status() not in (psutil.STATUS_STOPPED, psutil.STATUS_ZOMBIE)
    monkeypatch.undo()
    tree.end(other.child, signal.SIGKILL)
    assert other.all_ended()


def test_how_a_real_process_died_is_told(new_worker: Callable[..., Worker]) -> None:
    worker = new_worker("os.kill(os.getpid(), signal.SIGABRT if len(sys.argv) > 9 else signal.SIGTERM)")
    code = worker.process.wait(PATIENCE)
    assert "killed by SIGTERM" in str(died(code))


# -- memory --------------------------------------------------------------------------------------------------------------


def test_resident_memory_grows_with_what_is_touched(new_worker: Callable[..., Worker]) -> None:
    worker = new_worker("say('small'); sys.stdin.readline(); data = bytearray(b'x') * (64 << 20); say('large'); stay()\n")
    assert worker.line() == ["small"]
    small = tree.rss(worker.pid)
    assert worker.process.stdin is not None
    worker.process.stdin.write(b"\n")
    worker.process.stdin.flush()
    assert worker.line() == ["large"]
    assert small > 1 << 20
    assert 60 << 20 < tree.rss(worker.pid) - small < 80 << 20


def test_a_process_that_is_gone_has_no_memory(new_worker: Callable[..., Worker]) -> None:
    worker = new_worker("")
    os.waitid(os.P_PID, worker.pid, os.WEXITED | os.WNOWAIT)
    assert tree.rss(worker.pid) == 0
    worker.process.wait(PATIENCE)
    assert tree.rss(worker.pid) == 0


@linux_only
def test_both_ways_of_measuring_agree() -> None:
    pid = os.getpid()
    assert tree._rss_elsewhere(pid) == pytest.approx(tree.rss(pid), rel=0.2)
    assert tree._rss_elsewhere(2**22 + 1) == 0


# -- what bridge itself has ended ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("exitcode", [-signal.SIGTERM, -signal.SIGKILL])
def test_what_bridge_has_ended_was_not_somebody(exitcode: int) -> None:
    for error in (
        obituary.ended_with_another("work.crunch", 4711, exitcode, "crew"),
        obituary.ended_at_close("work.crunch", 4711, exitcode, "crew", 0.25),
        obituary.memory_exceeded(4711, "work.crunch", 413 << 20, 200 << 20, "crew"),
    ):
        assert "ended" in str(error)
        assert "work.crunch" in str(error)
        assert "somebody" not in str(error)
        assert "kill -9" not in str(error)


@linux_only
def test_a_stopped_process_is_known_by_its_signal_also_when_the_news_was_collected() -> None:
    process = subprocess.Popen(["sleep", "3600"], process_group=0)  # SIGTTIN stops nothing in an orphaned group
    try:
        assert tree.stopping_signal(process.pid) is None
        os.kill(process.pid, signal.SIGTTIN)
        while os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT) is None:
            pass
        assert tree.stopping_signal(process.pid) == "SIGTTIN"
        assert tree.stopping_signal(process.pid) == "SIGTTIN"  # it was only looked at
        os.waitpid(process.pid, os.WUNTRACED)
        assert tree.stopping_signal(process.pid) == "a signal"
        os.kill(process.pid, signal.SIGCONT)
        os.waitid(os.P_PID, process.pid, os.WCONTINUED)
        assert tree.stopping_signal(process.pid) is None
    finally:
        process.kill()
        process.wait()
    assert tree.stopping_signal(process.pid) is None

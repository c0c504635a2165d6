"""Workers where the system gives nothing more, or forbids it; and what a worker process is: an ordinary Python process.

After each of them the next call works, or says why it does not, and leaving ends.
"""

from __future__ import annotations

import asyncio
import errno
import multiprocessing
import os
import resource
import signal
import socket
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from multiprocessing import resource_sharer
from pathlib import Path
from typing import Any

import anyio
import edge_targets as targets
import psutil
import pytest

import bridge
from bridge.executors.process import child, endings, launch, roster, tree
from bridge.executors.process.wire import page
from tests.conftest import PATIENCE
from tests.processes import anyio_backend, descriptors, no_thread_left, until, wait_until  # noqa: F401

pytestmark = [pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX")]
linux = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux")


@pytest.fixture
def executor() -> Iterator[bridge.ProcessExecutor]:
    with bridge.ProcessExecutor(1, grace=0.1) as executor:
        yield executor


def run_program(
    program: str,
    *options: str,
    folder: Path,
    cwd: Path | None = None,
    code: int = 0,
    shell: str = "{}",
    **environment: str,
) -> list[str]:
    """What a program says that ends with this exit code and says nothing on stderr."""
    path = folder / "program.py"
    path.write_text(textwrap.dedent(program))
    command = subprocess.list2cmdline([sys.executable, *options, str(path)])
    targets_folder = str(Path(targets.__file__).parent)
    paths = os.pathsep.join([targets_folder, *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        ["bash", "-c", shell.format(command)],
        capture_output=True,
        text=True,
        timeout=3 * PATIENCE,
        env={**os.environ, "PYTHONPATH": paths, **environment},
        cwd=cwd,
    )
    assert done.returncode == code, done.stderr
    assert done.stderr == ""
    return done.stdout.splitlines()


# -- running out ---------------------------------------------------------------------------------------------------------


@contextmanager
def no_descriptor_left() -> Iterator[None]:
    """As many are open as may be."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with ExitStack() as held:
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, os.listdir("/proc/self/fd"))) + 8, hard))
        held.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        try:
            while True:
                held.callback(os.close, os.dup(0))
        except OSError:
            pass
        yield


@linux
def test_what_cannot_be_received_fails_that_call_alone(executor: bridge.ProcessExecutor) -> None:
    assert len(executor.submit(bytes, 100_000).result(PATIENCE)) == 100_000
    with no_descriptor_left():
        error = executor.submit(bytes, 900_000).exception(PATIENCE)
        assert isinstance(error, Exception)
        assert "as many files and sockets open as it may (`ulimit -n`)" in str(error)
        assert executor.submit(abs, -1).result(PATIENCE) == 1
        assert executor.submit(bytes, 900_000).exception(PATIENCE) is not None
    for _ in range(3):
        assert len(executor.submit(bytes, 900_000).result(PATIENCE)) == 900_000


@linux
def test_nor_what_the_worker_cannot_receive(executor: bridge.ProcessExecutor) -> None:
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    executor.submit(targets.take_descriptors, 5).result(PATIENCE)
    error = executor.submit(targets.length, bytearray(900_000)).exception(PATIENCE)
    assert "as many files and sockets open as it may (`ulimit -n`)" in str(error)
    assert executor.submit(abs, -1).result(PATIENCE) == 1
    executor.submit(targets.free_descriptors, most).result(PATIENCE)
    for _ in range(3):
        assert executor.submit(targets.length, bytearray(900_000)).result(PATIENCE) == 900_000


@linux
@pytest.mark.anyio
async def test_a_call_is_killed_while_no_descriptor_is_free() -> None:
    async with bridge.ProcessExecutor(1, grace=0.05) as executor:
        await executor.prestart()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(executor.run, targets.ignore_terminate)
            await until(lambda: any(each.function for each in executor.statistics().workers))
            with no_descriptor_left():
                tasks.cancel_scope.cancel()
                with anyio.CancelScope(shield=True), anyio.fail_after(PATIENCE):
                    while any(each.function for each in executor.statistics().workers):
                        await anyio.sleep(0.01)
        assert await executor.run(abs, -1) == 1


@linux
@pytest.mark.anyio
async def test_a_call_waits_a_little_for_descriptors_to_be_free(anyio_backend_name: str) -> None:
    if anyio_backend_name == "trio":
        pytest.skip("needs a background loop, which cannot be had then")
    async with bridge.ProcessExecutor(1) as executor:
        with no_descriptor_left():
            task = asyncio.ensure_future(executor.run(abs, -3))
            await anyio.sleep(endings.PAUSE / 2)
            assert not task.done()
        assert await task == 3


@linux
def test_a_call_for_which_no_loop_can_be_had_says_so_and_is_not_made() -> None:
    called: list[int] = []
    with bridge.ProcessExecutor(1) as executor:
        with no_descriptor_left():
            with pytest.raises(OSError, match="Too many open files"):
                executor.submit(called.append, 1)
            assert executor.statistics().queued == 0
        assert executor.submit(abs, -1).result(PATIENCE) == 1
        assert executor.statistics().completed == 1


PLACES: dict[str, tuple[Any, str]] = {
    "socketpair": (socket, "socketpair"),
    "pipe": (os, "pipe"),
    "memory": (page, "anonymous_file"),
    "page": (launch, "SharedPage"),
    "process": (subprocess, "Popen"),
    "pidfd": (os, "pidfd_open"),
}


@linux
@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN])
@pytest.mark.parametrize("place", PLACES)
def test_one_error_while_a_worker_is_started_delays_the_call_and_leaves_nothing(
    place: str, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(endings, "PAUSE", 0.01)
    module, name = PLACES[place]
    before = descriptors()
    with bridge.ProcessExecutor(1) as executor:
        for nth in range(3):
            original = getattr(module, name)
            calls: list[int] = []

            def once(
                *args: Any, original: Any = original, calls: list[int] = calls, nth: int = nth, **options: Any
            ) -> Any:
                calls.append(1)
                if len(calls) == nth + 1 and threading.current_thread().name.startswith(f"{executor.name}-helper"):
                    raise OSError(number, os.strerror(number))
                return original(*args, **options)

            target = launch if place == "memory" else module
            monkeypatch.setattr(target, name, once)
            assert executor.submit(abs, -1).result(PATIENCE) == 1
            monkeypatch.setattr(target, name, original)
            executor.submit(os._exit, 1).exception(PATIENCE)  # so that another one is started
    wait_until(lambda: not descriptors() - before)  # a background loop is about to end
    assert not child.started()


@pytest.mark.anyio
async def test_a_start_that_fails_again_and_again_is_tried_less_and_less_often(monkeypatch: pytest.MonkeyPatch) -> None:
    starts: list[int] = []

    def refuse(*args: object) -> None:
        starts.append(1)
        raise OSError(errno.EAGAIN, "no more")

    async with bridge.ProcessExecutor(2) as executor:
        await executor.prestart(1)
        monkeypatch.setattr(roster, "launch", refuse)
        async with anyio.create_task_group() as tasks:
            for _ in range(2):
                tasks.start_soon(executor.run, targets.never_ends)
            for _ in range(300):
                tasks.start_soon(executor.run, abs, -1)
                await anyio.sleep(0.001)
            assert len(starts) < 6
            monkeypatch.undo()
            tasks.cancel_scope.cancel()


@pytest.mark.anyio
async def test_who_waits_for_workers_is_told_why_there_are_none_though_one_is_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*args: object) -> None:
        raise OSError(errno.EAGAIN, "no more")

    monkeypatch.setattr(endings, "PAUSE", 0.01)
    async with bridge.ProcessExecutor(4) as executor:
        await executor.run(abs, -1)
        monkeypatch.setattr(roster, "launch", refuse)
        with anyio.fail_after(PATIENCE):
            for count in 1, 4:
                with pytest.raises(bridge.WorkerDied, match="limit on processes"):
                    await executor.prestart(count + 1)
        monkeypatch.undo()
        assert await executor.run(abs, -1) == 1


@linux
def test_a_worker_costs_its_parent_five_descriptors() -> None:
    async def main() -> None:
        async with bridge.ProcessExecutor(5) as executor:
            await executor.prestart(1)
            before, workers = len(os.listdir("/proc/self/fd")), len(executor.statistics().workers)
            await executor.prestart(5)
            more = len(os.listdir("/proc/self/fd")) - before
            assert more <= 5 * (len(executor.statistics().workers) - workers)

    bridge.run(main)


# -- forbidden -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EPERM])
@pytest.mark.parametrize("names", [["pidfd_open"], ["memfd_create"], ["pidfd_open", "memfd_create"]], ids=", ".join)
def test_workers_work_and_are_killed_where_calls_are_forbidden(
    names: list[str], number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbidden(*args: object) -> None:
        raise OSError(number, os.strerror(number))

    for name in names:
        if hasattr(os, name):
            monkeypatch.setattr(os, name, forbidden)
    with bridge.ProcessExecutor(1, grace=0.05) as executor:
        assert len(executor.submit(bytes, 1_000_000).result(PATIENCE)) == 1_000_000
        error = executor.submit(os._exit, 3).exception(PATIENCE)
        assert isinstance(error, bridge.WorkerDied)
        assert error.exitcode == 3
        call = bridge.offload(to=executor, timeout=0.2)(targets.ignore_terminate)
        with pytest.raises(bridge.OffloadTimeout):
            bridge.run(call)
        assert executor.submit(abs, -1).result(PATIENCE) == 1
    assert not child.started()


@pytest.mark.anyio
async def test_a_kill_that_did_not_end_a_worker_is_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endings, "AGAIN", 0.02)
    sent: list[int] = []
    original = tree.end

    def end(process: child.Child, number: int) -> None:
        sent.append(number)
        if sent.count(signal.SIGKILL) == 3:
            original(process, number)

    async with bridge.ProcessExecutor(1, grace=0.0) as executor:
        await executor.prestart()
        monkeypatch.setattr(tree, "end", end)
        with anyio.move_on_after(0.1):
            await executor.run(targets.never_ends)
        monkeypatch.undo()
        assert await executor.run(abs, -1) == 1
    assert sent.count(signal.SIGKILL) >= 3


@linux
def test_workers_end_also_where_proc_is_empty(tmp_path: Path) -> None:
    if subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False).returncode:
        pytest.skip("may not mount anything")
    program = """
        import asyncio, bridge, edge_targets as targets

        async def main():
            async with bridge.ProcessExecutor(1, grace=0.1) as executor:
                try:
                    await asyncio.wait_for(executor.run(targets.ignore_terminate), 1)
                except TimeoutError:
                    print("killed")
                print(await executor.run(abs, -3))

        bridge.run(main, diagnostics=False)
    """
    shell = "unshare -m bash -c 'mount -t tmpfs none /proc && exec {}'"
    assert run_program(program, folder=tmp_path, shell=shell) == ["killed", "3"]


# -- forks ---------------------------------------------------------------------------------------------------------------


@linux
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_child_that_is_forked_off_while_a_worker_starts_holds_nothing_of_it() -> None:
    """Else the worker would not notice the end of its parent."""
    seen = 0
    for moment in range(25):
        with bridge.ProcessExecutor(1) as executor:
            before = _open_files()
            future = executor.submit(abs, -1)
            for _ in range(moment * 200):
                pass
            read, write = os.pipe()
            pid = os.fork()
            if not pid:
                try:
                    os.write(write, "\n".join(_open_files() - before).encode())
                finally:
                    os._exit(0)
            ours = os.readlink(f"/proc/self/fd/{write}")
            os.close(write)
            with os.fdopen(read) as file:
                kinds = ("pipe:", "anon_inode:[pidfd", "/memfd:bridge")
                said = {each for each in file.read().splitlines() if each.startswith(kinds)} - {ours}
            os.waitpid(pid, 0)
            assert not said & _open_files()  # libuv makes a pipe in each child
            seen += not future.done()
            assert future.result(PATIENCE) == 1
    assert seen


def _open_files() -> set[str]:
    """What the descriptors of this process lead to."""
    found = set()
    for each in os.listdir("/proc/self/fd"):
        with suppress(OSError):  # closed meanwhile
            found.add(os.readlink(f"/proc/self/fd/{each}"))
    return found


# -- a closed executor ---------------------------------------------------------------------------------------------------

METHODS: dict[str, Callable[[bridge.ProcessExecutor], object]] = {
    "shutdown": lambda executor: executor.shutdown(),
    "shutdown with cancel_futures": lambda executor: executor.shutdown(cancel_futures=True),
    "shutdown without waiting": lambda executor: executor.shutdown(wait=False, cancel_futures=True),
    "cancel_all": lambda executor: executor.cancel_all(),
    "close_within": lambda executor: executor.close_within(0.0),
    "statistics": lambda executor: executor.statistics(),
}


@linux
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("used", [True, False], ids=["used", "unused"])
def test_what_is_called_on_a_closed_executor_leaves_nothing(method: str, used: bool) -> None:
    executor = bridge.ProcessExecutor(1)
    if used:
        executor.submit(abs, -1).result(PATIENCE)
    executor.shutdown()
    before = set(threading.enumerate())
    open_before = descriptors()
    for _ in range(3):
        METHODS[method](executor)
    assert not set(threading.enumerate()) - before
    assert not descriptors() - open_before
    with pytest.raises(bridge.ExecutorClosed):
        executor.submit(abs, -1)


@pytest.mark.anyio
async def test_what_is_awaited_of_a_closed_executor_ends() -> None:
    executor = bridge.ProcessExecutor(1)
    executor.shutdown()
    with anyio.fail_after(PATIENCE):
        with pytest.raises(bridge.ExecutorClosed):
            await executor.prestart()
        with pytest.raises(bridge.ExecutorClosed):
            await executor.run(abs, -1)
        await executor.aclose()


@pytest.mark.anyio
async def test_who_waits_for_workers_when_the_executor_is_closed_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    started, go_on = threading.Event(), threading.Event()
    original = roster.launch

    def slow(*args: Any) -> Any:
        started.set()
        assert go_on.wait(PATIENCE)
        return original(*args)

    monkeypatch.setattr(roster, "launch", slow)
    executor = bridge.ProcessExecutor(1)
    with anyio.fail_after(PATIENCE):
        async with anyio.create_task_group() as tasks:

            async def wait() -> None:
                with pytest.raises(bridge.ExecutorClosed):
                    await executor.prestart()

            tasks.start_soon(wait)
            await until(started.is_set)
            executor.shutdown(wait=False)
            go_on.set()


@pytest.mark.parametrize("how", ["shutdown", "with", "aclose"])
def test_an_executor_whose_loop_stands_still_is_closed(how: str) -> None:
    loop, other = asyncio.new_event_loop(), asyncio.new_event_loop()
    executor = bridge.ProcessExecutor(1)
    assert loop.run_until_complete(executor.run(abs, -1)) == 1
    if how == "shutdown":
        executor.shutdown()
    elif how == "with":
        with executor:
            pass
    else:
        other.run_until_complete(asyncio.wait_for(executor.aclose(), PATIENCE))
    assert not child.started()
    loop.close()
    other.close()


def test_nothing_is_started_in_order_to_cancel_what_was_never_there() -> None:
    executor = bridge.ProcessExecutor(1)
    before = set(threading.enumerate())
    executor.cancel_all()
    assert set(threading.enumerate()) == before


@pytest.mark.anyio
@pytest.mark.parametrize("timeout", [0.0, 0.01])
async def test_workers_that_are_waited_for_do_not_leave(timeout: float) -> None:
    async with bridge.ProcessExecutor(2, idle_timeout=timeout) as executor:
        with anyio.fail_after(PATIENCE):
            await executor.prestart()


# -- what a worker is ----------------------------------------------------------------------------------------------------

OPTIONS = [
    [],
    ["-O"],
    ["-OO", "-B"],
    ["-X", "dev"],
    ["-W", "error::UserWarning"],
    ["-s", "-u"],
    ["-P"],
    ["-bb"],
    ["-X", "faulthandler", "-X", "utf8=1"],
]


@pytest.mark.parametrize("options", OPTIONS, ids=" ".join)
def test_workers_have_the_options_of_the_interpreter(options: list[str], tmp_path: Path) -> None:
    program = """
        import bridge, edge_targets as targets
        with bridge.ProcessExecutor(1) as executor:
            mine, its = targets.flags(), executor.submit(targets.flags).result()
            print(mine == its or (mine, its))
    """
    assert run_program(program, *options, folder=tmp_path) == ["True"]


@pytest.mark.parametrize("options", [["-I"], ["-E"]], ids=" ".join)
def test_and_those_that_leave_the_environment_alone(options: list[str], tmp_path: Path) -> None:
    program = f"""
        import sys
        sys.path[:0] = {[str(Path(targets.__file__).parent), str(Path(bridge.__file__).parent.parent)]}
        import bridge, edge_targets as targets
        with bridge.ProcessExecutor(1) as executor:
            mine, its = targets.flags(), executor.submit(targets.flags).result()
            print(mine == its or (mine, its))
    """
    assert run_program(program, *options, folder=tmp_path) == ["True"]


@pytest.mark.parametrize("name", ["queue", "loky", "socket", "signal", "pickle", "threading", "subprocess", "bridge"])
def test_nothing_of_the_working_folder_is_imported(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    (folder / f"{name}.py").write_text("raise SystemExit('shadowed')")
    program = """
        import bridge
        with bridge.ProcessExecutor(1) as executor:
            print(executor.submit(abs, -1).result(30))
    """
    assert run_program(program, folder=tmp_path, cwd=folder) == ["1"]


def test_a_worker_is_what_multiprocessing_takes_for_its_process(executor: bridge.ProcessExecutor) -> None:
    found = executor.submit(targets.who).result(PATIENCE)
    assert found == {
        "name": f"{executor.name}-1",
        "parent": os.getpid(),
        "parent lives": True,
        "method": multiprocessing.get_start_method(allow_none=True),
        "argv": sys.argv,
        "key": bytes(multiprocessing.current_process().authkey),
        "group": True,
        "stdin": "",
    }
    assert executor.submit(targets.names_of_main).result(PATIENCE) == []


@pytest.mark.parametrize("method", [None, "fork", "spawn", "forkserver"])
def test_multiprocessing_works_inside(method: str | None, tmp_path: Path) -> None:
    program = f"""
        import bridge, edge_targets as targets
        with bridge.ProcessExecutor(1) as executor:
            print(executor.submit(targets.start, {method!r}).result(30))
    """
    options = ["-W", "ignore::DeprecationWarning"]  # of a fork with threads
    assert run_program(program, *options, folder=tmp_path) == ["0"]


def test_a_pool_works_inside(executor: bridge.ProcessExecutor) -> None:
    assert executor.submit(targets.squares).result(PATIENCE) == [1, 4, 9]


def test_an_end_of_a_pipe_arrives_as_that_end(executor: bridge.ProcessExecutor) -> None:
    mine, its = multiprocessing.Pipe()
    with mine, its:
        assert executor.submit(targets.send_through, its, "x").result(PATIENCE) == "sent"
        assert mine.poll(PATIENCE)
        assert mine.recv() == "x"
    resource_sharer.stop()


@pytest.mark.parametrize(
    "make", [multiprocessing.Lock, multiprocessing.Queue, multiprocessing.Event], ids=["lock", "queue", "event"]
)
def test_what_multiprocessing_hands_over_at_a_start_alone_is_refused_by_name(
    make: Callable[[], Any], executor: bridge.ProcessExecutor
) -> None:
    made = make()
    error = executor.submit(repr, made).exception(PATIENCE)
    assert str(error).startswith("cannot pickle args[0]")
    assert "through inheritance" in str(error)
    if hasattr(made, "close"):
        made.close()


def test_no_process_besides_the_workers_is_started(tmp_path: Path) -> None:
    program = """
        import bridge, psutil
        with bridge.ProcessExecutor(1) as executor:
            executor.submit(abs, -1).result()
            print(len(psutil.Process().children()) - len(executor.statistics().workers))
    """
    assert run_program(program, folder=tmp_path) == ["0"]


def test_signals_of_the_terminal_stop_no_worker(executor: bridge.ProcessExecutor) -> None:
    assert executor.submit(targets.dispositions).result(PATIENCE) == [signal.SIG_IGN] * 2


@pytest.mark.parametrize(
    "how", ["sys.stdout = sys.stderr = None", "os.close(1); os.close(2)", "os.close(0)", "os.closerange(0, 3)"]
)
def test_a_program_without_standard_streams_has_workers_that_have_them(how: str, tmp_path: Path) -> None:
    program = f"""
        import os, sys, bridge, edge_targets as targets
        {how}
        with bridge.ProcessExecutor(1) as executor:
            executor.submit(targets.print_and_close).result(30)
            streams = executor.submit(targets.standard_streams).result(30)
            data = executor.submit(bytes, 900_000).result(30)
            os._exit(7 if streams == [True] * 3 and len(data) == 900_000 else 1)
    """
    assert run_program(program, folder=tmp_path, code=7) in ([], ["said"])


def test_a_working_folder_that_is_gone_keeps_no_worker_from_starting(tmp_path: Path) -> None:
    program = """
        import os, tempfile, bridge
        with tempfile.TemporaryDirectory() as folder:
            os.chdir(folder)
        with bridge.ProcessExecutor(1) as executor:
            print(executor.submit(abs, -1).result(30))
    """
    assert run_program(program, folder=tmp_path) == ["1"]


def test_workers_of_workers_are_started_by_functions_and_not_without_end(tmp_path: Path) -> None:
    (tmp_path / "nesting.py").write_text(
        textwrap.dedent("""
            import bridge

            def nest(depth):
                with bridge.ProcessExecutor(1) as executor:
                    return executor.submit(nest, depth - 1).result() if depth else "done"
        """)
    )
    program = """
        import bridge, nesting
        print(nesting.nest(2))
        try:
            nesting.nest(100)
        except bridge.WorkerDied as error:
            print(error)
    """
    said = run_program(program, "-W", "ignore", folder=tmp_path, BRIDGE_DIAGNOSTICS="0")
    assert said[0] == "done"
    assert "RuntimeError: this process is a worker of a worker, 8 deep" in said[1]


def test_what_a_function_forks_off_ends_by_sigterm_as_any_process(executor: bridge.ProcessExecutor) -> None:
    assert executor.submit(targets.terminate_forked, 40).result(PATIENCE) == {-signal.SIGTERM: 40}


@pytest.mark.parametrize("end", ["exit", "return"])
def test_what_a_function_forks_off_does_not_answer_for_it(end: str, executor: bridge.ProcessExecutor) -> None:
    for _ in range(3):
        assert executor.submit(targets.fork_and, end).result(PATIENCE) == "the parent"


def test_commands_of_a_worker_end_by_sigint(executor: bridge.ProcessExecutor) -> None:
    assert executor.submit(targets.interrupt_a_command).result(PATIENCE) == -signal.SIGINT


def test_what_is_piped_into_the_program_is_left_to_it(tmp_path: Path) -> None:
    program = """
        import bridge, edge_targets as targets, sys
        with bridge.ProcessExecutor(1) as executor:
            print(executor.submit(targets.read_all).result(30))
        print(sys.stdin.read())
    """
    assert run_program(program, folder=tmp_path, shell="printf line | {}") == ["(b'', '', b'')", "line"]


def test_a_socket_that_a_worker_has_made_comes_home(executor: bridge.ProcessExecutor) -> None:
    with executor.submit(targets.make_socket).result(PATIENCE) as sock:
        assert sock.recv(100) == b"from the worker"


def test_an_initializer_of_a_module_that_starts_the_program_is_refused_too(tmp_path: Path) -> None:
    (tmp_path / "starts.py").write_text(
        textwrap.dedent("""
            import bridge

            def init(): ...

            async def main():
                async with bridge.ProcessExecutor(1, initializer=init) as executor:
                    try:
                        await executor.run(abs, -1)
                    except Exception as error:
                        print(error.__cause__)

            bridge.run(main, diagnostics=False)
        """)
    )
    said = "\n".join(run_program("import starts", folder=tmp_path, BRIDGE_DIAGNOSTICS="0"))
    assert "a worker process imports starts, which a call needs, and that calls bridge.run" in said


def test_a_method_of_an_object_that_travels_may_run_a_loop(executor: bridge.ProcessExecutor) -> None:
    assert executor.submit(targets.make_looping).result(PATIENCE).value == "set on a loop"
    assert executor.submit(targets.value_of, targets.Looping("x")).result(PATIENCE) == "set on a loop"


@pytest.mark.parametrize(
    ("starts", "name"),
    [
        ("bridge.run(main)", "bridge.run"),
        ("with bridge.background_loop() as portal: portal.call(int)", "bridge.background_loop"),
        ("bridge.ProcessExecutor(1).submit(abs, -1).result()", "a function of 'ProcessExecutor-"),
    ],
    ids=["run", "background_loop", "submit"],
)
def test_a_module_that_starts_the_program_is_refused_in_a_worker_by_name(starts: str, name: str, tmp_path: Path) -> None:
    (tmp_path / "starts.py").write_text(
        textwrap.dedent(f"""
            import bridge

            def double(x):
                return 2 * x

            async def main():
                try:
                    print(await bridge.to_process(double, 4))
                except Exception as error:
                    print(error)

            {starts}
        """)
    )
    program = """
        import bridge, sys
        if __name__ == "__main__":
            import starts
            with bridge.ProcessExecutor(1) as executor:
                print(executor.submit(starts.double, 4).exception())
    """
    said = "\n".join(run_program(program, folder=tmp_path))
    assert f"a worker process imports starts, which a call needs, and that calls {name}" in said
    assert "starts.py:" in said
    assert 'if __name__ == "__main__":' in said
    assert not [each for each in psutil.Process().children() if "starts" in " ".join(each.cmdline())]

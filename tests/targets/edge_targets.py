"""Functions for workers at the edges of the system."""

from __future__ import annotations

import fcntl
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time
from multiprocessing.connection import Connection
from typing import Any

import bridge


def flags() -> dict[str, Any]:
    """How this interpreter was started."""
    names = ("optimize", "dev_mode", "bytes_warning", "no_user_site", "isolated", "safe_path", "ignore_environment")
    found: dict[str, Any] = {name: getattr(sys.flags, name) for name in names}
    found["no_bytecode"] = sys.dont_write_bytecode
    found["warnings"] = [each for each in sys.warnoptions if each.startswith("error::UserWarning")]
    found["x"] = sorted(sys._xoptions)
    found["unbuffered"] = getattr(sys.__stdout__, "write_through", None)
    return found


def names_of_main() -> list[str]:
    """What is in `__main__`, but for what each module has."""
    return [each for each in vars(sys.modules["__main__"]) if not each.startswith("__")]


def who() -> dict[str, Any]:
    """What multiprocessing says of this process."""
    parent = multiprocessing.parent_process()
    return {
        "name": multiprocessing.current_process().name,
        "parent": None if parent is None else parent.pid,
        "parent lives": parent is not None and parent.is_alive(),
        "method": multiprocessing.get_start_method(allow_none=True),
        "argv": sys.argv,
        "key": bytes(multiprocessing.current_process().authkey),
        "group": os.getpgid(0) == os.getpid(),
        "stdin": sys.stdin.read(),
    }


def start(method: str | None) -> int | None:
    """Have a process run, and return its exit code."""
    process = multiprocessing.get_context(method).Process(target=int, args=("5",))
    process.start()
    process.join()
    return process.exitcode


def square(x: int) -> int:
    return x * x


def squares() -> list[int]:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.map(square, [1, 2, 3])


def send_through(connection: Connection, what: Any) -> str:
    connection.send(what)
    connection.close()
    return "sent"


def dispositions() -> list[Any]:
    return [signal.getsignal(number) for number in (signal.SIGTTIN, signal.SIGTTOU)]


def terminate_forked(many: int) -> dict[int | None, int]:
    """Fork processes and have them end by SIGTERM; how many ended how."""
    found: dict[int | None, int] = {}
    for number in range(many):
        process = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
        process.start()
        time.sleep(0.0005 * (number % 8))
        process.terminate()
        process.join(5)
        found[process.exitcode] = found.get(process.exitcode, 0) + 1
        process.kill()
        process.join()
    return found


def interrupt_a_command() -> int:
    with subprocess.Popen(["sleep", "60"]) as process:
        time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        try:
            return process.wait(5)
        finally:
            process.kill()


def read_all() -> tuple[bytes, str, bytes]:
    return os.read(0, 100), sys.stdin.read(), subprocess.run(["cat"], stdout=subprocess.PIPE, check=True).stdout


def fork_and(end: str) -> str:
    """Fork; the child ends by itself, and is waited for, or leaves the function as its parent does."""
    pid = os.fork()
    if not pid:
        if end == "exit":
            sys.exit(3)
        return "the child"
    os.waitpid(pid, 0)
    return "the parent"


def make_socket() -> socket.socket:
    one, other = socket.socketpair()
    one.sendall(b"from the worker")
    one.close()
    return other


async def set_on_a_loop() -> str:
    return "set on a loop"


class Looping:
    """Runs a loop to be pickled and to be rebuilt."""

    def __init__(self, value: str):
        self.value = value

    def __getstate__(self) -> str:
        return self.value if _in_the_parent() else bridge.run(set_on_a_loop)

    def __setstate__(self, state: str) -> None:
        self.value = state if _in_the_parent() else bridge.run(set_on_a_loop)


def _in_the_parent() -> bool:
    return multiprocessing.parent_process() is None


def make_looping() -> Looping:
    return Looping("y")


def value_of(looping: Looping) -> str:
    return looping.value


def standard_streams() -> list[bool]:
    """Are they open, and none of them a socket or pipe of bridge's?"""
    return [fcntl.fcntl(number, fcntl.F_GETFL) is not None for number in (0, 1, 2)]


def print_and_close() -> None:
    print("said")
    sys.stdout.close()
    sys.stderr.close()


def never_ends() -> None:
    while True:
        time.sleep(0.01)


def ignore_terminate() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    never_ends()


def take_descriptors(many: int) -> int:
    """Open so many, and as many as may be at once then; the number of those that are open."""
    import resource

    held = [os.dup(0) for _ in range(many)]
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(held) + 1, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    return len(held)


def free_descriptors(most: int) -> None:
    import resource

    resource.setrlimit(resource.RLIMIT_NOFILE, (most, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))


def length(data: bytes) -> int:
    return len(data)

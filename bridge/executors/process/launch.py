"""Starting one worker process, through loky's context. Blocks for some milliseconds, so it is done in a helper thread.

What the two processes share is made here, before the process is: two socket pairs (frames, descriptors), the pipe of
permits, the lifeline, the shared page, all without a name in any file system. If starting fails, all of it is closed.

multiprocessing does not know these processes: at the program's end it waits for its own without a limit. They are known
here, from before they are started until they are reaped.
"""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from multiprocessing.context import assert_spawning, get_spawning_popen
from time import monotonic
from typing import Any

from loky.backend import get_context

from bridge.executors.process import tree
from bridge.executors.process.wire.page import SIZE, SharedPage, anonymous_file
from bridge.executors.process.worker.main import main

#: Seconds for which killed processes are waited for.
AFTER_KILLING = 5.0
#: Bytes that the kernel may hold between the two processes, in each direction, so that neither waits for short frames.
SOCKET_BUFFER = 1 << 18


@dataclass(slots=True)
class Lifelines:
    """The parent's ends of everything that leads to one worker process."""

    process: Any
    sock: socket.socket
    descriptors: socket.socket
    #: Ends of the pipe of permits: to give them, and to take them back.
    give: int
    take: int
    lifeline: int
    page: SharedPage
    #: Readable when the process has ended.
    ended: int
    #: The descriptors among these that are still open.
    numbers: list[int] = field(init=False)

    def __post_init__(self) -> None:
        self.numbers = [self.give, self.take, self.lifeline, self.ended]

    def close(self) -> None:
        """Let go of everything; if the worker still lives, it dies of it. Idempotent."""
        _open.pop(id(self), None)
        self.sock.close()
        self.descriptors.close()
        while self.numbers:
            os.close(self.numbers.pop())
        self.page.close()


#: Those that are not closed. A crew may become garbage together with a loop whose end nobody has told, and be brought
#: back by its executor's finalizer in order to end its workers: the sockets must not have been finalized then.
_open: dict[int, Lifelines] = {}


#: Processes that are being started, or were and have not been reaped.
_started: set[Any] = set()


class _Inherited:
    """A descriptor as an argument of a process: the child has it under the same number."""

    def __init__(self, descriptor: int):
        self.descriptor = descriptor

    def __reduce__(self) -> tuple[Any, ...]:
        assert_spawning(self)
        popen: Any = get_spawning_popen()
        return int, (popen.duplicate_for_child(self.descriptor),)


def launch(name: str, env: Mapping[str, str]) -> Lifelines:
    """Start a worker process. Raises OSError and whatever else keeps a process from being started."""
    import psutil  # noqa: F401 - now, while there is time, and not when a worker has to be ended

    with ExitStack() as undo, ExitStack() as theirs:
        mine, yours = _socket_pair(undo, theirs)
        my_descriptors, your_descriptors = _socket_pair(undo, theirs)
        take, give = _pipe(undo, undo)
        hear, lifeline = _pipe(theirs, undo)
        page = anonymous_file("bridge-page", SIZE)
        theirs.callback(os.close, page)
        inherited = [yours.fileno(), your_descriptors.fileno(), take, hear, page]
        process = get_context("loky").Process(
            target=main, args=tuple(_Inherited(each) for each in inherited), name=name, env=dict(env)
        )
        shared = SharedPage(page)
        _reap_ended()
        _started.add(process)
        undo.callback(_started.discard, process)
        process._popen = process._Popen(process)  # `start` would add it to the children of multiprocessing
        os.set_inheritable(take, False)
        mine.setblocking(False)
        os.set_blocking(give, False)
        ended = os.pidfd_open(process.pid) if hasattr(os, "pidfd_open") else os.dup(process._popen.sentinel)
        undo.pop_all()
        lifelines = Lifelines(process, mine, my_descriptors, give, take, lifeline, shared, ended)
        _open[id(lifelines)] = lifelines
        return lifelines


def reap(process: Any) -> int | None:
    """Return the exit code of a process that has ended, as multiprocessing gives it; None if it was taken elsewhere."""
    code: int | None = process.exitcode
    _started.discard(process)
    return code


def _reap_ended() -> None:
    """Processes whose end was noticed by nobody, because what would have noticed it was interrupted."""
    for process in list(_started):
        if process.exitcode is not None:
            _started.discard(process)


def end_at_once(lifelines: Lifelines) -> None:
    """Kill and reap one process, and let go of everything that leads to it. Idempotent."""
    process = lifelines.process
    if process in _started:
        tree.end(process.pid, signal.SIGKILL)
        process._popen.wait(AFTER_KILLING)
        reap(process)
    lifelines.close()


def end_all(within: float) -> None:
    """Kill and reap every worker process of this program that is left, in at most `within` seconds."""
    processes = [process for process in list(_started) if process.pid and process._parent_pid == os.getpid()]
    for process in processes:
        tree.end(process.pid, signal.SIGKILL)
    deadline = monotonic() + within
    for process in processes:
        process._popen.wait(max(0.0, deadline - monotonic()))
        reap(process)


def _socket_pair(undo: ExitStack, theirs: ExitStack) -> tuple[socket.socket, socket.socket]:
    mine, yours = socket.socketpair()
    undo.callback(mine.close)
    theirs.callback(yours.close)
    for end in (mine, yours):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SOCKET_BUFFER)
    return mine, yours


def _pipe(reader: ExitStack, writer: ExitStack) -> tuple[int, int]:
    read, write = os.pipe()
    reader.callback(os.close, read)
    writer.callback(os.close, write)
    return read, write

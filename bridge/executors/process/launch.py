"""Starting one worker process. Blocks for some milliseconds, so it is done in a helper thread.

What the two processes share is made here, before the process is: two socket pairs (frames, descriptors), the pipe of
permits, the lifeline, the shared page, all without a name in any file system. If starting fails, all of it is closed.

    python [the options of this one] -c "sys.path as here; import the worker's side; main(descriptors)" NAME
        └─ PREPARATION, the first frame: sys.argv, and what multiprocessing would tell it

The worker is to die with this process, so nothing else may hold its lifeline: a process that is forked off closes its
copies, and waits with the fork while a channel is half made.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from multiprocessing import process as this_process
from multiprocessing import resource_tracker, spawn
from threading import RLock
from time import monotonic

from bridge.executors.process import tree
from bridge.executors.process.child import AFTER_KILLING, Child, forget_all, no_stream, start, started
from bridge.executors.process.wire.page import SIZE, SharedPage, anonymous_file
from bridge.threads import importing

#: Where a worker begins.
WORKER = "bridge.executors.process.worker.main"
#: Bytes that the kernel may hold between the two processes, in each direction, so that neither waits for short frames.
SOCKET_BUFFER = 1 << 18
#: Workers of workers, which functions may start, but not without an end.
MOST_NESTED = 8
#: Where multiprocessing makes memory that has a name, by which another process may find it.
_NAMED = "multiprocessing.shared_memory"


class Lifelines:
    """The parent's ends of everything that leads to one worker process, and the process.

    The descriptors that a loop watches, `sock` and `ended`, are closed when the last loop has forgotten them: a number
    that is used again must not be taken for what it was.
    """

    def __init__(self) -> None:
        self.child: Child
        self.sock: socket.socket
        self.descriptors: socket.socket
        #: To give permits, and to take them back.
        self.give: int
        self.take: int
        self.page: SharedPage
        #: The payload of the first frame.
        self.preparation: bytes
        self._closers: dict[int, Callable[[], object]] = {}  # of all that is open, by number
        self._watched: set[tuple[object, int]] = set()
        self._closing = False
        _open.add(self)

    def keep(self, descriptor: int, close: Callable[[], object] | None = None) -> int:
        """Have a descriptor closed with the others."""
        self._closers[descriptor] = close or partial(os.close, descriptor)
        return descriptor

    def drop(self, *descriptors: int) -> None:
        """Close some of them now."""
        for descriptor in descriptors:
            with _closing:
                close = self._closers.pop(descriptor, None)
                if close is not None:
                    close()

    def watch(self, watcher: object, descriptor: int) -> None:
        """From now on `watcher` watches `descriptor`, which stays open until it does no longer."""
        self._watched.add((watcher, descriptor))

    def unwatch(self, watcher: object, descriptor: int) -> None:
        """`watcher` does so no longer. From any thread."""
        self._watched.discard((watcher, descriptor))
        if self._closing:
            self.close()

    def close(self) -> None:
        """Let go of everything; if the worker still lives, it dies of it. From any thread; idempotent."""
        self._closing = True
        watched = {descriptor for _, descriptor in list(self._watched)}
        self.drop(*(each for each in list(self._closers) if each not in watched))
        if "page" in self.__dict__:
            self.page.close()
        if not self._closers:
            _open.discard(self)

    def close_copies(self) -> None:
        """In the child of a fork, where no loop watches anything: what is closed are copies."""
        self._watched.clear()
        self.close()


#: Those that are not closed. A crew may become garbage together with a loop whose end nobody has told, and be brought
#: back by its executor's finalizer in order to end its workers: the sockets must not have been finalized then.
_open: set[Lifelines] = set()

#: Held while this process is forked; the first while a channel and its process are made, the second, which is taken after
#: it, while a descriptor is closed: none is open then of which the child would not know.
_making, _closing = RLock(), RLock()


def launch(name: str, environment: Mapping[str, str]) -> Lifelines:
    """Start a worker process. Raises OSError and whatever else keeps a process from being started."""
    if importing.nested >= MOST_NESTED:
        raise RuntimeError(
            f"this process is a worker of a worker, {importing.nested} deep, and that is as far as it goes: most likely "
            f'each worker starts the program again. Put what starts it under `if __name__ == "__main__":`'
        )
    with suppress(Exception):  # where it finds no /proc
        import psutil  # noqa: F401 - now, while there is time, and not when a worker has to be ended
    with _making:
        lines = Lifelines()
        try:
            _make(lines, name, environment)
        except BaseException:
            lines.close()
            raise
        return lines


def _make(lines: Lifelines, name: str, environment: Mapping[str, str]) -> None:
    lines.sock, its_sock = _socket_pair(lines)
    lines.descriptors, its_descriptors = _socket_pair(lines)
    take, give = _pipe(lines)
    lifeline, _ = _pipe(lines)
    page = lines.keep(no_stream(anonymous_file("bridge-page", SIZE)))
    lines.page = SharedPage(page, spared=True)
    inherited = [its_sock, its_descriptors, take, lifeline, page]
    theirs = [its_sock, its_descriptors, lifeline, page]
    both = _both_ends(lines, take)
    if both is None:
        lines.take, lines.give = take, give
        os.set_blocking(give, False)
    else:
        lines.take = lines.give = both
        theirs += [take, give]
    tracker = _tracker()
    lines.preparation = _preparation(name, tracker)
    lines.child = start(
        _command(name, inherited),
        {**os.environ, **environment},
        inherited if tracker is None else [*inherited, tracker],
    )
    lines.keep(lines.child.ended)
    lines.drop(*theirs)
    lines.sock.setblocking(False)


def end_at_once(lines: Lifelines) -> None:
    """Kill and reap one process, and let go of everything that leads to it. Idempotent."""
    tree.end(lines.child, signal.SIGKILL)
    lines.child.wait(AFTER_KILLING)
    lines.close()


def end_all(within: float) -> None:
    """Kill and reap every worker process of this program that is left, in at most `within` seconds."""
    children = started()
    for child in children:
        tree.end(child, signal.SIGKILL)
    deadline = monotonic() + within
    for child in children:
        child.wait(max(0.0, deadline - monotonic()))


# -- the command ---------------------------------------------------------------------------------------------------------


def _command(name: str, descriptors: Sequence[int]) -> list[str]:
    """`sys.path` is set before anything is imported: -c puts the working folder first. The name is for `ps`."""
    folders = ascii([str.__str__(each) or _original_folder() for each in sys.path if isinstance(each, str)])
    code = f"import sys; sys.path[:] = {folders}; from {WORKER} import main; main{tuple(descriptors)}"
    return [os.fsdecode(spawn.get_executable()), *_options(), "-c", code, name]


def _original_folder() -> str:
    """What multiprocessing takes the empty entry of `sys.path` for."""
    folder: str | None = this_process.ORIGINAL_DIR  # type: ignore[attr-defined]
    return folder or ""


def _options() -> list[str]:
    """The interpreter's own: -O, -W, -X and so on."""
    options: list[str] = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]  # as multiprocessing does
    if getattr(sys.__stdout__, "write_through", False):
        options.append("-u")
    try:
        os.getcwd()
    except OSError:
        if "-P" not in options:
            options.append("-P")  # Python 3.13.0 imports nothing in a folder that is gone
    return options


def _tracker() -> int | None:
    """The descriptor of multiprocessing's resource tracker, which a program and its workers are to share. None as long as
    there is nothing for it to track."""
    running: int | None = resource_tracker._resource_tracker._fd  # type: ignore[attr-defined]
    return running if running is not None or _NAMED not in sys.modules else resource_tracker.getfd()


def _preparation(name: str, tracker: int | None) -> bytes:
    """What the worker is told first; see `worker.preparation`."""
    here = this_process.current_process()
    return pickle.dumps(
        {
            "name": name,
            "argv": [str(each) for each in getattr(sys, "argv", ())],
            "authkey": bytes(here.authkey),
            "folder": _original_folder(),
            "method": multiprocessing.get_start_method(allow_none=True),
            "parent": (here.name, os.getpid()),
            "tracker": tracker,
            "nested": importing.nested + 1,
        }
    )


# -- descriptors ---------------------------------------------------------------------------------------------------------


def _socket_pair(lines: Lifelines) -> tuple[socket.socket, int]:
    mine, its = socket.socketpair()
    for end in (mine, its):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SOCKET_BUFFER)
    lines.keep(mine.fileno(), mine.close)
    return mine, lines.keep(no_stream(its.detach()))


def _pipe(lines: Lifelines) -> tuple[int, int]:
    read, write = os.pipe()
    return lines.keep(no_stream(read)), lines.keep(write)


def _both_ends(lines: Lifelines, pipe: int) -> int | None:
    """One descriptor with which that pipe is read and written; None where there is none to be had."""
    try:
        both = lines.keep(os.open(f"/proc/self/fd/{pipe}", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC))
    except OSError:
        return None
    if os.path.sameopenfile(both, pipe):
        return both
    lines.drop(both)  # that is not this process's /proc
    return None


# -- forks ---------------------------------------------------------------------------------------------------------------


def _before_fork() -> None:
    _making.acquire()
    _closing.acquire()


def _after_fork() -> None:
    _closing.release()
    _making.release()


def _after_fork_in_child() -> None:
    _after_fork()
    forget_all()
    for lines in list(_open):
        lines.close_copies()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork_in_child)

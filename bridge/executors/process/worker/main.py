"""Where a worker process begins and ends.

    launch ──> main: tie to the parent, signals ──> PREPARE, SETUP ──> initializer ──> READY ──> jobs ... QUIT ──> exit 0

A worker leads a process group of its own, so that it can be ended with its descendants. SIGINT does nothing to it: Ctrl-C
is the parent's to decide about. SIGTERM unwinds the running function, then ends the process. SIGTTIN and SIGTTOU are
ignored, by it and by what it starts: its group is never the terminal's foreground, and would stop for good.
"""

from __future__ import annotations

import fcntl
import os
import pickle
import signal
import socket
import sys
import threading
from functools import partial

from bridge.callables import NOT_INITIALIZED, refuse_async
from bridge.executors.process.wire import frames
from bridge.executors.process.wire.blocks import BlockStore, Mappings, receive_from
from bridge.executors.process.wire.context import Declared
from bridge.executors.process.wire.errors import pack_error
from bridge.executors.process.wire.page import INITIALIZING, PHASE, SERVING, SharedPage
from bridge.executors.process.wire.pickling import Packer, Unpacker
from bridge.executors.process.worker.line import Line
from bridge.executors.process.worker.logs import apply_levels, forward_logs
from bridge.executors.process.worker.preparation import prepare
from bridge.executors.process.worker.running import Runner, Terminated, end_by_signal
from bridge.threads.here import here


def main(sock: int, descriptors: int, permits: int, lifeline: int, page: int) -> None:
    """Be a worker. All arguments are descriptors: two sockets, the read ends of two pipes, the shared page."""
    _be_main()
    _tie_to_parent(lifeline)
    running = _take_signals()
    shared = SharedPage(page)
    os.close(page)
    os.set_blocking(permits, False)
    line = Line(socket.socket(fileno=sock), socket.socket(fileno=descriptors), permits, shared)
    for descriptor in (sock, descriptors, permits, lifeline):
        os.set_inheritable(descriptor, False)
    line.listeners[frames.PREPARE] = lambda ident, payload: prepare(payload, lifeline)
    runner = _set_up(line)
    if runner is None:
        return
    running.append(runner)
    shared.words[PHASE] = SERVING
    line.send(frames.READY, os.getpid())
    runner.serve()


def _be_main() -> None:
    """`__main__` is what `python -c` runs; of that nothing is to be found in it."""
    namespace = vars(sys.modules["__main__"])
    for name in [each for each in namespace if not each.startswith("__")]:
        del namespace[name]


def _tie_to_parent(lifeline: int) -> None:
    """End with the parent, however that ends, and whatever this process does then.

    The parent holds the other end of a pipe into which nobody writes. On Linux the kernel itself sends SIGKILL to the
    whole process group when that end is gone, even if the GIL is held; elsewhere a thread waits for it.
    """
    if hasattr(fcntl, "F_SETSIG"):
        fcntl.fcntl(lifeline, fcntl.F_SETOWN, -os.getpid())
        fcntl.fcntl(lifeline, fcntl.F_SETSIG, signal.SIGKILL)
        flags = fcntl.fcntl(lifeline, fcntl.F_GETFL)
        fcntl.fcntl(lifeline, fcntl.F_SETFL, flags | os.O_ASYNC | os.O_NONBLOCK)
        try:
            if os.read(lifeline, 1) == b"":
                os._exit(1)  # gone already
        except BlockingIOError:
            pass
        return

    def wait_for_the_end() -> None:
        os.read(lifeline, 1)
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=wait_for_the_end, name="bridge-lifeline", daemon=True).start()


def _take_signals() -> list[Runner]:
    """Some are ignored; SIGTERM ends the running function, or at once a process that runs none."""
    running: list[Runner] = []

    def terminate(number: int, frame: object) -> None:
        if running and running[0].busy:
            raise Terminated(128 + number)
        end_by_signal(number)

    signal.signal(signal.SIGINT, lambda number, frame: None)  # not SIG_IGN, which commands would inherit
    for ignored in (signal.SIGTTIN, signal.SIGTTOU):
        signal.signal(ignored, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, terminate)
    # What the function forks off ends by signals as any process does. One that came before that is seen to would be lost.
    os.register_at_fork(
        before=lambda: signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM]),
        after_in_parent=lambda: signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM]),
        after_in_child=_as_any_process,
    )
    return running


def _as_any_process() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])


class _TakesIn:
    """What this thread is while it imports what the initializer needs (`bridge.threads.importing`)."""

    takes_in_a_call = True
    job = None


def _set_up(line: Line) -> Runner | None:
    """Do what the first frame says. None if the initializer raised: the parent has been told."""
    store = BlockStore(line.send_descriptor)
    line.packer = Packer(store, direction="home")
    mappings = Mappings(partial(receive_from, line.descriptors), line.released.append, line.lost.append)
    line.unpacker = Unpacker(mappings, direction="out")
    setup: list[memoryview] = []
    line.listeners[frames.SETUP] = lambda ident, payload: setup.append(memoryview(bytes(payload)))
    line.listeners[frames.RELEASE] = lambda ident, payload: _released(line, store, ident)
    line.listeners[frames.LOST] = lambda ident, payload: store.lose(ident)
    line.listeners[frames.FORGET] = lambda ident, payload: line.unpacker.mappings.forget(ident)
    line.listeners[frames.TRIM] = lambda ident, payload: _trim(line, store)
    try:
        line.wait_until(lambda: bool(setup))
        here.worker = _TakesIn  # type: ignore[assignment]
        try:
            initializer, initargs, context, logs = line.unpacker.unpack(setup[0])
        finally:
            here.worker = None
        declared = Declared(context)
        forward_logs(lambda record: line.send(frames.LOG, 0, record), logs)
        line.listeners[frames.LEVELS] = lambda ident, payload: apply_levels(pickle.loads(payload))
        line.page.words[PHASE] = INITIALIZING
        if initializer is not None:
            refuse_async(initializer, initializer(*initargs), NOT_INITIALIZED)
    except BaseException as error:
        line.send(frames.ERROR, 0, frames.TIMES.pack(0.0, 0.0) + pack_error(error, line.packer))
        return None
    return Runner(line, declared)


def _released(line: Line, store: BlockStore, ident: int) -> None:
    """The parent looks at a block no more; if too many lie free now, some are dropped."""
    store.release(ident)
    for forgotten in store.take_forgotten():
        line.keep(frames.frame(frames.FORGET, forgotten))


def _trim(line: Line, store: BlockStore) -> None:
    """Let go of blocks that lie ready, and say which."""
    for ident in store.trim():
        line.send(frames.FORGET, ident)

"""Threads that call code of the program for bridge: its log handlers, and each of its `on_event` callbacks.

    emit, in any thread ── put ──> queue ──> delivery thread ──> handler or callback
            '── wait until it has returned, PATIENCE seconds at most

A handler may block for ever, raise, log, call a portal, or want a lock that the thread which reports is holding; and that
thread may be the watchdog's, which looks after every loop, or one that a finalizer has interrupted anywhere. So none of
them calls it itself. They do wait for it, so that a report is written before the program goes on; if it takes too long,
they go on, and for WINDOW seconds no thread waits for this one again. The watchdog never waits.

Owners: items are put from any thread, finalizers and signal handlers included, by single operations of a deque and of the
gate, a lock that is shut while there is nothing to do; opening it twice is harmless. Only the delivery thread takes them
out. It starts with the first item and stays. `busy` is written by it alone. In a forked child there is neither thread nor
queue of the parent's; what was queued is the parent's to deliver.

At the interpreter's exit what is queued has EXIT_PATIENCE seconds. After that, and where no thread can be started any
more (from Python 3.12 on: as soon as the interpreter exits), an item is delivered in the thread that puts it, unless the
delivery thread is stuck or frozen in the middle of another one: then the handler's lock may be taken for ever, and the
item goes to `undelivered`.
"""

from __future__ import annotations

import atexit
import logging
import os
import sys
import traceback
from _thread import LockType, allocate_lock, get_ident
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from contextvars import Context, copy_context
from threading import RLock, Thread
from time import monotonic
from typing import Any, NamedTuple
from weakref import WeakSet

from bridge.diagnostics.stacks import current_frames

#: Seconds for which a thread that reports something waits for a handler or a callback.
PATIENCE = 0.5
#: Seconds for which it does not, after it was kept waiting for longer.
WINDOW = 60.0
#: Seconds that the interpreter's exit waits for all of them together.
EXIT_PATIENCE = 2.0
#: Items that one thread keeps; what comes on top of that is dropped, and counted.
MOST = 1000
#: How the names of these threads begin.
THREAD_NAME = "bridge-delivery"


class Delivery:
    """One item, on its way. The lock is shut until it has arrived."""

    __slots__ = ("_pending", "context", "item")

    def __init__(self, item: Any):
        self.item: Any = item
        self.context: Context | None = copy_context()  # filters and formatters look for the request, the user, ...
        self._pending: LockType = allocate_lock()
        self._pending.acquire()

    def end(self) -> None:
        """It has arrived, or never will. Harmless to repeat."""
        with suppress(RuntimeError):
            self._pending.release()

    def wait(self, timeout: float) -> bool:
        """Return when it has arrived: True, or False after `timeout` seconds."""
        if not self._pending.acquire(timeout=timeout):
            return False
        self.end()  # for others who wait
        return True


class Busy(NamedTuple):
    """What a delivery thread is at: which one of its calls, with which item, and since when (`time.monotonic`)."""

    number: int
    item: Any
    since: float


class DeliveryThread:
    """Calls `function(item)` for each item that is put, in that order, in a thread of its own.

    What the function raises goes to `failed(error)`, what cannot be delivered at the interpreter's exit to
    `undelivered(item)`.
    """

    def __init__(
        self,
        name: str,
        function: Callable[[Any], object],
        *,
        failed: Callable[[BaseException], object],
        undelivered: Callable[[Any], object] | None = None,
    ):
        self.name: str = f"{THREAD_NAME}-{name}"
        self.lost: int = 0
        self._function = function
        self._failed = failed
        self._undelivered = undelivered
        self._start_afresh()
        _all.add(self)

    def _start_afresh(self) -> None:
        self.busy: Busy | None = None
        self._calls = 0
        self._queue: deque[Delivery | None] = deque()
        self._gate = allocate_lock()
        self._gate.acquire()
        self._lock = RLock()
        self._thread: Thread | None = None
        self._ended = False
        self._given_up = False  # at the interpreter's exit
        self._last: Delivery | None = None
        self._no_wait_until = 0.0

    # -- in any thread -------------------------------------------------------------------------------------------------

    def put(self, item: Any) -> Delivery:
        """Have it delivered. Never waits, but where no thread can be had."""
        delivery = Delivery(item)
        if self._ended or len(self._queue) >= MOST:
            self.lost += not self._ended
            delivery.end()
            return delivery
        self._last = delivery
        self._queue.append(delivery)
        self._open_gate()
        if self._given_up or sys.is_finalizing():
            self._deliver_here(giving_up=True)
        elif self._thread is None:
            self._start()
        return delivery

    def wait(self, delivery: Delivery, patience: float = PATIENCE) -> bool:
        """Return when it was delivered: True, or False after a while: at once where there has been too much waiting."""
        if self.runs_here():
            return True
        if not patience or monotonic() < self._no_wait_until:
            return delivery.wait(0)
        arrived = delivery.wait(patience)
        if not arrived:
            self._no_wait_until = monotonic() + WINDOW
        return arrived

    def runs_here(self) -> bool:
        """Is the calling thread this one?"""
        thread = self._thread
        return thread is not None and thread.ident == get_ident()

    @property
    def ident(self) -> int | None:
        """Its thread's; None before it has started."""
        thread = self._thread
        return None if thread is None else thread.ident

    def undelivered(self) -> list[Any]:
        """The items that it is at, or that wait for it."""
        busy = self.busy
        queued = [delivery.item for delivery in self._queue.copy() if delivery is not None]
        return queued if busy is None else [busy.item, *queued]

    def end(self) -> None:
        """Wait for what was put until now, as `wait` does; deliver nothing after that."""
        self._ended = True
        if self._last is not None:
            self.wait(self._last)
        with suppress(IndexError):
            while True:
                left = self._queue.popleft()
                if left is not None:
                    left.end()
        self._queue.append(None)
        self._open_gate()

    def _open_gate(self) -> None:
        with suppress(RuntimeError):
            self._gate.release()

    def _start(self) -> None:
        thread = Thread(target=self._run, name=self.name, daemon=True)
        try:
            with self._lock:
                if self._thread is not None:
                    return
                self._thread = thread
            thread.start()
        except BaseException as error:
            if self._thread is thread and not thread.is_alive():
                self._thread = None
            if not isinstance(error, RuntimeError):  # Ctrl-C
                raise
            self._deliver_here(giving_up=False)  # "can't start new thread"

    # -- in its thread -------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        queue = self._queue
        while True:
            try:
                delivery = queue.popleft()
            except IndexError:
                self._gate.acquire()
                continue
            if delivery is None:
                return
            self._deliver(delivery)
            del delivery

    def _deliver(self, delivery: Delivery) -> None:
        """Nothing of the item is kept beyond this: it may hold an exception, and so all variables of a program."""
        context = delivery.context or copy_context()
        self._calls += 1
        self.busy = Busy(self._calls, delivery.item, monotonic())
        delivery.item = delivery.context = None
        try:
            context.run(self._function, self.busy.item)
        except BaseException as error:  # SystemExit too: the thread is not the callback's to end
            with suppress(Exception):
                self._failed(error)
        finally:
            self.busy = None
            delivery.end()

    # -- at the end ----------------------------------------------------------------------------------------------------

    def flush(self, timeout: float) -> bool:
        """Return when all is delivered: True, or False after `timeout` seconds."""
        last = self._last
        return last is None or last.wait(timeout)

    def give_up(self) -> None:
        """At the interpreter's exit: what is queued, and what it is stuck at, goes to `undelivered`."""
        self._given_up = True
        busy = self.busy
        if busy is not None:
            self._abandon(busy.item)
        self._deliver_here(giving_up=True)

    def _deliver_here(self, *, giving_up: bool) -> None:
        """Deliver what is queued in the calling thread. While another one delivers, it does this as well, when it gets
        to it; unless that is given up."""
        while self.busy is None or giving_up:
            try:
                delivery = self._queue.popleft()
            except IndexError:
                return
            if delivery is None:
                return
            if self.busy is None:
                self._deliver(delivery)
            else:
                self._abandon(delivery.item)
                delivery.end()

    def _abandon(self, item: Any) -> None:
        if self._undelivered is not None:
            with suppress(Exception):
                self._undelivered(item)

    def after_fork_in_child(self) -> None:
        ended = self._ended
        self._start_afresh()
        self._ended = ended


#: Those of this process.
_all: WeakSet[DeliveryThread] = WeakSet()


# -- log records -------------------------------------------------------------------------------------------------------


class Record(NamedTuple):
    """A log record, for the logger of its name. It is written after these, which tell listeners of the same."""

    record: logging.LogRecord
    after: tuple[tuple[DeliveryThread, Delivery], ...] = ()


def record_of(
    name: str, level: int, message: str, error: BaseException | None = None, after: Any = (), **extra: object
) -> Record:
    """What a logger of this `name` makes of a call in this thread. Its locks, handlers and filters are not touched."""
    exc_info = None if error is None else (type(error), error, error.__traceback__)
    # Formatted already: the text of a message is never a format string.
    record = logging.getLogRecordFactory()(name, level, __file__, 0, "%s", (message,), exc_info, "record_of")
    record.__dict__.update(extra)
    return Record(record, tuple(after))


def write(made: Record) -> None:
    """Give it to its logger. In the logging thread."""
    for thread, delivery in made.after:
        thread.wait(delivery)
    logger = logging.getLogger(made.record.name)
    if logger.isEnabledFor(made.record.levelno):
        logger.handle(made.record)


def log_elsewhere(name: str, level: int, message: str, error: BaseException | None = None) -> None:
    """Log a message in the logging thread, and do not wait for it: where no code of the program may run."""
    logging_thread.put(record_of(name, level, message, error))


def to_stderr(text: str) -> None:
    """Write it where a person sees it, past all logging. Does not wait: it may be a pipe from which nothing is read."""
    stderr_thread.put(text)


def _print(text: str) -> None:
    if sys.stderr is not None:
        print(text, file=sys.stderr, flush=True)


def _print_record(made: Record) -> None:
    to_stderr(logging.Formatter("%(levelname)s %(name)s: %(message)s").format(made.record))


class _Failures:
    """Report once what a log handler raises, as the standard library does with what `Handler.emit` raises."""

    def __init__(self) -> None:
        self._told = False

    def __call__(self, error: BaseException) -> None:
        if not self._told and logging.raiseExceptions:
            self._told = True
            lines = "".join(traceback.format_exception(error)).rstrip()
            to_stderr(f"--- Logging error ---\n{lines}\nA log handler raised this for a message of bridge's.")


#: Standard error, written to without anybody's waiting.
stderr_thread: DeliveryThread = DeliveryThread("stderr", _print, failed=lambda error: None)
#: The loggers and handlers of the program.
logging_thread: DeliveryThread = DeliveryThread("logging", write, failed=_Failures(), undelivered=_print_record)


# -- the end of the program --------------------------------------------------------------------------------------------


def flush(timeout: float = EXIT_PATIENCE) -> None:
    """Wait for what is queued, in all threads together about `timeout` seconds; then give up those that are stuck."""
    deadline = monotonic() + timeout
    # Callbacks may log something, and a log that is stuck is reported on standard error.
    last = (logging_thread, stderr_thread)
    for thread in [*(each for each in list(_all) if each not in last), *last]:
        if not thread.flush(max(PATIENCE if thread in last else 0.0, deadline - monotonic())):
            if thread is logging_thread:
                _let_go_of_handlers(thread.ident)
            thread.give_up()


def _let_go_of_handlers(ident: int | None) -> None:
    """`logging.shutdown` is still to come. It would wait, for ever, for the lock of a handler that is stuck."""
    frame = current_frames().get(ident or 0)
    stuck = []
    while frame is not None:
        own = frame.f_locals.get("self")
        if isinstance(own, logging.Handler):
            stuck.append(own)
        frame = frame.f_back
    references = getattr(logging, "_handlerList", None)
    if isinstance(references, list):
        references[:] = [each for each in references if each() not in stuck]


def _in_child() -> None:
    for thread in list(_all):
        thread.after_fork_in_child()


atexit.register(flush)  # after logging's own, so it is run before that
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)

"""Listeners and log handlers are called in threads of their own: what one of them does stops nobody else."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import logging.handlers
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from time import monotonic
from typing import Any

import anyio
import pytest

import bridge
from bridge.diagnostics import delivery, events
from bridge.diagnostics.delivery import DeliveryThread, logging_thread
from bridge.diagnostics.events import STUCK, Event, emit, stream
from bridge.diagnostics.places import Place
from bridge.diagnostics.punctuality import Tick
from tests import conftest
from tests.conftest import PATIENCE, Gate, within

#: Seconds that are soon over, and longer than anything here takes that is not held.
SOON = 0.02


def event(code: str = "BRG201", line: int = 1) -> Event:
    return Event(code=code, headline=f"line {line}", place=Place("/srv/app.py", line, "fetch"))


def until(condition: Callable[[], object], what: str = "it did not come") -> None:
    """Wait for what another thread does."""
    deadline = monotonic() + PATIENCE
    while not condition():
        assert monotonic() < deadline, what
        threading.Event().wait(0.002)


class Heard:
    """A listener. A loop can be held until it is reported itself."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def __call__(self, event: Event) -> None:
        self.events.append(event)

    @property
    def codes(self) -> list[str]:
        return [event.code for event in self.events]

    def hold(self) -> None:
        """On a loop: block it until that is reported."""
        seen = len(self.events)
        until(lambda: "BRG101" in self.codes[seen:], "the blocked loop was not reported")


class Handler(logging.Handler):
    """Does what a test wants for each record of bridge's, and keeps it."""

    def __init__(self, does: Callable[[str], object] = str):
        super().__init__()
        self.lines: list[str] = []
        self.records: list[logging.LogRecord] = []
        self.does = does

    def emit(self, record: logging.LogRecord) -> None:
        line = record.getMessage().partition("\n")[0]
        self.does(line)
        self.lines.append(line)
        self.records.append(record)


@pytest.fixture(autouse=True)
def as_ever() -> Iterator[None]:
    """Before and after each test everything is delivered, and waited for."""
    stream.forget()
    yield
    assert logging_thread.flush(PATIENCE)
    assert delivery.stderr_thread.flush(PATIENCE)
    logging_thread._no_wait_until = 0.0
    stream.forget()


@pytest.fixture
def heard() -> Iterator[Heard]:
    heard = Heard()
    with bridge.on_event(heard):
        yield heard


@pytest.fixture
def handler() -> Iterator[Handler]:
    handler = Handler()
    logging.getLogger("bridge").addHandler(handler)
    yield handler
    logging.getLogger("bridge").removeHandler(handler)


@pytest.fixture
def stuck(handler: Handler, gate: Gate) -> Iterator[Gate]:
    """The handler does not return from its first record before this opens."""
    handler.does = lambda line: gate.wait()
    yield gate
    gate.open()


# -- a log handler that blocks -----------------------------------------------------------------------------------------


@pytest.mark.anyio
async def test_loops_are_watched_while_a_log_handler_is_stuck(
    anyio_backend: Any, stuck: Gate, handler: Handler, heard: Heard
) -> None:
    async with bridge.watch(threshold=SOON):
        for _ in range(2):
            heard.hold()
            await anyio.sleep(0.001)
    assert handler.lines == []
    stuck.open()
    until(lambda: len(handler.lines) >= 2)
    told = [each.title for each in heard.events]
    assert handler.lines == sorted(handler.lines, key=told.index), "in order"


def test_other_loops_are_watched_while_a_handler_waits_for_one(handler: Handler, heard: Heard) -> None:
    asked = threading.Event()

    async def take(line: str) -> None: ...

    async def main() -> None:
        async with bridge.watch(threshold=SOON):
            heard.hold()

    def ship(line: str) -> None:
        asked.set()
        portal.call(take, line)

    with bridge.background_loop() as portal:
        handler.does = ship
        blocking = portal.run_coroutine_threadsafe(blocked_until(asked))
        blocking.result(PATIENCE)
        asyncio.run(main())
        until(lambda: any("BRG101" in line for line in handler.lines))


async def blocked_until(event: threading.Event) -> None:
    """Blocks its loop until the handler of the report of that asks the very same loop for something."""
    asyncio.get_running_loop().slow_callback_duration = SOON
    assert event.wait(PATIENCE)


@pytest.mark.anyio
async def test_a_handler_may_call_into_the_loop_that_reports(anyio_backend: Any, handler: Handler) -> None:
    """The loop waits for the handler, which waits for the loop: not for long, and then both go on."""
    portal = bridge.portal()
    shipped: list[str] = []
    raised: list[BaseException] = []

    async def take(line: str) -> None:
        shipped.append(line)

    def ship(line: str) -> None:
        try:
            portal.call(take, line)
        except BaseException as error:
            raised.append(error)

    handler.does = ship
    emit(event())
    with anyio.fail_after(PATIENCE):
        while not handler.lines:
            await anyio.sleep(0.001)
    assert (shipped, raised) == ([event().title], [])


def test_a_handler_may_want_a_lock_that_the_reporting_thread_holds(handler: Handler) -> None:
    """As `queue.Queue.put` of a QueueHandler, when the collector has interrupted another `put` of the thread."""
    records: queue.Queue[logging.LogRecord] = queue.Queue()
    logger = logging.getLogger("bridge")
    through = logging.handlers.QueueHandler(records)
    logger.addHandler(through)
    try:
        with records.mutex:
            assert emit(event())
        assert records.get(timeout=PATIENCE).getMessage() == event().title
    finally:
        logger.removeHandler(through)


LOCKED_OUT = """\
import logging, os, sys, threading
import bridge
from bridge.diagnostics import events

events.STUCK = 0.1

class Ship(logging.Handler):
    \"\"\"Its own lock is held by a worker, whose record the loop has to send; and the loop logs, too.\"\"\"

    def emit(self, record):
        if record.name != "client":
            portal.call(send, record.getMessage())

async def send(line):
    logging.getLogger("client").warning("sending")

def hear(event):
    print(event.code, flush=True)
    if event.code == "BRG303":
        os._exit(0)

bridge.on_event(hear)
logging.getLogger().addHandler(Ship())
with bridge.background_loop({loop}) as portal:
    logging.warning("from the program")
"""


@pytest.mark.parametrize("loop", ["", "loop_factory=None", "loop_factory=__import__('uvloop').new_event_loop"])
def test_a_deadlock_over_the_lock_of_a_handler_is_reported_all_the_same(loop: str) -> None:
    program = LOCKED_OUT.replace("{loop}", loop)
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 0, ended.stderr
    codes = ended.stdout.split()
    assert (codes[0], codes[-1]) == ("BRG101", "BRG303")


@pytest.mark.anyio
async def test_a_loop_that_waits_for_a_handler_is_not_reported_for_that(
    anyio_backend: Any, stuck: Gate, heard: Heard
) -> None:
    async with bridge.watch(threshold=delivery.PATIENCE / 2):
        began = monotonic()
        emit(event())
        assert monotonic() - began >= delivery.PATIENCE
    assert heard.codes == ["BRG201"]


def test_who_reports_waits_for_a_handler_a_little_and_then_no_more(stuck: Gate, handler: Handler) -> None:
    began = monotonic()
    for line in range(20):
        assert emit(event(line=line))
    assert delivery.PATIENCE <= monotonic() - began < 20 * delivery.PATIENCE
    assert handler.lines == []
    stuck.open()
    until(lambda: len(handler.lines) == 20)
    assert handler.lines == [event(line=line).title for line in range(20)]


def test_what_is_reported_is_logged_when_the_report_returns(handler: Handler) -> None:
    for line in range(100):
        assert emit(event(line=line))
        assert len(handler.lines) == line + 1


def test_a_handler_that_raises_is_told_once_and_the_next_record_comes(
    handler: Handler, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(record: logging.LogRecord) -> bool:
        raise OSError("disk full")

    monkeypatch.setattr(logging_thread, "_failed", delivery._Failures())
    first = Handler()
    monkeypatch.setattr(first, "handle", broken)
    logger = logging.getLogger("bridge.tasks")
    logger.addHandler(first)
    try:
        assert emit(event(line=1))
        assert emit(event(line=2))
    finally:
        logger.removeHandler(first)
    assert emit(event(line=3))
    assert handler.lines == [event(line=3).title]
    assert delivery.stderr_thread.flush(PATIENCE)
    assert capsys.readouterr().err.count("OSError: disk full") == 1


def test_a_handler_may_log_itself(handler: Handler) -> None:
    logger = logging.getLogger("bridge.tasks")
    handler.does = lambda line: "once more" in line or logger.warning("once more: %s", line)
    emit(event())
    assert handler.lines == [f"once more: {event().title}", event().title]


def test_a_handler_may_report_itself(handler: Handler, heard: Heard) -> None:
    handler.does = lambda line: emit(event(line=2))
    emit(event(line=1))
    until(lambda: len(handler.lines) == 2)
    assert [each.headline for each in heard.events][:2] == ["line 1", "line 2"]
    assert handler.lines == [event(line=1).title, event(line=2).title]


def test_a_record_says_which_thread_has_reported_and_has_its_context(handler: Handler) -> None:
    request = contextvars.ContextVar("request", default="none")
    requests: list[str] = []
    handler.does = lambda line: requests.append(request.get())

    def report() -> None:
        request.set("GET /")
        emit(event())

    thread = threading.Thread(target=report, name="reporting")
    thread.start()
    within(thread)
    (record,) = handler.records
    assert (record.threadName, record.thread) == ("reporting", thread.ident)
    assert (record.name, record.levelno) == ("bridge.tasks.BRG201", logging.WARNING)
    assert requests == ["GET /"]


# -- listeners ---------------------------------------------------------------------------------------------------------


def test_listeners_hear_of_it_before_it_is_logged(handler: Handler, heard: Heard) -> None:
    codes: list[list[str]] = []
    handler.does = lambda line: codes.append(heard.codes)
    reporting = threading.Thread(target=emit, args=(event(),))
    reporting.start()
    within(reporting)
    emit(event("BRG202"))
    assert codes == [["BRG201"], ["BRG201", "BRG202"]]


@pytest.mark.anyio
async def test_a_listener_that_blocks_stops_neither_others_nor_the_log_nor_the_loop(
    anyio_backend: Any, gate: Gate, handler: Handler, heard: Heard
) -> None:
    late: list[str] = []

    def block(event: Event) -> None:
        gate.wait()
        late.append(event.title)

    try:
        with bridge.on_event(block):
            async with bridge.watch(threshold=SOON):
                heard.hold()
                await anyio.sleep(0.001)
            emit(event())
            until(lambda: event().title in handler.lines)
            assert "BRG201" in heard.codes
            assert late == []
    finally:
        gate.open()
    until(lambda: late)
    assert late == [heard.events[0].title], "it has been closed since"


def test_a_listener_that_raises_is_logged_once_and_called_again(heard: Heard, handler: Handler) -> None:
    def broken(event: Event) -> None:
        calls.append(event.code)
        raise SystemExit(event.code)

    calls: list[str] = []
    with bridge.on_event(broken):
        for line in range(3):
            emit(event(line=line))
    assert len(calls) == len(heard.events) == 3
    until(lambda: len(handler.lines) == 4)
    (said,) = [line for line in handler.lines if "on_event" in line]
    assert "callback broken raised" in said


def test_a_listener_may_want_a_lock_that_the_reporting_thread_holds(handler: Handler) -> None:
    """As a counter of events, when the collector has interrupted it counting something else."""
    lock = threading.Lock()
    counted: list[str] = []

    def count(event: Event) -> None:
        with lock:
            counted.append(event.code)

    with bridge.on_event(count):
        with lock:
            assert emit(event())
        until(lambda: counted == ["BRG201"])


def test_what_was_emitted_before_a_listener_is_closed_is_heard_and_nothing_after_it() -> None:
    got: list[str] = []
    slow = Gate()

    def listen(event: Event) -> None:
        slow.wait()
        got.append(event.headline)

    with bridge.on_event(listen):
        for line in range(3):
            threading.Thread(target=emit, args=(event(line=line),)).start()
            until(lambda line=line: len(stream._listeners[-1].thread.undelivered()) > line)
        threading.Timer(SOON, slow.open).start()
    assert sorted(got) == ["line 0", "line 1", "line 2"]
    emit(event(line=4))
    assert len(got) == 3


def test_a_listener_that_closes_itself_is_not_called_again() -> None:
    got: list[str] = []

    def once(event: Event) -> None:
        subscription.close()
        got.append(event.headline)

    subscription = bridge.on_event(once)
    for line in range(3):
        emit(event(line=line))
    assert got == ["line 0"]


def test_one_event_at_a_time(heard: Heard) -> None:
    at_once: list[int] = []
    inside = 0

    def count(event: Event) -> None:
        nonlocal inside
        inside += 1
        at_once.append(inside)
        inside -= 1

    with bridge.on_event(count):
        threads = [threading.Thread(target=emit, args=(event(line=line),)) for line in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            within(thread)
    assert at_once == [1] * 20


# -- one that does not return ------------------------------------------------------------------------------------------


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


class NoWatchdog:
    """Looks at nobody."""

    def watch(self, watcher: object) -> None: ...

    def unwatch(self, watcher: object) -> None: ...

    def runs_here(self) -> bool:
        return False


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The test says when a delivery thread is looked at."""
    clock = Clock()
    monkeypatch.setattr(events, "watchdog", NoWatchdog())
    monkeypatch.setattr(delivery, "monotonic", clock)
    monkeypatch.setattr(delivery, "PATIENCE", SOON)
    monkeypatch.setattr(events, "PATIENCE", SOON)
    return clock


def test_a_handler_that_does_not_return_is_reported_to_listeners_and_on_standard_error(
    clock: Clock, stuck: Gate, heard: Heard, capsys: pytest.CaptureFixture[str]
) -> None:
    emit(event(line=1))
    emit(event(line=2))
    watch = events._logging
    told = []
    for seconds in range(20):
        watch.look(Tick(clock.now + seconds))
        told.append(heard.codes.count("BRG303"))
    assert [at for at in range(1, 20) if told[at] > told[at - 1]] == [STUCK, 2 * STUCK]
    stuck.open()
    assert logging_thread.flush(PATIENCE)
    first = next(each for each in heard.events if each.code == "BRG303")
    assert first.headline.startswith(f"a log handler has not returned for {STUCK:.1f} s, at {conftest.__file__}:")
    assert __file__ in first.message
    assert first.details[:3] == ("what cannot be logged:", "  BRG201 line 1", "  BRG201 line 2")
    assert first.attributes["bridge.duration"] == STUCK
    assert "gate.wait()" in first.message
    assert delivery.stderr_thread.flush(PATIENCE)
    assert first.message in capsys.readouterr().err


def test_a_listener_that_does_not_return_is_reported_to_others_and_logged(
    clock: Clock, gate: Gate, heard: Heard, handler: Handler
) -> None:
    def block(event: Event) -> None:
        gate.wait()

    with bridge.on_event(block):
        emit(event())
        watch = stream._listeners[-1]
        watch.look(Tick(clock.now))
        watch.look(Tick(clock.now + STUCK))
        gate.open()
    (told,) = [each for each in heard.events if each.code == "BRG303"]
    said = f"the on_event callback block has not returned for {STUCK:.1f} s, at {conftest.__file__}:"
    assert told.headline.startswith(said)
    until(lambda: told.title in handler.lines)


def test_time_for_which_the_process_was_stopped_is_not_counted(clock: Clock, stuck: Gate, heard: Heard) -> None:
    emit(event())
    watch = events._logging
    watch.look(Tick(clock.now))
    watch.look(Tick(clock.now + 100.0, late=99.0, kept_out=0.0))
    assert "BRG303" not in heard.codes
    watch.look(Tick(clock.now + 99.0 + STUCK))
    assert "BRG303" in heard.codes


def test_each_call_counts_for_itself(clock: Clock, handler: Handler, heard: Heard) -> None:
    began, go_on = threading.Semaphore(0), threading.Semaphore(0)

    def wait(line: str) -> None:
        began.release()
        assert go_on.acquire(timeout=PATIENCE)

    handler.does = wait
    emit(event(line=1))
    emit(event(line=2))
    assert began.acquire(timeout=PATIENCE)
    watch = events._logging
    watch.look(Tick(clock.now))
    clock.now += STUCK - 1
    watch.look(Tick(clock.now))
    go_on.release()
    assert began.acquire(timeout=PATIENCE)
    watch.look(Tick(clock.now))
    clock.now += STUCK - 1
    watch.look(Tick(clock.now))
    go_on.release()
    assert "BRG303" not in heard.codes


def test_the_watchdog_looks_for_as_long_as_one_is_stuck(
    stuck: Gate, heard: Heard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "STUCK", SOON)
    emit(event())
    until(lambda: "BRG303" in heard.codes)
    stuck.open()
    until(lambda: events._logging not in events.watchdog._watchers)


# -- the thread itself -------------------------------------------------------------------------------------------------


def test_it_keeps_so_many_items_and_counts_the_others(gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery, "MOST", 3)
    got: list[int] = []
    begun = threading.Event()

    def take(item: int) -> None:
        begun.set()
        gate.wait()
        got.append(item)

    thread = DeliveryThread("test", take, failed=print)
    thread.put(0)
    assert begun.wait(PATIENCE)
    lost = [thread.put(item) for item in range(1, 6)]
    assert all(each.wait(0) for each in lost[3:]), "nobody waits for what was dropped"
    gate.open()
    assert thread.flush(PATIENCE)
    assert (got, thread.lost) == ([0, 1, 2, 3], 2)
    thread.end()


def test_where_no_thread_can_be_had_the_item_is_delivered_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)
    got: list[object] = []

    def take(item: object) -> None:
        if item == 1:
            thread.put(2)
        got.append(item)

    thread = DeliveryThread("test", take, failed=print)
    assert thread.put(1).wait(0)
    assert got == [1, 2]


def test_nothing_of_an_item_is_kept() -> None:
    import weakref

    class Item:
        pass

    thread = DeliveryThread("test", lambda item: None, failed=print)
    item = Item()
    gone = weakref.ref(item)
    delivered = thread.put(item)
    del item
    assert delivered.wait(PATIENCE)
    until(lambda: gone() is None)
    thread.end()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_a_forked_child_delivers_what_is_its_own(stuck: Gate, heard: Heard, handler: Handler) -> None:
    """The handler's own lock is the standard library's to set free in the child."""
    emit(event(line=1))
    child = os.fork()
    if child == 0:
        handler.does = str
        try:
            emit(event(line=2))
            until(lambda: handler.lines == [event(line=2).title] and len(heard.events) == 2)
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


# -- the end of the program --------------------------------------------------------------------------------------------

PROGRAM = """\
import logging, sys, threading, time
import bridge
from bridge.diagnostics.events import Event, emit

class Slow(logging.Handler):
    def emit(self, record):
        {does}
        print(record.getMessage(), flush=True)

logging.getLogger().addHandler(Slow())

def report():
    for line in range(5):
        emit(Event(code="BRG201", headline=f"line {{line}}"))

{reports}
print("end of program", flush=True)
"""


def run(does: str, reports: str) -> tuple[subprocess.CompletedProcess[str], float]:
    began = monotonic()
    ended = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(does=does, reports=reports)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return ended, monotonic() - began


LINES = [f"BRG201 line {line}" for line in range(5)]
IN_TIME = "report()"
#: Nobody has waited for these lines when the program ends.
LATE = "from bridge.diagnostics import events; events.PATIENCE = 0.0; report()"
AT_EXIT = "import atexit; atexit.register(report)"
AFTER_ALL = "class Last:\n    def __del__(self, report=report):\n        report()\nsys.modules['last'] = Last()"


@pytest.mark.parametrize("reports", [IN_TIME, LATE, AT_EXIT], ids=["in time", "late", "at exit"])
def test_no_line_is_lost_when_the_program_ends(reports: str) -> None:
    ended, _ = run("time.sleep(0.02)", reports)
    assert ended.returncode == 0, ended.stderr
    assert [line for line in ended.stdout.splitlines() if line != "end of program"] == LINES


def test_what_is_reported_last_of_all_goes_out_or_nowhere_and_hangs_nobody() -> None:
    ended, _ = run("pass", AFTER_ALL)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.splitlines()[0] == "end of program"


@pytest.mark.parametrize("reports", [IN_TIME, LATE], ids=["in time", "late"])
def test_a_handler_that_never_returns_holds_up_no_exit_and_the_lines_are_on_standard_error(reports: str) -> None:
    ended, _ = run("threading.Event().wait()", reports)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout == "end of program\n"
    assert [line for line in ended.stderr.splitlines() if "BRG201" in line] == [
        f"WARNING bridge.tasks.BRG201: {line}" for line in LINES
    ]


@pytest.mark.parametrize("reports", [IN_TIME, LATE], ids=["in time", "late"])
def test_a_listener_that_never_returns_holds_up_no_exit(reports: str) -> None:
    ended, _ = run("pass", f"bridge.on_event(lambda event: threading.Event().wait()); {reports}")
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.splitlines().count("end of program") == 1
    assert [line for line in ended.stdout.splitlines() if line != "end of program"] == LINES

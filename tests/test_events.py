"""Events: each place is logged once a minute and told to every listener each time; two formatters; the switch."""

from __future__ import annotations

import gc
import json
import logging
import os
import random
import signal
import threading
import time
from collections.abc import Iterator

import pytest

from bridge.diagnostics.catalogue import CATALOGUE
from bridge.diagnostics.delivery import logging_thread
from bridge.diagnostics.events import WINDOW, Event, Stream, emit, on_event, stream
from bridge.diagnostics.formatting import JsonFormatter, LineFormatter
from bridge.diagnostics.places import Place
from bridge.diagnostics.switch import VARIABLE, wanted
from tests.conftest import PATIENCE, within

HERE = Place("/srv/app.py", 9, "fetch")
THERE = Place("/srv/app.py", 12, "fetch")


def blocked(place: Place | None = HERE, **more: object) -> Event:
    return Event(code="BRG101", headline="the loop is blocked", place=place, **more)  # type: ignore[arg-type]


class FakeClock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def own(clock: FakeClock) -> Stream:
    """A stream of its own."""
    return Stream(clock)


@pytest.fixture(autouse=True)
def forget() -> Iterator[None]:
    stream.forget()
    yield
    stream.forget()


# -- what an event says ------------------------------------------------------------------------------------------------


def test_a_message_is_a_headline_then_what_to_write_then_details_indented() -> None:
    event = blocked(advice="await asyncio.sleep(1)", details=("cause: waiting", "stack:\n  one\n  two"))
    assert event.message.splitlines() == [
        "BRG101 the loop is blocked",
        "  write: await asyncio.sleep(1)",
        "  cause: waiting",
        "  stack:",
        "    one",
        "    two",
    ]
    assert blocked().message == "BRG101 the loop is blocked"


@pytest.mark.parametrize("code", CATALOGUE.values(), ids=lambda code: code.code)
def test_each_code_has_a_dotted_name_a_logger_below_bridge_and_a_level(code) -> None:
    event = Event(code=code.code, headline="x")
    assert event.name.startswith("bridge.")
    assert code.logger.name == f"{code.area}.{code.code}"
    assert event.level in (logging.INFO, logging.WARNING, logging.ERROR)


# -- once a minute -----------------------------------------------------------------------------------------------------


def test_a_place_is_logged_once_in_a_window_and_then_with_the_number_of_repeats(
    own: Stream, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    assert own.emit(blocked())
    assert not own.emit(blocked())
    clock.now = WINDOW - 0.001
    assert not own.emit(blocked())
    clock.now = WINDOW
    assert own.emit(blocked())
    assert [record.message for record in caplog.records] == [
        "BRG101 the loop is blocked",
        "BRG101 the loop is blocked (and 2 more times since it was last logged)",
    ]
    clock.now = 3 * WINDOW
    own.emit(blocked())
    assert caplog.records[-1].message == "BRG101 the loop is blocked"


def test_places_and_codes_are_counted_apart(own: Stream) -> None:
    assert own.emit(blocked(HERE))
    assert own.emit(blocked(THERE))
    assert own.emit(Event(code="BRG102", headline="x", place=HERE))
    assert not own.emit(blocked(THERE))


def test_without_a_place_the_headline_stands_for_it(own: Stream) -> None:
    assert own.emit(blocked(None))
    assert not own.emit(blocked(None))
    assert own.emit(Event(code="BRG101", headline="another one"))


def test_what_weighs_more_than_before_is_logged_at_once(own: Stream, caplog: pytest.LogCaptureFixture) -> None:
    assert own.emit(blocked())
    assert own.emit(blocked(), weight=0.2)
    assert own.emit(blocked(), weight=0.4)
    assert not own.emit(blocked(), weight=0.4)
    assert not own.emit(blocked())
    assert own.emit(blocked(), weight=0.8)
    assert caplog.records[-1].message.endswith("(and 1 more times since it was last logged)")


def test_every_time_means_every_time(own: Stream) -> None:
    assert own.emit(blocked(), every_time=True)
    assert own.emit(blocked(), every_time=True)


def test_the_oldest_place_is_forgotten_when_there_are_too_many(own: Stream) -> None:
    places = [Place("/srv/app.py", line, "fetch") for line in range(1025)]
    assert all(own.emit(blocked(place), log=True) for place in places)
    assert not own.emit(blocked(places[-1]))
    assert not own.emit(blocked(places[1]))
    assert own.emit(blocked(places[0]))


def test_a_place_that_was_logged_again_is_not_the_oldest(own: Stream) -> None:
    places = [Place("/srv/app.py", line, "fetch") for line in range(1024)]
    for place in places:
        own.emit(blocked(place))
    own.emit(blocked(places[0]), weight=1)
    own.emit(blocked(THERE._replace(function="one more")))
    assert not own.emit(blocked(places[0]))
    assert own.emit(blocked(places[1]))


def test_when_told_to_forget_everything_is_logged_anew(own: Stream) -> None:
    own.emit(blocked())
    own.forget()
    assert own.emit(blocked())


def test_a_code_is_silenced_by_its_own_logger_and_told_to_listeners_all_the_same(
    own: Stream, caplog: pytest.LogCaptureFixture
) -> None:
    heard: list[Event] = []
    own.on_event(heard.append)
    logger = CATALOGUE["BRG101"].logger
    logger.setLevel(logging.CRITICAL)
    try:
        own.emit(blocked())
        own.emit(Event(code="BRG102", headline="x"))
    finally:
        logger.setLevel(logging.NOTSET)
    assert [record.name for record in caplog.records] == ["bridge.loop.BRG102"]
    assert [event.code for event in heard] == ["BRG101", "BRG102"]


def test_the_exception_of_an_event_is_logged_with_its_traceback(own: Stream, caplog: pytest.LogCaptureFixture) -> None:
    try:
        raise ValueError("lost")
    except ValueError as error:
        own.emit(Event(code="BRG202", headline="x", exception=error))
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert "ValueError: lost" in caplog.text


def test_a_text_with_percent_signs_is_no_format(own: Stream, caplog: pytest.LogCaptureFixture) -> None:
    own.emit(Event(code="BRG101", headline="100 % at %s %d"))
    assert caplog.records[0].getMessage() == "BRG101 100 % at %s %d"


# -- listeners ---------------------------------------------------------------------------------------------------------


def test_listeners_hear_of_every_event_with_what_is_logged_or_not(own: Stream) -> None:
    heard: list[Event] = []
    own.on_event(heard.append)
    own.emit(blocked())
    own.emit(blocked())
    own.emit(blocked(), log=False)
    assert [event.place for event in heard] == [HERE] * 3


def test_what_is_not_to_be_logged_does_not_count(own: Stream, caplog: pytest.LogCaptureFixture) -> None:
    assert not own.emit(blocked(), log=False)
    assert own.emit(blocked())
    assert [record.message for record in caplog.records] == ["BRG101 the loop is blocked"]


def test_a_subscription_ends_when_it_is_closed(own: Stream) -> None:
    heard: list[Event] = []
    with own.on_event(heard.append) as subscription:
        own.emit(blocked())
        subscription.close()
    subscription.close()
    own.emit(blocked())
    assert len(heard) == 1


def test_a_callback_may_be_given_twice_and_each_is_closed_by_itself(own: Stream) -> None:
    heard: list[Event] = []
    first, second = own.on_event(heard.append), own.on_event(heard.append)
    own.emit(blocked())
    first.close()
    first.close()
    own.emit(blocked())
    assert len(heard) == 3
    second.close()


def test_a_listener_that_raises_is_logged_and_harms_nobody(own: Stream, caplog: pytest.LogCaptureFixture) -> None:
    heard: list[Event] = []

    def broken(event: Event) -> None:
        raise ValueError("broken")

    own.on_event(broken)
    own.on_event(heard.append)
    assert own.emit(blocked())
    assert len(heard) == 1
    assert logging_thread.flush(PATIENCE)
    assert "callback broken raised" in caplog.text


def test_a_listener_may_emit_close_itself_and_listen(own: Stream) -> None:
    heard: list[str] = []

    def once(event: Event) -> None:
        subscription.close()
        own.on_event(lambda event: heard.append(event.code))
        own.emit(Event(code="BRG102", headline="from a listener"))

    subscription = own.on_event(once)
    own.emit(blocked())
    assert heard == ["BRG102"]


def test_only_functions_can_listen() -> None:
    with pytest.raises(TypeError, match="on_event needs a function that takes the event, not 5"):
        on_event(5)  # type: ignore[arg-type]


def test_a_logging_handler_that_raises_does_not_reach_the_program(own: Stream, monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(logging.Handler):
        def handle(self, record: logging.LogRecord) -> bool:
            raise OSError("disk full")

    monkeypatch.setattr(logging_thread, "_failed", lambda error: None)
    heard: list[Event] = []
    own.on_event(heard.append)
    handler = Broken()
    logger = CATALOGUE["BRG101"].logger
    logger.addHandler(handler)
    try:
        own.emit(blocked())
    finally:
        logger.removeHandler(handler)
    assert len(heard) == 1, "listeners hear of it all the same"


def test_the_one_stream_of_the_process_is_what_emit_and_on_event_use() -> None:
    heard: list[Event] = []
    with on_event(heard.append):
        emit(blocked(), log=False)
    emit(blocked(), log=False)
    assert len(heard) == 1


# -- from everywhere at once -------------------------------------------------------------------------------------------


def test_an_event_from_a_finalizer_while_its_thread_is_emitting_is_not_stuck(own: Stream) -> None:
    heard: list[str] = []
    own.on_event(lambda event: heard.append(event.headline))

    class Forgotten:
        def __init__(self) -> None:
            self.me = self  # garbage that only the collector finds

        def __del__(self) -> None:
            own.emit(Event(code="BRG201", headline="from a finalizer"))

    class Collecting(tuple[str, int, str]):
        """A place whose comparison sets the collector off, in the middle of the stream's own work."""

        def __hash__(self) -> int:
            gc.collect()
            return 1

    Forgotten()
    own.emit(blocked(Collecting(HERE)))  # type: ignore[arg-type]
    assert heard == ["from a finalizer", "the loop is blocked"]


@pytest.mark.parametrize("seed", range(3))
def test_many_threads_lose_no_event_and_log_each_place_once(seed: int, own: Stream) -> None:
    places = [Place("/srv/app.py", line, "fetch") for line in range(5)]
    lock = threading.Lock()
    heard: list[Event] = []
    logged: list[Place] = []
    start = threading.Barrier(6)

    def listen(event: Event) -> None:
        with lock:
            heard.append(event)

    own.on_event(listen)

    def emit_many(number: int) -> None:
        choose = random.Random(seed * 10 + number)
        start.wait(PATIENCE)
        for _ in range(100):
            place = choose.choice(places)
            with own.on_event(int):
                if own.emit(blocked(place)):
                    with lock:
                        logged.append(place)

    threads = [threading.Thread(target=emit_many, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        within(thread)
    assert len(heard) == 600
    assert sorted(logged) == places
    assert len(own._listeners) == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_a_child_that_was_forked_while_somebody_emitted_can_emit() -> None:
    held, release = threading.Event(), threading.Event()

    def hold() -> None:
        with stream._lock:
            held.set()
            release.wait(PATIENCE)

    holder = threading.Thread(target=hold)
    holder.start()
    assert held.wait(PATIENCE)
    child = os.fork()
    if child == 0:
        signal.alarm(int(PATIENCE))  # ends it
        try:
            os._exit(0 if emit(Event(code="BRG101", headline="in the child")) else 1)
        finally:
            os._exit(2)
    release.set()
    within(holder)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0


# -- formatters --------------------------------------------------------------------------------------------------------


def record_of(event: Event) -> logging.LogRecord:
    logger = CATALOGUE[event.code].logger
    error = event.exception
    exc_info = (type(error), error, error.__traceback__) if error is not None else None
    return logger.makeRecord(
        logger.name, event.level, __file__, 1, "%s", (event.message,), exc_info, extra={"bridge_event": event}
    )


def plain_record(text: str = "one\ntwo %s", *args: object) -> logging.LogRecord:
    record = logging.LogRecord("app", logging.WARNING, __file__, 1, text, args or ("three",), None)
    record.created = 1700000000.25
    return record


def test_as_a_line_an_event_is_its_headline_and_what_to_write() -> None:
    event = blocked(advice="await\n  asyncio.sleep(1)", details=("cause: waiting",))
    assert LineFormatter().format(record_of(event)) == "BRG101 the loop is blocked; write: await asyncio.sleep(1)"
    assert LineFormatter("%(levelname)s %(message)s").format(record_of(blocked())) == "WARNING BRG101 the loop is blocked"
    assert (
        LineFormatter("%(asctime)s %(message)s", "then").format(record_of(blocked())) == "then BRG101 the loop is blocked"
    )


def test_as_a_line_any_other_record_is_one_line_too() -> None:
    assert LineFormatter().format(plain_record()) == "one | two three"


def test_formatting_as_a_line_leaves_the_record_to_other_handlers() -> None:
    record = record_of(blocked(details=("cause: waiting",)))
    LineFormatter().format(record)
    assert logging.Formatter().format(record) == "BRG101 the loop is blocked\n  cause: waiting"


def test_as_json_an_event_is_one_object_with_opentelemetrys_names() -> None:
    event = blocked(
        advice="await asyncio.sleep(1)", details=("cause: waiting",), attributes={"bridge.duration": 0.1}, repeats=3
    )
    text = JsonFormatter().format(record_of(event))
    assert "\n" not in text
    line = json.loads(text)
    attributes = line.pop("attributes")
    assert line.pop("timestamp").endswith("Z")
    assert line == {
        "severity_text": "WARN",
        "logger": "bridge.loop.BRG101",
        "body": "the loop is blocked",
        "event_name": "bridge.loop.blocked",
        "advice": "await asyncio.sleep(1)",
        "details": ["cause: waiting"],
    }
    assert attributes == {
        "thread.name": "MainThread",
        "bridge.code": "BRG101",
        "bridge.repeats": 3,
        "code.file.path": "/srv/app.py",
        "code.line.number": 9,
        "code.function.name": "fetch",
        "bridge.duration": 0.1,
    }


def test_as_json_an_exception_has_its_type_its_text_and_its_traceback() -> None:
    try:
        raise ValueError("löst")
    except ValueError as error:
        record = record_of(Event(code="BRG202", headline="x", exception=error))
    text = JsonFormatter().format(record)
    assert "löst" in text
    attributes = json.loads(text)["attributes"]
    assert attributes["exception.type"] == "ValueError"
    assert attributes["exception.message"] == "löst"
    assert "raise ValueError" in attributes["exception.stacktrace"]


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A time zone far from UTC."""
    if not hasattr(time, "tzset"):
        pytest.skip("the time zone cannot be changed here")
    monkeypatch.setenv("TZ", "XXX-9")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.usefixtures("elsewhere")
def test_as_json_any_other_record_has_its_text_and_the_time_in_utc() -> None:
    assert json.loads(JsonFormatter().format(plain_record())) == {
        "timestamp": "2023-11-14T22:13:20.250000Z",
        "severity_text": "WARN",
        "logger": "app",
        "body": "one\ntwo three",
        "attributes": {"thread.name": "MainThread"},
    }


def test_as_json_what_json_does_not_know_is_written_as_text() -> None:
    event = blocked(attributes={"bridge.what": object})  # type: ignore[dict-item]
    assert json.loads(JsonFormatter().format(record_of(event)))["attributes"]["bridge.what"] == "<class 'object'>"


# -- the switch --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "on"),
    [(None, True), ("1", True), ("", True), ("0", False), (" Off ", False), ("no", False), ("false", False)],
)
def test_diagnostics_are_on_unless_the_environment_says_otherwise(
    value: str | None, on: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    if value is not None:
        monkeypatch.setenv(VARIABLE, value)
    assert wanted() is on
    assert wanted(True) is True
    assert wanted(False) is False

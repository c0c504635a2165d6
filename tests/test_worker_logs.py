"""Log records between processes: made there only if wanted here, and handled here as if they were made here."""

from __future__ import annotations

import logging
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from bridge.executors.process.logs import LevelWatch, handle_record, levels
from bridge.executors.process.worker import logs as worker_logs
from bridge.executors.process.worker.logs import DISABLED, Forwarder, apply_levels, forward_logs, pack_record
from tests.conftest import within


@pytest.fixture(autouse=True)
def levels_as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(worker_logs, "_applied", set())
    before = levels()
    yield
    for name, logger in list(logging.root.manager.loggerDict.items()):
        if isinstance(logger, logging.Logger):
            logger.setLevel(before.get(name, logging.NOTSET))
    logging.root.setLevel(before[""])
    logging.disable(before[DISABLED])


@pytest.fixture
def logger() -> logging.Logger:
    logger = logging.getLogger("bridge.tests.logs")
    logger.setLevel(logging.DEBUG)
    return logger


class Kept(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


@pytest.fixture
def kept(logger: logging.Logger) -> Iterator[Kept]:
    """What the parent's handler has got."""
    handler = Kept()
    logger.addHandler(handler)
    yield handler
    logger.removeHandler(handler)


class Unpicklable:
    def __init__(self) -> None:
        self.lock = threading.Lock()

    def __repr__(self) -> str:
        return "<unpicklable>"


class Refuses:
    """Can be pickled, and not unpickled."""

    def __reduce__(self) -> Any:
        return refuse, ()


def refuse() -> None:
    raise RuntimeError("not here")


def record_of(message: object, *args: object, exc_info: Any = None, **extra: object) -> logging.LogRecord:
    return logging.getLogger("bridge.tests.logs").makeRecord(
        "bridge.tests.logs", logging.WARNING, __file__, 42, message, args, exc_info, "here", extra
    )


def arrived(record: logging.LogRecord, kept: Kept) -> logging.LogRecord:
    handle_record(pack_record(record))
    return kept.records[-1]


# -- records -----------------------------------------------------------------------------------------------------------


def test_a_record_arrives_with_its_message_formatted(kept: Kept) -> None:
    found = arrived(record_of("%s is %d", "answer", 42), kept)
    assert found.getMessage() == "answer is 42"
    assert found.args is None
    assert (found.levelno, found.lineno, found.pathname, found.funcName) == (logging.WARNING, 42, __file__, "here")


def test_times_process_and_thread_are_the_workers(kept: Kept) -> None:
    record = record_of("hello")
    record.process, record.processName, record.threadName, record.created = 4711, "crew-1", "there", 1.5
    found = arrived(record, kept)
    assert (found.process, found.processName, found.threadName, found.created) == (4711, "crew-1", "there", 1.5)


def test_an_exception_arrives_as_its_traceback(kept: Kept) -> None:
    try:
        raise ValueError("with a traceback")
    except ValueError:
        record = record_of("failed", exc_info=sys.exc_info())
    found = arrived(record, kept)
    assert found.exc_info is None
    assert "with a traceback" in logging.Formatter().format(found)
    assert "in test_an_exception_arrives" in logging.Formatter().format(found)
    assert record.exc_info is not None  # other handlers in the worker still have it
    assert record.exc_text is None


def test_extra_attributes_arrive_and_what_cannot_be_pickled_as_its_repr(kept: Kept) -> None:
    found: Any = arrived(record_of("hello", user="ada", shape=(2, 3), thing=Unpicklable()), kept)
    assert (found.user, found.shape, found.thing) == ("ada", (2, 3), "<unpicklable>")


def test_an_attribute_that_cannot_be_rebuilt_costs_itself_only(kept: Kept) -> None:
    found: Any = arrived(record_of("hello", user="ada", thing=Refuses()), kept)
    assert found.getMessage() == "hello"
    assert found.user == "ada"
    assert "not here" in found.thing


def test_a_message_that_is_an_object_arrives_as_its_text(kept: Kept) -> None:
    assert arrived(record_of(Unpicklable()), kept).getMessage() == "<unpicklable>"


def test_an_object_without_a_repr_does_not_cost_the_record(kept: Kept) -> None:
    class Silent(Unpicklable):
        def __repr__(self) -> str:
            raise RuntimeError

    assert "Silent object" in arrived(record_of("hello", thing=Silent()), kept).thing  # type: ignore[attr-defined]


# -- in the parent -----------------------------------------------------------------------------------------------------


def test_a_record_that_nobody_wants_any_more_is_dropped(logger: logging.Logger, kept: Kept) -> None:
    payload = pack_record(record_of("late"))
    logger.setLevel(logging.ERROR)
    handle_record(payload)
    assert kept.records == []


def test_filters_of_the_parents_logger_are_asked(logger: logging.Logger, kept: Kept) -> None:
    def refuse_secrets(record: logging.LogRecord) -> bool:
        return "secret" not in record.getMessage()

    logger.addFilter(refuse_secrets)
    try:
        handle_record(pack_record(record_of("a secret")))
        handle_record(pack_record(record_of("no news")))
    finally:
        logger.removeFilter(refuse_secrets)
    assert [record.getMessage() for record in kept.records] == ["no news"]


def test_a_handler_that_raises_is_reported_and_disturbs_nobody(
    logger: logging.Logger, kept: Kept, capsys: pytest.CaptureFixture[str]
) -> None:
    class Broken(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            raise RuntimeError("the disk is full")

    broken = Broken()
    logger.addHandler(broken)
    try:
        handle_record(pack_record(record_of("important")))
    finally:
        logger.removeHandler(broken)
    said = capsys.readouterr().err
    assert "the disk is full" in said
    assert "important" in said


def test_a_payload_that_is_no_record_is_reported_and_disturbs_nobody(capsys: pytest.CaptureFixture[str]) -> None:
    handle_record(b"nonsense")
    assert "cannot be read" in capsys.readouterr().err


# -- in the worker -----------------------------------------------------------------------------------------------------


def test_the_forwarder_sends_in_the_thread_that_logs(logger: logging.Logger) -> None:
    sent: list[tuple[int, bytes]] = []
    forwarder = Forwarder(lambda payload: sent.append((threading.get_ident(), payload)))
    logger.addHandler(forwarder)
    try:
        thread = threading.Thread(target=logger.warning, args=("from a thread",))
        thread.start()
        within(thread)
    finally:
        logger.removeHandler(forwarder)
    [(ident, payload)] = sent
    assert ident == thread.ident
    assert pickle.loads(payload)[0]["msg"] == "from a thread"


def test_logging_inside_of_sending_does_not_lock_up(logger: logging.Logger) -> None:
    """As a finalizer does that the garbage collector runs while a record is being sent, in whatever thread."""
    sent: list[str] = []

    def send(payload: bytes) -> None:
        message = pickle.loads(payload)[0]["msg"]
        sent.append(message)
        if message == "outer":
            thread = threading.Thread(target=logger.warning, args=("in another thread",), daemon=True)
            thread.start()
            within(thread)
            logger.warning("inner")

    forwarder = Forwarder(send)
    logger.addHandler(forwarder)
    try:
        logger.warning("outer")
    finally:
        logger.removeHandler(forwarder)
    assert sent == ["outer", "in another thread", "inner"]


def test_a_record_that_cannot_be_formatted_is_reported_where_it_was_made(
    logger: logging.Logger, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[bytes] = []
    forwarder = Forwarder(sent.append)
    monkeypatch.setattr(logger, "propagate", False)  # pytest's own handler raises
    logger.addHandler(forwarder)
    try:
        logger.warning("%d", "not a number")
    finally:
        logger.removeHandler(forwarder)
    assert sent == []
    assert "not a number" in capsys.readouterr().err


def test_filters_of_the_forwarder_are_asked(logger: logging.Logger) -> None:
    sent: list[bytes] = []
    forwarder = Forwarder(sent.append)
    forwarder.addFilter(lambda record: "secret" not in record.getMessage())
    logger.addHandler(forwarder)
    try:
        logger.warning("a secret")
        logger.warning("no news")
    finally:
        logger.removeHandler(forwarder)
    assert len(sent) == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_child_forked_in_a_worker_does_not_use_its_workers_line() -> None:
    program = (
        "import logging, os, sys\n"
        "from bridge.executors.process.worker.logs import forward_logs\n"
        "sent = []\n"
        "forward_logs(sent.append, {'': logging.INFO})\n"
        "child = os.fork()\n"
        "logging.getLogger('somebody').info('only for whoever forwards')\n"
        "logging.getLogger('somebody').warning('said by %s', 'child' if not child else 'worker')\n"
        "if not child:\n"
        "    os._exit(len(sent))\n"
        "sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) * 10 + len(sent))\n"
    )
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert found.returncode == 2  # the worker's two, none of the child's
    assert found.stderr.strip() == "said by child"


# -- levels ------------------------------------------------------------------------------------------------------------


def test_levels_are_those_that_were_set_and_no_others() -> None:
    logging.getLogger("bridge.tests.loud").setLevel(logging.ERROR)
    logging.getLogger("bridge.tests.inherits")
    logging.root.setLevel(logging.INFO)
    logging.disable(5)
    found = levels()
    assert found["bridge.tests.loud"] == logging.ERROR
    assert "bridge.tests.inherits" not in found
    assert (found[""], found[DISABLED]) == (logging.INFO, 5)


def test_levels_that_are_applied_decide_what_is_made() -> None:
    loud, child = logging.getLogger("bridge.tests.loud"), logging.getLogger("bridge.tests.loud.child")
    apply_levels({"": logging.DEBUG, DISABLED: 0, "bridge.tests.loud": logging.ERROR})
    assert logging.root.level == logging.DEBUG
    assert not child.isEnabledFor(logging.WARNING)
    apply_levels({"": logging.DEBUG, DISABLED: logging.ERROR})
    assert loud.level == logging.NOTSET  # not set in the parent any more
    assert not child.isEnabledFor(logging.ERROR)
    assert child.isEnabledFor(logging.CRITICAL)


def test_levels_that_the_worker_set_itself_stay() -> None:
    own = logging.getLogger("bridge.tests.own")
    own.setLevel(logging.CRITICAL)
    apply_levels({"": logging.INFO})
    apply_levels({"": logging.DEBUG})
    assert own.level == logging.CRITICAL


def test_forwarding_begins_with_the_parents_levels() -> None:
    sent: list[bytes] = []
    forwarder = forward_logs(sent.append, {"": logging.ERROR})
    try:
        logging.getLogger("bridge.tests.fresh").warning("not wanted")
        logging.getLogger("bridge.tests.fresh").error("wanted")
    finally:
        logging.root.removeHandler(forwarder)
    assert [pickle.loads(payload)[0]["msg"] for payload in sent] == ["wanted"]


def test_a_watch_tells_each_change_once() -> None:
    watch, another = LevelWatch(), LevelWatch()
    assert watch.changed() is None
    logging.getLogger("bridge.tests.watched").setLevel(logging.INFO)
    found = watch.changed()
    assert found is not None
    assert found["bridge.tests.watched"] == logging.INFO
    assert watch.changed() is None
    assert another.changed() == found
    logging.disable(3)
    assert (watch.changed() or {})[DISABLED] == 3


def test_a_watch_is_silent_when_nothing_is_different_afterwards() -> None:
    watch = LevelWatch()
    logging.root.setLevel(logging.root.level)
    assert watch.changed() is None


def test_a_watch_works_without_loggings_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    class Bare:
        level = logging.WARNING
        manager = logging.root.manager

    with monkeypatch.context() as patch:
        patch.setattr(logging, "root", Bare())
        watch = LevelWatch()
        found = [watch.changed()]
        Bare.level = logging.INFO
        found += [watch.changed(), watch.changed()]
    assert [each is not None for each in found] == [False, True, False]

"""Exceptions between processes: the same exception there and here, with the other process's traceback as its cause."""

from __future__ import annotations

import concurrent.futures
import copy
import io
import os
import pickle
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import bridge
from bridge.executors.process.wire.errors import (
    RemoteTraceback,
    format_error,
    pack_error,
    reduce_error,
    unpack_error,
)
from bridge.threads.job import Job


class PlainPickles:
    """Packer and unpacker."""

    def pack(self, obj: Any) -> bytes:
        return pickle.dumps(obj)

    def unpack(self, parcel: Any) -> Any:
        return pickle.loads(parcel)


plain = PlainPickles()


def raised(error: BaseException) -> BaseException:
    """`error`, with a traceback through this function."""
    try:
        raise error
    except BaseException as caught:
        return caught


def travelled(error: BaseException) -> BaseException:
    """`error`, raised there, as it is here."""
    return unpack_error(pack_error(raised(error), plain), plain)


def told(error: BaseException) -> str:
    """What came of the traceback."""
    assert isinstance(error.__cause__, RemoteTraceback)
    return str(error.__cause__)


# -- what arrives ------------------------------------------------------------------------------------------------------


class WithAttributes(Exception):
    pass


def test_type_arguments_attributes_and_notes_arrive() -> None:
    error = WithAttributes("first", 2)
    error.detail = {"third": [3]}  # type: ignore[attr-defined]
    error.add_note("a note")
    found = travelled(error)
    assert type(found) is WithAttributes
    assert found.args == ("first", 2)
    assert found.detail == {"third": [3]}
    assert found.__notes__ == ["a note"]
    assert "a note" in told(found)


def test_the_cause_shows_the_other_processs_traceback_and_number() -> None:
    found = travelled(ValueError("wrong"))
    assert f"in process {os.getpid()}" in told(found)
    assert "in raised" in told(found)
    assert Path(__file__).name in told(found)
    assert told(found).rstrip().endswith("ValueError: wrong")
    assert found.__suppress_context__


def test_the_cause_shows_causes_and_contexts_there() -> None:
    try:
        try:
            raise KeyError("first")
        except KeyError as first:
            raise ValueError("second") from first
    except ValueError as second:
        found = unpack_error(pack_error(second, plain), plain)
    assert "KeyError: 'first'" in told(found)
    assert "direct cause" in told(found)


def test_an_error_that_has_crossed_twice_shows_both_tracebacks() -> None:
    def there() -> None:
        raise travelled(ValueError("deep"))

    try:
        there()
    except ValueError as error:
        found = unpack_error(pack_error(error, plain), plain)
    assert "in raised" in told(found)
    assert "in there" in told(found)


def test_frames_of_bridge_are_left_out_wherever_they_are() -> None:
    job = Job(fail_in_bridge, (), {}, None)
    job.run()
    try:
        job.unwrap()
    except AttributeError as error:
        files = [Path(frame.f_code.co_filename).name for frame, _ in traceback.walk_tb(error.__traceback__)]
        text = format_error(error)
    here = Path(__file__).name
    assert files == [here, "job.py", here, "job.py"]
    assert "in fail_in_bridge" in text
    assert "job.py" not in text


def fail_in_bridge() -> None:
    Job.take_outcome(None)  # type: ignore[arg-type]


def test_bridges_frames_are_left_out_of_causes_and_groups_too() -> None:
    def fail_inside_bridge() -> BaseException:
        try:
            unpack_error(b"", plain)
        except Exception as error:
            return error
        raise AssertionError

    inner = fail_inside_bridge()
    outer = ExceptionGroup("several", [inner])
    outer.__cause__ = fail_inside_bridge()
    text = format_error(outer)
    assert text.count("in fail_inside_bridge") == 2
    assert "wire/errors.py" not in text


def test_in_development_mode_bridges_frames_are_kept() -> None:
    program = (
        "from bridge.executors.process.wire.errors import format_error, unpack_error\n"
        "try: unpack_error(b'', None)\n"
        "except Exception as error: print(format_error(error))\n"
    )
    kept = subprocess.run(
        [sys.executable, "-X", "dev", "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    assert "in unpack_error" in kept.stdout


def test_a_very_long_traceback_keeps_its_beginning_and_its_end() -> None:
    text = told(travelled(ValueError("x" * 1_000_000 + "the end")))
    assert len(text) < 70_000
    assert "Traceback" in text
    assert "characters left out" in text
    assert text.rstrip().endswith("the end")


def test_the_payload_may_be_a_view_on_a_buffer_that_is_used_again() -> None:
    buffer = bytearray(pack_error(raised(ValueError("kept")), plain))
    found = unpack_error(memoryview(buffer), plain)
    buffer[:] = bytes(len(buffer))
    assert str(found) == "kept"
    assert "in raised" in told(found)


def test_base_exceptions_arrive_as_themselves() -> None:
    assert type(travelled(SystemExit(3))) is SystemExit
    assert type(travelled(KeyboardInterrupt())) is KeyboardInterrupt
    assert travelled(StopIteration(7)).value == 7  # type: ignore[attr-defined]


# -- exceptions that pickle does not do well by ------------------------------------------------------------------------


class NeedsTwo(Exception):
    def __init__(self, code: int, reason: str):
        super().__init__(f"{code}: {reason}")
        self.code = code


class Prefixes(Exception):
    def __init__(self, what: str):
        super().__init__(f"prefixed {what}")


class OwnOSError(OSError):
    def __init__(self, path: str):
        super().__init__(2, "no such thing", path)


class KeywordOnly(KeyError):
    def __init__(self, *, key: str):
        super().__init__(key)
        self.key = key


class OwnImportError(ImportError):
    def __init__(self, module: str):
        super().__init__(f"no {module}", name=module)


class OwnGroup(ExceptionGroup[Exception]):
    def __new__(cls, errors: list[Exception], code: int) -> OwnGroup:
        self = super().__new__(OwnGroup, f"code {code}", errors)
        self.code = code
        return self

    code: int


@dataclass(frozen=True)
class Frozen(Exception):
    detail: str


def test_an_init_with_other_parameters_than_args_is_no_obstacle() -> None:
    with pytest.raises(TypeError):
        pickle.loads(pickle.dumps(NeedsTwo(7, "never mind")))
    found = travelled(NeedsTwo(7, "never mind"))
    assert type(found) is NeedsTwo
    assert (found.args, found.code) == (("7: never mind",), 7)
    assert "in raised" in told(found)


def test_an_init_that_changes_its_argument_is_not_called_twice() -> None:
    assert travelled(Prefixes("text")).args == ("prefixed text",)


def test_what_built_in_bases_keep_outside_the_dict_arrives() -> None:
    found: Any = travelled(OwnOSError("/some/path"))
    assert type(found) is OwnOSError
    assert (found.errno, found.strerror, found.filename) == (2, "no such thing", "/some/path")
    found = travelled(KeywordOnly(key="k"))
    assert (type(found), found.args, found.key) == (KeywordOnly, ("k",), "k")
    found = travelled(OwnImportError("nothing"))
    assert (found.name, found.msg) == ("nothing", "no nothing")


def test_groups_arrive_whatever_is_in_them() -> None:
    group = ExceptionGroup("outer", [NeedsTwo(1, "a"), ExceptionGroup("inner", [Prefixes("b")]), ValueError("c")])
    group.add_note("about the group")
    found: Any = travelled(group)
    assert type(found) is ExceptionGroup
    first, inner, last = found.exceptions
    assert (type(first), first.code) == (NeedsTwo, 1)
    assert inner.exceptions[0].args == ("prefixed b",)
    assert last.args == ("c",)
    assert found.__notes__ == ["about the group"]
    assert found.message == "outer"


class Reducing(pickle.Pickler):
    def reducer_override(self, obj: Any) -> Any:
        return reduce_error(obj) if isinstance(obj, BaseException) else NotImplemented


def test_a_pickler_can_do_as_well_by_exceptions_inside_of_results() -> None:
    file = io.BytesIO()
    Reducing(file).dump({"failed": [NeedsTwo(7, "never mind"), ValueError("plain"), OwnGroup([Prefixes("b")], 5)]})
    first, second, third = pickle.loads(file.getvalue())["failed"]
    assert (type(first), str(first), first.code) == (NeedsTwo, "7: never mind", 7)
    assert second.args == ("plain",)
    assert (third.code, str(third.exceptions[0])) == (5, "prefixed b")


def test_a_group_class_with_a_new_of_its_own_arrives() -> None:
    found: Any = travelled(OwnGroup([NeedsTwo(1, "a")], 5))
    assert type(found) is OwnGroup
    assert (found.message, found.code, found.exceptions[0].code) == ("code 5", 5, 1)


def test_an_exception_that_forbids_changes_gets_its_cause() -> None:
    found = travelled(Frozen("as it is"))
    assert isinstance(found, Frozen)
    assert found.detail == "as it is"
    assert "in raised" in told(found)


# -- what cannot travel ------------------------------------------------------------------------------------------------


class HasLock(Exception):
    def __init__(self) -> None:
        super().__init__("has a lock")
        self.lock = threading.Lock()


class RaisesInReduce(Exception):
    def __reduce__(self) -> Any:
        raise RuntimeError("reduce is broken")


class BecomesANumber(Exception):
    def __reduce__(self) -> Any:
        return int, (7,)


class CannotBeRebuilt(Exception):
    def __reduce__(self) -> Any:
        return refuse, ("not here",)


class CannotBePrinted(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")


def refuse(reason: str) -> None:
    raise ValueError(reason)


@pytest.mark.parametrize(
    ("make", "kind", "words"),
    [
        (HasLock, pickle.PicklingError, ["HasLock", "has a lock", "cannot be pickled", "_thread.lock"]),
        (RaisesInReduce, pickle.PicklingError, ["RaisesInReduce", "reduce is broken"]),
        (BecomesANumber, pickle.UnpicklingError, ["BecomesANumber", "builtins.int", "no exception"]),
        (CannotBeRebuilt, pickle.UnpicklingError, ["CannotBeRebuilt", "cannot be rebuilt here", "not here"]),
    ],
)
def test_what_cannot_travel_says_so_and_says_what_it_said(
    make: Callable[[], BaseException], kind: type[Exception], words: list[str]
) -> None:
    found = travelled(make())
    assert type(found) is kind
    for word in words:
        assert word in str(found)
    assert "in raised" in told(found)


def test_the_path_that_the_packer_found_is_told() -> None:
    class FindsPaths(PlainPickles):
        def pack(self, obj: Any) -> bytes:
            raise pickle.PicklingError("cannot pickle .connection: a connection")

    found = unpack_error(pack_error(raised(NeedsTwo(1, "a")), FindsPaths()), plain)
    assert "cannot pickle .connection" in str(found)
    assert "1: a" in str(found)


def test_parts_that_cannot_be_pickled_are_no_hindrance_to_a_reduce_that_can() -> None:
    """A packer may know more about the exception itself than about its parts."""

    class KnowsNeedsTwo(PlainPickles):
        def pack(self, obj: Any) -> bytes:
            if type(obj) is not NeedsTwo:
                raise pickle.PicklingError("only as a whole")
            return pickle.dumps(ValueError("the whole"))

    assert str(unpack_error(pack_error(raised(NeedsTwo(1, "a")), KnowsNeedsTwo()), plain)) == "the whole"


def test_an_exception_without_words_arrives() -> None:
    found = travelled(CannotBePrinted())
    assert type(found) is CannotBePrinted
    assert "CannotBePrinted" in told(found)


def test_an_exception_that_can_neither_be_printed_nor_pickled_is_named() -> None:
    error = CannotBePrinted()
    error.lock = threading.Lock()  # type: ignore[attr-defined]
    found = travelled(error)
    assert isinstance(found, pickle.PicklingError)
    assert "CannotBePrinted" in str(found)


def test_a_traceback_that_cannot_be_formatted_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("formatting is broken")

    monkeypatch.setattr("traceback.TracebackException.from_exception", broken)
    text = format_error(ValueError("words"))
    assert "ValueError: words" in text
    assert "formatting is broken" in text


def test_endless_recursion_in_reduce_is_that_exceptions_fault_only() -> None:
    class Endless(Exception):
        def __reduce__(self) -> Any:
            return self.__reduce__()

    found = travelled(Endless("round"))
    assert isinstance(found, pickle.PicklingError)
    assert "recursion" in str(found)


# -- bridge's own errors -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [bridge.WorkerDied, bridge.WorkerMemoryExceeded])
@pytest.mark.parametrize(
    "clone", [lambda e: pickle.loads(pickle.dumps(e)), copy.copy, travelled], ids=["pickle", "copy", "sent"]
)
def test_worker_died_survives_pickling(kind: type[bridge.WorkerDied], clone: Callable[[Any], Any]) -> None:
    error = clone(kind("what happened", function="m.fn", pid=7, exitcode=-9, signal=9))
    assert type(error) is kind
    assert str(error) == "what happened"
    assert (error.function, error.pid, error.exitcode, error.signal) == ("m.fn", 7, -9, 9)


def test_worker_died_is_caught_by_what_catches_broken_pools() -> None:
    assert issubclass(bridge.WorkerDied, concurrent.futures.BrokenExecutor)
    assert issubclass(bridge.WorkerDied, bridge.BridgeError)
    assert issubclass(bridge.WorkerMemoryExceeded, bridge.WorkerDied)
    assert {"WorkerDied", "WorkerMemoryExceeded"} <= set(bridge.__all__)


def test_a_worker_need_not_import_an_event_loop_to_tell_an_error() -> None:
    program = (
        "import sys\n"
        "import bridge.executors.process.wire.errors, bridge.executors.process.wire.context\n"
        "import bridge.executors.process.worker.logs, bridge.errors\n"
        "print([name for name in ('asyncio', 'anyio', 'psutil', 'loky') if name in sys.modules])\n"
    )
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert found.stdout.strip() == "[]"

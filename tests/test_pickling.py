"""Parcels: what goes in comes out on the other side, as what it was; what cannot travel is an error that says where."""

from __future__ import annotations

import array
import asyncio
import contextlib
import contextvars
import functools
import gc
import os
import pickle
import sqlite3
import sys
import threading
import types
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

import bridge
from bridge.executors.process.wire import blocks, culprit, originals, patience, plain
from bridge.executors.process.wire.blocks import BlockStore, Mappings
from bridge.executors.process.wire.pickling import Packer, TooLarge, Unpacker
from bridge.executors.process.wire.traveling import ParentIterable

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX")

LARGE = 1 << 16

declared: contextvars.ContextVar[int] = contextvars.ContextVar("declared")


class Way:
    """From one process to the other: in these tests both are the same."""

    def __init__(self, direction: Any):
        self.sent: deque[tuple[int, bytes]] = deque()
        self.released: deque[int] = deque()
        self.lost: deque[int] = deque()
        self.store = BlockStore(lambda descriptor, message: self.sent.append((os.dup(descriptor), message)))
        self.packer = Packer(self.store, direction=direction)
        self.unpacker = Unpacker(Mappings(self.sent.popleft, self.released.append, self.lost.append), direction=direction)

    def travel(self, obj: Any, patiently: bool = False) -> Any:
        if patiently:
            return self.unpacker.unpack_patiently(self.packer.pack_patiently(obj))
        return self.unpacker.unpack(self.packer.pack(obj))

    @property
    def placed(self) -> int:
        """Blocks that nobody has released."""
        while self.released:
            self.store.release(self.released.popleft())
        return len(self.store._out)

    def close(self) -> None:
        self.store.close()
        self.unpacker.close()
        while self.sent:
            os.close(self.sent.popleft()[0])


@pytest.fixture
def out() -> Iterator[Way]:
    """From the parent to the worker."""
    way = Way("out")
    yield way
    way.close()


@pytest.fixture
def home() -> Iterator[Way]:
    """From the worker to the parent."""
    way = Way("home")
    yield way
    way.close()


@pytest.fixture
def main(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """What the parent runs as its `__main__`."""
    module = types.ModuleType("__main__")
    source = """
import contextlib
calls = []
def note(x):
    calls.append(x)
def outer():
    def inner(x):
        calls.append(x)
        return calls
    return inner
class Point:
    def __init__(self, x): self.x = x
    class Inner: pass
async def double(x, /, y=2, *rest, key, **others): return (x, y, rest, key, others)
@contextlib.asynccontextmanager
async def entered(x): yield x
"""
    exec(source, module.__dict__)
    monkeypatch.setitem(sys.modules, "__main__", module)
    return module


def at_top_level(x: int) -> int:
    return x + 1


@functools.wraps(at_top_level)
def _wrapping(x: int) -> int:
    return at_top_level(x)


def decorated(fn: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(fn)
    def around(*args: Any) -> Any:
        return ("around", fn(*args))

    return around


@decorated
def beneath_a_decorator(x: int) -> int:
    return x + 2


async def add(x: int, /, y: int = 2, *rest: int, key: int, **others: int) -> tuple[Any, ...]:
    await asyncio.sleep(0)
    return x, y, rest, key, others


async def count_to(end: int) -> AsyncIterator[int]:
    for number in range(end):
        yield number


@contextlib.asynccontextmanager
async def entered(value: int) -> AsyncIterator[int]:
    yield value


class Plain:
    def __init__(self, value: Any):
        self.value = value


# -- small and plain -----------------------------------------------------------------------------------------------------

PLAIN = [
    5,
    None,
    "text",
    b"bytes",
    1.5,
    [1, [2, (3, None)]],
    {"a": 1, "b": [True]},
    (at_top_level, (1, "two"), {}, None),
    (len, ("abc",), {"key": 2.5}, None),
    (at_top_level, ([1, 2], {"k": 3}), {}, None),
]


@pytest.mark.parametrize("obj", PLAIN)
def test_what_is_plain_and_small_is_a_plain_pickle(out: Way, obj: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Packer, "_pack", None)  # the thorough way
    parcel = out.packer.pack(obj, limit=LARGE)
    assert parcel == pickle.dumps(obj, 5)
    assert out.unpacker.unpack(parcel) == obj
    assert not out.unpacker.is_large(parcel)


@pytest.mark.parametrize(
    "obj",
    [lambda: 1, [].append, Plain(1), "x" * 5000, [0] * 17, {1: 2}, threading.Thread, int.from_bytes, "ab".upper],
    ids=[
        "lambda",
        "method of a list",
        "object",
        "long text",
        "long list",
        "odd key",
        "class",
        "classmethod",
        "method of a str",
    ],
)
def test_what_may_not_be_plain_takes_the_thorough_way(obj: Any) -> None:
    assert not plain.is_plain(obj, 3)


def test_a_module_registered_to_travel_by_value_is_not_sent_by_name(out: Way) -> None:
    import cloudpickle

    module = sys.modules[__name__]
    assert plain.is_plain(at_top_level, 3)
    cloudpickle.register_pickle_by_value(module)
    try:
        assert not plain.is_plain(at_top_level, 3)
        assert out.travel(at_top_level) is not at_top_level
    finally:
        cloudpickle.unregister_pickle_by_value(module)


def test_nothing_that_was_unpacked_looks_at_the_parcel(out: Way) -> None:
    for obj in (["text", b"bytes"], Plain(bytearray(b"abc")), memoryview(b"small"), [array.array("b", b"numbers")]):
        parcel = out.packer.pack(obj)
        buffer = bytearray(b"before" + parcel + b"after")
        back = out.unpacker.unpack(memoryview(buffer)[6 : 6 + len(parcel)])
        buffer[:] = bytes(len(buffer))
        buffer.clear()  # refused while anything looks at it
        assert pickle.dumps(bytes(back) if isinstance(back, memoryview) else back)[:4]
        if isinstance(back, memoryview):
            assert back == b"small"


# -- limits --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "argument",
    [
        list(range(200_000)),
        [[n, str(n)] for n in range(20_000)],
        {n: n for n in range(100_000)},
        "x" * 100_000,
        Plain(["y" * 100] * 2 + [str(n) for n in range(30_000)]),
        bytes(2 << 20),
    ],
    ids=["numbers", "rows", "dict", "text", "object", "bytes"],
)
def test_what_exceeds_the_limit_is_given_up_and_leaves_nothing(out: Way, argument: Any) -> None:
    call = (at_top_level, (argument,), {}, None)
    with pytest.raises(TooLarge):
        out.packer.pack(call, limit=LARGE)
    assert out.placed == 0
    parcel = out.packer.pack_patiently(call)
    assert out.unpacker.is_large(parcel)
    back = out.unpacker.unpack(parcel)
    assert pickle.dumps(back[1]) == pickle.dumps(call[1])
    del back
    assert out.placed == 0


def test_the_limit_stops_the_pickler_before_it_has_seen_much(out: Way) -> None:
    seen = 0

    class Counted:
        def __reduce__(self) -> Any:
            nonlocal seen
            seen += 1
            return str, ("x" * 100 + str(seen),)

    with pytest.raises(TooLarge):
        out.packer.pack(Plain([Counted() for _ in range(50_000)]), limit=LARGE)
    assert seen < 2000


def test_a_parcel_stays_small_whatever_it_is_about(out: Way) -> None:
    for obj in ([str(n) for n in range(100_000)], bytes(1 << 20), [bytes(LARGE + n) for n in range(600)]):
        for parcel in (out.packer.pack(obj), out.packer.pack_patiently(obj)):
            assert len(parcel) < 70_000
            assert out.unpacker.unpack(parcel) == obj


# -- large buffers -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("patiently", [False, True])
@pytest.mark.parametrize("size", [10, LARGE - 1, LARGE, 1 << 20])
def test_bytes_of_any_size_keep_type_content_and_identity(out: Way, size: int, patiently: bool) -> None:
    data, changeable = os.urandom(size), bytearray(os.urandom(size))
    call = (at_top_level, (data, [data, changeable], {"k": changeable}), {"deep": Plain([data])})
    _, (first, (second, third), named), kwargs = out.travel(call, patiently)
    assert type(first) is bytes
    assert type(third) is bytearray
    assert first == data
    assert third == changeable
    assert first is second is kwargs["deep"].value[0]
    assert third is named["k"]
    third.append(1)
    del first, second, third, named, kwargs
    assert out.placed == 0


def test_containers_around_large_bytes_keep_their_identity_too(out: Way) -> None:
    data = bytes(LARGE)
    inner: list[Any] = [data]
    inner.append(inner)
    back = out.travel([inner, Plain(inner)])
    assert back[0] is back[0][1] is back[1].value


@pytest.mark.parametrize(
    "view",
    [
        memoryview(b"x" * 10),
        memoryview(b"x" * LARGE),
        memoryview(bytearray(b"y" * LARGE)),
        memoryview(array.array("d", range(20_000))),
        memoryview(bytes(LARGE)).cast("B", (256, 256)),
        memoryview(b""),
    ],
    ids=["small", "read-only", "writable", "doubles", "two-dimensional", "empty"],
)
def test_a_memoryview_is_one_of_the_same_shape(out: Way, view: memoryview) -> None:
    back = out.travel(Plain(view)).value
    assert (back.format, back.shape, back.readonly) == (view.format, view.shape, view.readonly)
    assert back.tolist() == view.tolist()


def test_a_memoryview_with_gaps_is_packed_together(out: Way) -> None:
    assert out.travel(Plain(memoryview(b"a-b-c-")[::2])).value == b"abc"


@pytest.mark.parametrize("patiently", [False, True])
def test_arrays_are_views_of_shared_memory_and_writable_where_a_copy_would_be(out: Way, patiently: bool) -> None:
    numpy = pytest.importorskip("numpy")
    changeable, fixed = numpy.arange(50_000), numpy.arange(60_000)
    fixed.flags.writeable = False
    back = out.travel((at_top_level, (changeable, changeable, fixed, numpy.arange(5)), {}, None), patiently)[1]
    assert back[0] is back[1]
    assert [each.flags.writeable for each in back] == [True, True, False, True]
    assert [each.flags.owndata for each in back] == [False] * 4
    assert (back[0] == changeable).all()
    assert (back[2] == fixed).all()
    back[0][:] = 0
    assert changeable[1] == 1
    assert out.placed == 1
    part = back[2][5:7]
    del back
    assert out.placed == 1
    del part
    assert out.placed == 0


def test_very_many_buffers_have_a_table_of_their_own(out: Way) -> None:
    numpy = pytest.importorskip("numpy")
    sent = [numpy.full(9000, n) for n in range(300)]
    parcel = out.packer.pack([*sent, bytes(LARGE)])
    assert len(parcel) < 30_000
    *back, data = out.unpacker.unpack(parcel)
    assert [int(each[8999]) for each in back] == list(range(300))
    assert data == bytes(LARGE)


def test_other_makers_of_buffers_travel_out_of_band_too(out: Way) -> None:
    data = bytearray(os.urandom(LARGE))
    parcel = out.packer.pack(Plain(pickle.PickleBuffer(data)))
    assert len(parcel) < 1000
    assert bytes(out.unpacker.unpack(parcel).value) == data


def test_without_shared_memory_everything_goes_through_the_socket(out: Way, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(name: str, size: int) -> int:
        raise OSError(24, "too many open files")

    monkeypatch.setattr(blocks, "anonymous_file", refuse)
    for obj in (bytes(1 << 20), [str(n) for n in range(50_000)], Plain(pickle.PickleBuffer(bytearray(LARGE)))):
        for pack in (out.packer.pack, out.packer.pack_patiently):
            parcel = pack(obj)
            assert out.unpacker.is_large(parcel)
            for unpack in (out.unpacker.unpack, out.unpacker.unpack_patiently):
                assert pickle.dumps(unpack(parcel), 5) == pickle.dumps(obj, 5)
    assert not out.sent


def test_a_parcel_for_somebody_who_is_gone_is_refused(out: Way) -> None:
    out.store.close()
    for obj in (bytes(LARGE), [str(n) for n in range(50_000)]):
        with pytest.raises(pickle.PicklingError, match="has ended"):
            out.packer.pack(obj)
    assert out.packer.pack(5)


@pytest.mark.parametrize("obj", [bytes(LARGE), [str(n) for n in range(50_000)], array.array("d", range(20_000))])
def test_parcels_that_are_thrown_away_take_no_memory(out: Way, obj: Any) -> None:
    parcel = out.packer.pack_patiently([obj, bytes(LARGE)])
    assert out.placed
    out.packer.discard(parcel)
    assert out.placed == 0
    out.unpacker.discard(out.packer.pack_patiently([obj, bytes(LARGE)]))
    assert out.placed == 0
    out.packer.discard(out.packer.pack(5))
    out.unpacker.discard(out.packer.pack(5))


def test_what_was_found_large_can_be_unpacked_after_its_sender_has_ended(out: Way) -> None:
    sent = [bytes(2 << 20), [str(n) for n in range(50_000)], bytearray(LARGE)]
    parcel = out.packer.pack_patiently(sent)
    assert out.unpacker.is_large(parcel)
    out.close()
    assert out.unpacker.unpack_patiently(parcel) == sent
    with pytest.raises(pickle.UnpicklingError, match="has ended"):
        out.unpacker.unpack_patiently(parcel)


def test_nothing_is_left_to_the_garbage_collector(out: Way) -> None:
    """Python 3.11 crashes when it has to collect a view of memory, and what is kept longer than needed is a leak."""
    gc.collect()
    gc.disable()
    try:
        for obj in (memoryview(bytes(LARGE)), [bytes(1 << 20), [str(n) for n in range(50_000)]], Plain(array.array("b"))):
            out.travel([obj])
            with pytest.raises(TooLarge):
                out.packer.pack([obj, bytes(2 << 20)], limit=LARGE)
            with pytest.raises(pickle.PicklingError):
                out.packer.pack([obj, threading.Lock()])
        assert out.placed == 0
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        assert not [each for each in gc.garbage if isinstance(each, (memoryview, pickle.PickleBuffer, pickle.Pickler))]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()


# -- patience ------------------------------------------------------------------------------------------------------------


def test_others_are_let_in_at_each_piece(out: Way, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[str] = []
    monkeypatch.setattr(patience, "pause", lambda: pauses.append(threading.current_thread().name))
    sent = [str(n) for n in range(200_000)]
    parcel = out.packer.pack_patiently(sent)
    packing = len(pauses)
    assert out.unpacker.unpack_patiently(parcel) == sent
    size = len(pickle.dumps(sent))
    assert packing >= size // (1 << 17)
    assert len(pauses) - packing >= size // (1 << 17)


def test_the_garbage_collector_is_kept_out_meanwhile_and_let_in_again(out: Way) -> None:
    class Asked:
        def __reduce__(self) -> Any:
            return gc.isenabled, ()

    sent = [[str(n) for n in range(50_000)], Asked()]
    seen: list[bool] = []

    class Packed:
        def __reduce__(self) -> Any:
            seen.append(gc.isenabled())
            return int, ()

    assert gc.isenabled()
    assert out.unpacker.unpack_patiently(out.packer.pack_patiently([*sent, Packed()]))[1] is False
    assert seen == [False]
    assert gc.isenabled()
    with patience.collector_paused:
        with patience.collector_paused:
            pass
        assert not gc.isenabled()
    assert gc.isenabled()
    with pytest.raises(pickle.PicklingError):
        out.packer.pack_patiently(threading.Lock())
    assert gc.isenabled()


def test_a_collector_that_was_off_stays_off(out: Way) -> None:
    gc.disable()
    try:
        out.travel([str(n) for n in range(50_000)], patiently=True)
        assert not gc.isenabled()
    finally:
        gc.enable()


# -- functions and classes -----------------------------------------------------------------------------------------------


def test_lambdas_and_closures_travel_by_value_and_come_back_as_themselves(out: Way, home: Way) -> None:
    held = [1]
    for fn in (lambda x: x + held[0], lambda: held):
        copy = out.travel(fn)
        assert copy is not fn
        assert home.travel(copy) is fn
        assert home.travel(Plain([copy])).value[0] is fn
    assert out.travel(lambda x: x + held[0])(2) == 3


def test_a_function_whose_original_is_gone_comes_back_by_value(out: Way, home: Way) -> None:
    fn = lambda x: x * 7  # noqa: E731
    copy = out.travel(fn)
    del fn
    gc.collect()
    assert home.travel(copy)(6) == 42


def test_a_function_whose_original_is_gone_and_too_large_to_come_back_says_so(out: Way, home: Way) -> None:
    held = [os.urandom(100) for _ in range(1000)]
    fn = lambda: held  # noqa: E731
    copy = out.travel(fn)
    assert home.travel(copy) is fn
    del fn
    gc.collect()
    with pytest.raises(pickle.UnpicklingError, match="Keep a reference to it"):
        home.travel(copy)


def test_functions_and_classes_of_main_are_found_again_by_either_side(
    out: Way, home: Way, main: types.ModuleType
) -> None:
    for name in ("note", "Point", "double"):
        original = getattr(main, name)
        copy = out.travel(original)
        assert copy is not original or name == "Point"  # cloudpickle itself knows classes again in one process
        assert home.travel(copy) is original
    point = home.travel(out.travel(main.Point(3)))
    assert type(point) is main.Point
    assert point.x == 3
    assert home.travel(out.travel(main.Point.Inner)) is main.Point.Inner


def test_what_was_made_in_the_worker_under_a_name_of_main_is_the_one_of_main(home: Way, main: types.ModuleType) -> None:
    made: dict[str, Any] = {"__name__": "__main__"}
    exec("def note(x): pass\nclass Point: pass\ndef unknown(x): return x + 1", made)
    assert home.travel(made["note"]) is main.note
    assert home.travel(made["Point"]) is main.Point
    assert home.travel(made["unknown"])(1) == 2


def test_a_redefined_function_of_main_is_found_by_its_name(out: Way, home: Way, main: types.ModuleType) -> None:
    copy = out.travel(main.note)
    exec("def note(x): pass", main.__dict__)
    gc.collect()
    assert home.travel(copy) is main.note


def test_a_function_made_in_the_worker_has_the_parents_globals_at_home(
    out: Way, home: Way, main: types.ModuleType
) -> None:
    """So what it appends to is the parent's list, not a copy that is lost."""
    inner = out.travel(main.outer)()
    back = home.travel(inner)
    assert back is not inner
    assert back(5) is main.calls
    assert main.calls == [5]
    assert "__bridge_home__" not in main.__dict__
    builtins = main.__dict__["__builtins__"]
    assert builtins is main.__dict__["__builtins__"]


def test_a_nested_function_of_a_module_has_that_modules_globals_at_home(home: Way) -> None:
    def nested() -> Any:
        return declared

    back = home.travel(nested)
    assert back is not nested
    assert back.__globals__ is globals()
    assert back() is declared


def test_closures_over_each_other_travel_home(home: Way) -> None:
    def even(n: int) -> bool:
        return n == 0 or odd(n - 1)

    def odd(n: int) -> bool:
        return n != 0 and even(n - 1)

    assert home.travel(even)(10)


def test_a_function_beneath_a_decorator_goes_by_name(out: Way, home: Way) -> None:
    inner = beneath_a_decorator.__wrapped__  # type: ignore[attr-defined]
    for way in (out, home):
        assert way.travel(inner) is inner
        assert way.travel((inner, (1,), {}, None))[0] is inner


def test_a_function_that_replaced_another_under_its_name_does_not_go_by_that(out: Way) -> None:
    copy = out.travel(_wrapping)  # named at_top_level, which leads to another function
    assert copy is not at_top_level
    assert copy(1) == 2


def test_objects_in_the_same_parcel_share_functions_and_globals(out: Way, main: types.ModuleType) -> None:
    one, two, same = out.travel([main.note, main.outer, main.note])
    assert one is same
    assert one.__globals__ is two.__globals__


def test_tokens_keep_nothing_alive_and_are_good_for_one_object_only() -> None:
    registry = originals.Originals()
    fn = lambda: 1  # noqa: E731
    token = registry.token_of(fn)
    assert registry.token_of(fn) == token
    assert registry.get(token) is fn
    assert registry.token_of(lambda: 2) != token
    del fn
    gc.collect()
    assert registry.get(token) is None
    assert originals.Originals().get(token) is None


def test_context_variables_are_found_by_name(out: Way) -> None:
    def use() -> Any:
        return declared

    assert out.travel(use)() is declared
    with pytest.raises(pickle.PicklingError, match="attribute of no module"):
        out.packer.pack(contextvars.ContextVar("lost"))


# -- coroutines, generators, contexts, portals ---------------------------------------------------------------------------


def test_a_coroutine_that_has_not_begun_travels_home_as_its_call(home: Way) -> None:
    coro = add(1, 3, 4, 5, key=6, more=7)
    back = home.travel(coro)
    coro.close()
    assert back.cr_code is add.__code__
    assert asyncio.run(back) == (1, 3, (4, 5), 6, {"more": 7})


def test_a_coroutine_of_a_closure_travels_with_what_it_closes_over(home: Way) -> None:
    factor = 3

    async def times(x: int) -> int:
        return factor * x

    coro = times(5)
    back = home.travel(coro)
    coro.close()
    assert asyncio.run(back) == 15


def test_a_coroutine_of_the_parents_own_function_is_made_by_that(out: Way, home: Way, main: types.ModuleType) -> None:
    coro = out.travel(main.double)(1, key=2)
    back = home.travel(coro)
    coro.close()
    assert back.cr_code is main.double.__code__
    assert asyncio.run(back) == (1, 2, (), 2, {})


def test_a_coroutine_of_a_method_takes_its_object_along(home: Way) -> None:
    coro = Asynchronous(4).get(5)
    back = home.travel(coro)
    coro.close()
    assert asyncio.run(back) == (4, 5)


class Asynchronous:
    def __init__(self, value: int):
        self.value = value

    async def get(self, x: int) -> tuple[int, int]:
        return self.value, x


def test_a_coroutine_that_has_begun_stays(home: Way) -> None:
    coro = add(1, key=2)
    coro.send(None)
    with pytest.raises(pickle.PicklingError, match=r"coroutine add, which has been started already"):
        home.packer.pack(coro)
    coro.close()
    with pytest.raises(pickle.PicklingError, match="started already"):
        home.packer.pack(coro)


def test_a_coroutine_does_not_travel_out_and_the_message_says_what_does(out: Way) -> None:
    coro = add(1, key=2)
    with pytest.raises(pickle.PicklingError, match=r"args\[0\]: cannot pickle the coroutine add .* executor\.run\(add"):
        out.packer.pack((at_top_level, (coro,), {}, None))
    coro.close()


def test_an_async_generator_that_has_not_begun_travels_home_as_its_call(home: Way) -> None:
    async def collect(items: Any) -> list[int]:
        return [item async for item in items]

    assert asyncio.run(collect(home.travel(count_to(3)))) == [0, 1, 2]


def test_an_async_generator_that_has_begun_stays(home: Way) -> None:
    async def begin() -> None:
        numbers = count_to(3)
        await anext(numbers)
        with pytest.raises(pickle.PicklingError, match="async generator count_to, which has been started already"):
            home.packer.pack(numbers)
        await numbers.aclose()  # type: ignore[attr-defined]
        with pytest.raises(pickle.PicklingError, match="started already"):
            home.packer.pack(numbers)

    asyncio.run(begin())


def test_an_async_generator_of_the_parent_travels_out_as_a_handle_and_comes_home_as_itself(
    out: Way, home: Way, monkeypatch: pytest.MonkeyPatch
) -> None:
    numbers = count_to(3)
    with in_another_process(monkeypatch):
        handle = out.travel((at_top_level, (numbers,), {}, None))[1][0]
    assert isinstance(handle, ParentIterable)
    assert "async_generator in the parent process" in repr(handle)
    with pytest.raises(TypeError, match=r"bridge\.portal\(\)\.iterate"):
        aiter(handle)
    assert home.travel([handle])[0] is numbers
    del numbers
    gc.collect()
    with pytest.raises(pickle.UnpicklingError, match="keep a reference to it"):
        home.travel(handle)


@contextlib.contextmanager
def in_another_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Where the originals are not."""
    with monkeypatch.context() as patch:
        patch.setattr(originals.Originals, "are_here", lambda self, token: False)
        yield


class Stream:
    """An async iterable that cannot be pickled, or can."""

    def __init__(self, inside: Any):
        self.inside = inside

    def __aiter__(self) -> AsyncIterator[int]:
        return count_to(2)


def test_another_async_iterable_is_a_handle_if_it_cannot_be_pickled_and_a_copy_if_it_can(
    out: Way, home: Way, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = Stream(threading.Lock())
    with in_another_process(monkeypatch):
        handle = out.travel((at_top_level, (1,), {"stream": stream}, None))[2]["stream"]
    assert isinstance(handle, ParentIterable)
    assert home.travel(handle) is stream
    copy = out.travel((at_top_level, (Stream(5), stream), {}, None))[1][0]
    assert type(copy) is Stream
    assert copy.inside == 5


def test_a_context_manager_that_was_not_entered_travels_as_its_call(out: Way, home: Way, main: types.ModuleType) -> None:
    async def value_of(context: Any) -> Any:
        async with context as value:
            return value

    assert asyncio.run(value_of(home.travel(entered(7)))) == 7
    assert asyncio.run(value_of(home.travel(out.travel(main.entered)(8)))) == 8


def test_a_context_manager_that_was_entered_stays(home: Way) -> None:
    async def enter() -> None:
        context = entered(7)
        async with context:
            with pytest.raises(pickle.PicklingError, match=r"entered\(\.\.\.\), which has been entered already"):
                home.packer.pack(context)

    asyncio.run(enter())


def test_a_portal_becomes_the_workers_own(out: Way, monkeypatch: pytest.MonkeyPatch) -> None:
    from bridge.executors.process.worker import portal

    monkeypatch.setattr(portal, "portal_here", lambda: "the portal here")
    with bridge.background_loop() as way_in:
        assert out.travel((at_top_level, (way_in,), {"deep": Plain(way_in)}, None))[1] == ("the portal here",)


# -- failures ------------------------------------------------------------------------------------------------------------


class Slotted:
    __slots__ = ("lock",)

    def __init__(self) -> None:
        self.lock = threading.Lock()

    def __reduce__(self) -> Any:
        return Slotted, (), (None, {"lock": self.lock})


class Raises:
    def __init__(self, error: BaseException):
        self._error = error

    def __reduce__(self) -> Any:
        raise self._error


def _closing_over(value: Any) -> Callable[[], Any]:
    return lambda: value


LOCK = r": cannot pickle '_thread.lock' object"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ((len, ({"db": Plain(threading.Lock())},), {}, None), r"args\[0\]\['db'\]\.value" + LOCK),
        ((len, (1, [2, (threading.Lock(),)]), {}, None), r"args\[1\]\[1\]\[0\]" + LOCK),
        ((len, (), {"key": {1: threading.Lock()}}, None), r"kwargs\['key'\]\[1\]" + LOCK),
        ((len, (Slotted(),), {}, None), r"args\[0\]\.lock" + LOCK),
        ((len, ({(1, threading.Lock())},), {}, None), r"args\[0\]\{\.\.\.\}\[1\]" + LOCK),
        ((_closing_over(threading.Lock()), (), {}, None), r"fn \(its variable 'value'\)" + LOCK),
        ((functools.partial(len, threading.Lock()), (), {}, None), r"fn\.args\[0\]" + LOCK),
        ((Plain(threading.Lock()).__init__, (), {}, None), r"fn\.__self__\.value" + LOCK),
        ({"rows": [1, threading.Lock()]}, r"value\['rows'\]\[1\]" + LOCK),
        (threading.Lock(), r"value" + LOCK),
        ((n for n in ()), r"value: cannot pickle 'generator' object"),
        ((len, (Raises(KeyError("here")),), {}, None), r"args\[0\]: pickling it raised KeyError: 'here'"),
        (
            (len, (Plain(Raises(MemoryError())),), {}, None),
            r"args\[0\]\.value: MemoryError",
        ),
        (ValueError(threading.Lock()), r"error.*" + LOCK),
    ],
    ids=lambda each: each[:40] if isinstance(each, str) else "",
)
def test_the_part_that_cannot_be_pickled_is_named(out: Way, call: Any, message: str) -> None:
    for pack in (out.packer.pack, out.packer.pack_patiently):
        with pytest.raises(pickle.PicklingError, match=f"^cannot pickle {message}$") as caught:
            pack(call)
        assert caught.value.__cause__ is not None
    assert out.placed == 0
    assert out.travel(5) == 5


@pytest.mark.parametrize(
    ("more", "path"),
    [
        ({"lock": threading.Lock()}, r"args\[1\]\['lock'\]"),
        ({"deep": [[threading.Lock()]]}, r"args\[1\]\['deep'\]\[0\]\[0\]"),
    ],
    ids=["beside", "deeper"],
)
def test_it_is_named_beside_what_is_too_long_to_be_tried(out: Way, more: dict[str, Any], path: str) -> None:
    rows = [str(number) for number in range(600_000)]
    with pytest.raises(pickle.PicklingError, match=f"^cannot pickle {path}{LOCK}$"):
        out.packer.pack_patiently((len, ("table", {"rows": rows, **more}), {}, None))
    with pytest.raises(pickle.PicklingError, match=f"^cannot pickle {path[:9]}.*{LOCK}$"):
        out.packer.pack_patiently((len, ("table", [*rows, more]), {}, None))


def test_a_connection_is_named_as_what_it_is(out: Way) -> None:
    connection = sqlite3.connect(":memory:")
    with pytest.raises(pickle.PicklingError, match=r"args\[0\]\['db'\]\.value: cannot pickle 'sqlite3\.Connection'"):
        out.packer.pack((len, ({"db": Plain(connection)},), {}, None))
    connection.close()


def test_what_is_nested_too_deeply_is_an_error_and_no_more(out: Way) -> None:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(pickle.PicklingError, match="nested too deeply"):
        out.packer.pack((len, (deep,), {}, None))
    while deep:
        deep = deep[0]
    assert out.travel(5) == 5


def test_cycles_around_the_culprit_end_the_search(out: Way) -> None:
    knot = Plain([])
    knot.value += [knot, {"again": knot}, threading.Lock()]
    with pytest.raises(pickle.PicklingError, match=r"args\[0\]\.value\[2\]" + LOCK):
        out.packer.pack((len, (knot,), {}, None))


def test_the_search_ends_in_time_and_names_what_it_has_found(out: Way, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(culprit, "perf_counter", iter(range(10_000)).__next__)
    with pytest.raises(pickle.PicklingError, match=r"_thread\.lock"):
        out.packer.pack((len, ([1.5j, [threading.Lock()]],), {}, None))


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
def test_what_is_no_error_of_the_object_passes_through(out: Way, kind: type[BaseException]) -> None:
    with pytest.raises(kind):
        out.packer.pack([bytes(LARGE), Raises(kind())])
    assert out.placed == 0
    assert out.travel([1, Plain(2)])[0] == 1


class Unbuildable:
    def __reduce__(self) -> Any:
        return _rebuild, (1,)


def _rebuild(x: int) -> None:
    raise ValueError("no such thing")


@pytest.mark.parametrize("patiently", [False, True])
@pytest.mark.parametrize("beside", [1, bytes(LARGE), memoryview(bytearray(LARGE)), [str(n) for n in range(50_000)]])
def test_what_cannot_be_rebuilt_is_named_and_its_memory_released(out: Way, beside: Any, patiently: bool) -> None:
    with pytest.raises(
        pickle.UnpicklingError, match=r"_rebuild makes.*in the worker.*ValueError: no such thing"
    ) as caught:
        out.travel([beside, Unbuildable()], patiently)
    assert isinstance(caught.value.__cause__, ValueError)
    assert out.placed == 0
    assert out.travel(5) == 5


def test_a_module_that_is_missing_is_named_with_what_to_do(out: Way) -> None:
    module = types.ModuleType("only_here")
    exec("class Thing: pass", module.__dict__)
    sys.modules["only_here"] = module
    try:
        parcel = out.packer.pack(module.Thing())
    finally:
        del sys.modules["only_here"]
    with pytest.raises(pickle.UnpicklingError, match=r"only_here.*register_pickle_by_value\(only_here\)"):
        out.unpacker.unpack(parcel)


def test_a_name_that_is_missing_is_named(home: Way, monkeypatch: pytest.MonkeyPatch) -> None:
    parcel = home.packer.pack(Plain(1))
    monkeypatch.delattr(sys.modules[__name__], "Plain")
    with pytest.raises(pickle.UnpicklingError, match=r"in the parent process: .*'Plain'.* may have been defined"):
        home.unpacker.unpack(parcel)


# -- threads, and pickling within pickling -------------------------------------------------------------------------------


def test_a_reduce_that_packs_something_itself(out: Way) -> None:
    class Nested:
        def __reduce__(self) -> Any:
            return bytes, (out.packer.pack([Plain(2), bytes(LARGE)]),)

    inner = out.travel([Nested()])[0]
    assert out.unpacker.unpack(inner)[0].value == 2


def test_threads_share_a_packer(out: Way) -> None:
    wrong: list[Any] = []

    def work(seed: int) -> None:
        try:
            for n in range(40):
                sent = [Plain((seed, n)), bytes([seed]) * (LARGE - 20 + n), [str(m) for m in range(n * 500)]]
                back = out.travel(sent, patiently=bool(n % 2))
                if (back[0].value, back[1:]) != ((seed, n), sent[1:]):
                    wrong.append((seed, n))
        except BaseException as error:
            wrong.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    assert not wrong
    assert out.placed == 0

"""Shared blocks: what is placed arrives, is used again only when nobody looks, and leaves nothing behind."""

from __future__ import annotations

import gc
import os
import signal
import socket
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bridge.executors.process.wire import blocks, mappings, memory
from bridge.executors.process.wire.blocks import BlockStore, Mappings
from tests.conftest import PATIENCE, within

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX")
linux_only = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks into /proc")

MB = 1 << 20


class Pair:
    """A sender and a receiver, in one process; what is said between them waits to be passed on."""

    def __init__(self, **options: Any):
        self.sent: deque[tuple[int, bytes]] = deque()
        self.released: deque[int] = deque()
        self.lost: deque[int] = deque()
        self.descriptors_sent = 0
        self.store = BlockStore(self._send, **options)
        self.mappings = Mappings(self._receive, self.released.append, self.lost.append)

    def _send(self, descriptor: int, message: bytes) -> None:
        self.descriptors_sent += 1
        self.sent.append((os.dup(descriptor), message))

    def _receive(self) -> tuple[int, bytes]:
        return self.sent.popleft()

    def across(self, *contents: bytes) -> tuple[int, list[memoryview]]:
        """Place contents; the number of their block, and what the receiver sees."""
        number, slices = self.store.place([memoryview(content) for content in contents])
        return number, [memoryview(view).cast("B") for view in self.mappings.views(number, slices)]

    def pass_on(self) -> list[int]:
        """The RELEASE frames, then the FORGET frames; the numbers in the latter."""
        while self.released:
            self.store.release(self.released.popleft())
        forgotten = self.store.take_forgotten()
        for number in forgotten:
            self.mappings.forget(number)
        return forgotten

    def close(self) -> None:
        self.store.close()
        self.mappings.close()
        while self.sent:
            os.close(self.sent.popleft()[0])


@pytest.fixture
def pair() -> Iterator[Pair]:
    pair = Pair()
    yield pair
    pair.close()


_held = {"bytes": 0, "blocks": 0}


@pytest.fixture(autouse=True)
def nothing_of_others() -> None:
    """These tests count what is mapped and open: not what earlier tests still hold."""
    gc.collect()
    _held.update(bytes=0, blocks=0)
    _held.update(bytes=shared_bytes(), blocks=open_blocks())


def shared_bytes() -> int:
    """Of blocks that are mapped into this process."""
    total = 0
    for line in Path("/proc/self/maps").read_text().splitlines():
        if "bridge-block" in line:
            begin, end = (int(part, 16) for part in line.split()[0].split("-"))
            total += end - begin
    return total - _held["bytes"]


def open_blocks() -> int:
    """Descriptors of blocks in this process."""
    count = 0
    for entry in os.listdir("/proc/self/fd"):
        try:
            count += "bridge-block" in os.readlink(f"/proc/self/fd/{entry}")
        except FileNotFoundError:  # the one that listed the folder
            pass
    return count - _held["blocks"]


# -- there ---------------------------------------------------------------------------------------------------------------


def test_several_buffers_arrive_in_one_block_each_at_a_multiple_of_64(pair: Pair) -> None:
    contents = [os.urandom(100_000), os.urandom(65_537), os.urandom(70_000)]
    number, slices = pair.store.place([memoryview(content) for content in contents])
    assert [length for _, length in slices] == [100_000, 65_537, 70_000]
    assert all(offset % 64 == 0 for offset, _ in slices)
    assert [bytes(view) for view in pair.mappings.views(number, slices)] == contents


def test_views_are_writable_and_the_senders_buffer_is_not_changed(pair: Pair) -> None:
    content = bytearray(b"a" * 100_000)
    _, (view,) = pair.across(content)
    view[:3] = b"xyz"
    assert view[:4] == b"xyza"
    assert content[:4] == b"aaaa"


@pytest.mark.parametrize("kind", [bytes, bytearray, lambda b: memoryview(b)[1:], lambda b: memoryview(bytearray(b))[5:]])
def test_a_block_that_is_used_again_shows_the_new_content(pair: Pair, kind: Any) -> None:
    for fill in b"abcd":
        content = kind(bytes([fill]) * 200_000)
        _, (view,) = pair.across(content)
        assert view == content
        del view
        pair.pass_on()
    assert pair.descriptors_sent == 1


def test_a_larger_content_than_before_in_the_same_block(pair: Pair) -> None:
    numbers = []
    for size in (66_000, 100_000, 90_000, 131_072):
        content = os.urandom(size)
        number, (view,) = pair.across(content)
        assert view == content
        numbers.append(number)
        del view
        pair.pass_on()
    assert len(set(numbers)) == 1


# -- used again, or not --------------------------------------------------------------------------------------------------


def test_a_block_is_released_with_its_last_view_and_not_before(pair: Pair) -> None:
    number, views = pair.across(bytes(70_000), bytes(70_000))
    part = views[1][10:20]
    del views[0]
    views.clear()
    assert not pair.released
    del part
    assert list(pair.released) == [number]


def test_an_array_made_of_an_array_keeps_the_block(pair: Pair) -> None:
    numpy = pytest.importorskip("numpy")
    number, slices = pair.store.place([memoryview(bytes(range(256)) * 400)])
    (view,) = pair.mappings.views(number, slices)
    column = numpy.frombuffer(view, dtype="u1").reshape(400, 256)[::7, 5]
    del view
    other, _ = pair.across(bytes(100_000))
    assert other != number
    assert column.tolist() == [5] * len(column)
    del column
    assert number in pair.released


def test_views_in_a_garbage_cycle_are_released_by_the_collector(pair: Pair) -> None:
    class Holder:
        pass

    number, views = pair.across(bytes(70_000))
    holder = Holder()
    holder.views, holder.self = views, holder  # type: ignore[attr-defined]
    del views
    gc.disable()
    try:
        del holder
        assert not pair.released
    finally:
        gc.enable()
    gc.collect()
    assert list(pair.released) == [number]


def test_a_small_content_does_not_hold_on_to_a_large_block(pair: Pair) -> None:
    large, views = pair.across(bytes(8 * MB))
    views.clear()
    pair.pass_on()
    small, views = pair.across(bytes(70_000))
    assert small != large
    again, _ = pair.across(bytes(7 * MB))
    assert again == large


def test_sizes_are_rounded_so_that_nearly_equal_contents_share_a_block() -> None:
    assert blocks.rounded(1) == blocks.rounded(100_000)
    assert blocks.rounded(64 * MB) == 64 * MB
    for size in (200_001, 3 * MB + 1, 65 * MB):
        assert size <= blocks.rounded(size) <= size * 9 // 8 + 131_072


def test_releasing_what_is_unknown_or_twice_changes_nothing(pair: Pair) -> None:
    number, views = pair.across(bytes(70_000))
    views.clear()
    pair.pass_on()
    pair.store.release(number)
    pair.store.release(4711)
    first, one = pair.across(bytes(70_000))
    second, other = pair.across(bytes(70_000))
    assert first == number != second
    del one, other


def test_what_was_placed_and_not_sent_is_free_again(pair: Pair) -> None:
    number, _ = pair.store.place([memoryview(bytes(70_000))])
    pair.store.discard([number])
    again, (view,) = pair.across(b"x" * 70_000)
    assert again == number
    assert view == b"x" * 70_000


def test_what_was_received_and_is_not_wanted_is_released(pair: Pair) -> None:
    number, _ = pair.store.place([memoryview(bytes(70_000))])
    pair.mappings.discard(number)
    assert list(pair.released) == [number]


# -- memory is given back ------------------------------------------------------------------------------------------------


@linux_only
def test_more_than_may_lie_free_is_dropped_and_unmapped_on_both_sides() -> None:
    pair = Pair(keep=5 * MB)
    held = [pair.across(bytes(2 * MB)) for _ in range(4)]
    numbers = [number for number, _ in held]
    while held:
        del held[0]
    assert pair.pass_on() == numbers[:2]
    assert open_blocks() == 4  # two blocks, a descriptor on each side
    assert pair.store.trim() == numbers[:1:-1]
    for number in numbers[2:]:
        pair.mappings.forget(number)
    assert (open_blocks(), shared_bytes()) == (0, 0)
    pair.close()


@linux_only
def test_a_view_survives_that_its_block_is_forgotten(pair: Pair) -> None:
    number, (view,) = pair.across(b"y" * 70_000)
    pair.mappings.forget(number)
    assert bytes(view[-3:]) == b"yyy"
    assert shared_bytes()
    del view
    assert not shared_bytes()
    assert not pair.released


@linux_only
def test_a_block_that_is_forgotten_before_it_came_is_closed_when_it_comes(pair: Pair) -> None:
    first, _ = pair.store.place([memoryview(bytes(70_000))])
    pair.store.discard([first])
    assert pair.store.trim() == [first]
    pair.mappings.forget(first)
    assert open_blocks() == 1  # still on its way
    _, (view,) = pair.across(b"z" * 70_000)
    assert open_blocks() == 2
    assert view[0] == ord("z")


@linux_only
def test_far_too_many_blocks_are_given_away_and_cost_no_descriptor(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "MOST_OUT", 2)
    held = [pair.across(bytes([n]) * 70_000)[1] for n in range(10)]
    assert [view[0][0] for view in held] == list(range(10))
    assert open_blocks() == 4
    held.clear()
    assert len(pair.released) == 2
    pair.pass_on()
    assert len(pair.store.trim()) == 2
    pair.mappings.close()
    assert (open_blocks(), shared_bytes()) == (0, 0)


@linux_only
def test_a_block_that_was_given_away_and_never_sent_is_closed_by_its_receiver(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocks, "MOST_OUT", 0)
    number, _ = pair.store.place([memoryview(bytes(70_000))])
    pair.store.discard([number])
    assert pair.pass_on() == [number]
    pair.across(bytes(70_000))
    gc.collect()
    assert (open_blocks(), shared_bytes()) == (0, 0)


@pytest.mark.parametrize("why", ["too many", "refused"])
def test_what_cannot_be_mapped_is_copied(pair: Pair, monkeypatch: pytest.MonkeyPatch, why: str) -> None:
    def refuse(*_: object) -> int:
        raise OSError(12, "no")

    if why == "too many":
        monkeypatch.setattr(mappings, "MOST_MAPPED", 0)
    else:
        monkeypatch.setattr(memory, "map_shared", refuse)
    for fill in b"pq":
        number, (view,) = pair.across(bytes([fill]) * 70_000)
        assert bytes(view) == bytes([fill]) * 70_000
        view[0] = 1
        assert list(pair.released) == [number]
        pair.pass_on()
    assert pair.descriptors_sent == 1


# -- streams -------------------------------------------------------------------------------------------------------------


def stream(pair: Pair, *pieces: bytes) -> tuple[int, int]:
    writer = pair.store.stream()
    for piece in pieces:
        writer.write(piece)
    return writer.finish(), writer.size


def test_a_stream_of_unknown_size_arrives_whole(pair: Pair) -> None:
    pieces = [os.urandom(65_536) for _ in range(20)]
    number, size = stream(pair, *pieces)
    (view,) = pair.mappings.views(number, [(0, size)])
    assert bytes(view) == b"".join(pieces)


def test_a_stream_that_outgrows_its_block_is_a_new_block(pair: Pair) -> None:
    first, size = stream(pair, b"a" * 100_000)
    pair.mappings.views(first, [(0, size)])
    pair.pass_on()
    same, size = stream(pair, b"b" * 100_000)
    assert same == first
    pair.mappings.views(same, [(0, size)])
    pair.pass_on()
    larger, size = stream(pair, b"c" * 100_000, b"d" * MB)
    assert larger != first
    assert pair.pass_on() == [first]
    (view,) = pair.mappings.views(larger, [(0, size)])
    assert bytes(view) == b"c" * 100_000 + b"d" * MB


@pytest.mark.parametrize("size", [10, MB])
def test_a_stream_that_is_abandoned_leaves_nothing(pair: Pair, size: int) -> None:
    first, length = stream(pair, b"a" * 100_000)
    pair.mappings.views(first, [(0, length)])
    pair.pass_on()
    writer = pair.store.stream()
    writer.write(bytes(size))
    writer.abandon()
    again, length = stream(pair, b"e" * 90_000)
    assert again == first
    (view,) = pair.mappings.views(again, [(0, length)])
    assert bytes(view) == b"e" * 90_000


# -- order, threads ------------------------------------------------------------------------------------------------------


def test_descriptors_may_come_in_another_order_than_what_speaks_of_them(pair: Pair) -> None:
    placed = [pair.store.place([memoryview(bytes([n]) * 70_000)]) for n in range(5)]
    seen = [pair.mappings.views(*placed[n])[0] for n in (3, 0, 4, 2, 1)]
    assert [bytes(view[:1])[0] for view in seen] == [3, 0, 4, 2, 1]


def test_many_threads_share_one_store_and_mix_nothing_up(pair: Pair) -> None:
    wrong: list[object] = []

    def work(seed: int) -> None:
        try:
            for n in range(30):
                content = bytes([seed, n]) * (40_000 + 7000 * (n % 5))
                _, (view,) = pair.across(content)
                if view != content:
                    wrong.append((seed, n))
                del view
                pair.pass_on()
        except BaseException as error:
            wrong.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        within(thread)
    assert not wrong


# -- ends ----------------------------------------------------------------------------------------------------------------


def test_a_closed_store_takes_nothing(pair: Pair) -> None:
    pair.store.close()
    with pytest.raises(BrokenPipeError):
        pair.store.place([memoryview(bytes(70_000))])
    with pytest.raises(BrokenPipeError):
        pair.store.stream()


@linux_only
def test_a_store_that_is_closed_in_the_middle_of_a_stream_keeps_its_file_open_until_then(pair: Pair) -> None:
    """Its number must not be taken over by somebody else's file while it is written to."""
    writer = pair.store.stream()
    writer.write(bytes(70_000))
    pair.store.close()
    assert open_blocks() == 1
    writer.write(bytes(70_000))
    with pytest.raises(BrokenPipeError):
        writer.finish()
    while pair.sent:
        os.close(pair.sent.popleft()[0])
    assert open_blocks() == 0


def test_a_receiver_that_is_gone_is_no_error_of_the_sender() -> None:
    near, far = socket.socketpair()
    store = BlockStore(lambda descriptor, message: socket.send_fds(near, [message], [descriptor]) and None)
    far.close()
    store.place([memoryview(bytes(70_000))])
    store.close()
    near.close()


@linux_only
def test_views_outlive_a_collection_when_all_is_closed_and_are_unmapped_in_the_end(pair: Pair) -> None:
    _, views = pair.across(bytes(70_000))
    pair.close()
    pair.mappings = Mappings(pair._receive, pair.released.append, pair.lost.append)
    gc.collect()
    assert shared_bytes() > 0
    assert bytes(views[0]) == bytes(70_000)
    del views
    assert shared_bytes() == 0


@linux_only
def test_views_outlive_that_all_is_closed_and_are_unmapped_in_the_end(pair: Pair) -> None:
    _, (view,) = pair.across(b"w" * 70_000)
    pair.close()
    assert open_blocks() == 0
    view[1:3] = b"ab"
    assert bytes(view[:4]) == b"wabw"
    del view
    assert shared_bytes() == 0
    assert not pair.released


@linux_only
def test_what_is_expected_can_still_be_seen_after_the_end_and_nothing_else_can(pair: Pair) -> None:
    placed = [pair.store.place([memoryview(bytes([n]) * 70_000)]) for n in (1, 2)]
    pair.mappings.expect(placed[0][0])
    pair.mappings.expect(placed[0][0])
    pair.close()
    with pytest.raises(ConnectionError, match="has ended"):
        pair.mappings.views(*placed[1])
    assert pair.mappings.read(placed[0][0], 0, 2) == b"\1\1"
    (view,) = pair.mappings.views(*placed[0])
    assert bytes(view[:2]) == b"\1\1"
    del view
    assert (open_blocks(), shared_bytes()) == (0, 0)


def test_no_memory_to_be_had_is_an_os_error(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(name: str, size: int) -> int:
        raise OSError(24, "too many open files")

    monkeypatch.setattr(blocks, "anonymous_file", refuse)
    with pytest.raises(OSError, match="too many"):
        pair.store.place([memoryview(bytes(70_000))])


# -- two processes -------------------------------------------------------------------------------------------------------

#: Receives a block and says what it saw; sends one of its own; then waits to be killed.
PEER = """
import os, socket, sys
from bridge.executors.process.wire.blocks import BlockStore, Mappings
frames, descriptors = (socket.socket(fileno=int(n)) for n in sys.argv[1:])
def receive():
    message, found, _, _ = socket.recv_fds(descriptors, 256, 1)
    return found[0], message
mappings = Mappings(receive, lambda number: None, lambda number: None)
number, size = eval(frames.recv(100))
view = memoryview(mappings.views(number, [(0, size)])[0]).cast("B")
frames.sendall(bytes(view[-5:]))
view[:5] = b"there"
store = BlockStore(lambda descriptor, message: socket.send_fds(descriptors, [message], [descriptor]))
frames.sendall(repr(store.place([memoryview(b"from there" * 10_000)])).encode())
frames.recv(1)
"""


@linux_only
def test_blocks_between_processes_leave_nothing_behind_when_the_other_is_killed() -> None:
    frames, their_frames = socket.socketpair()
    descriptors, their_descriptors = socket.socketpair()
    numbers = [str(end.fileno()) for end in (their_frames, their_descriptors)]
    process = subprocess.Popen(
        [sys.executable, "-c", PEER, *numbers], pass_fds=[their_frames.fileno(), their_descriptors.fileno()]
    )
    their_frames.close()
    their_descriptors.close()
    frames.settimeout(PATIENCE)
    descriptors.settimeout(PATIENCE)

    def receive() -> tuple[int, bytes]:
        message, found, _, _ = socket.recv_fds(descriptors, 256, 1)
        return found[0], message

    store = BlockStore(lambda descriptor, message: socket.send_fds(descriptors, [message], [descriptor]) and None)
    ours = Mappings(receive, lambda number: None, lambda number: None)
    content = b"h" * 99_995 + b"ello!"
    number, _ = store.place([memoryview(content)])
    frames.sendall(repr((number, len(content))).encode())
    assert frames.recv(5, socket.MSG_WAITALL) == b"ello!"
    placed = frames.recv(100)
    process.send_signal(signal.SIGKILL)
    process.wait(PATIENCE)
    their_number, slices = eval(placed)
    (view,) = ours.views(their_number, slices)  # the socket held it
    assert bytes(view) == b"from there" * 10_000
    with pytest.raises(ConnectionError):
        ours.views(their_number + 1, slices)
    store.close()
    ours.close()
    assert bytes(view[-5:]) == b"there"
    del view
    frames.close()
    descriptors.close()
    assert (open_blocks(), shared_bytes()) == (0, 0)

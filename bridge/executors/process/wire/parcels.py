"""How a parcel is laid out: what is small lies in it, what is large in blocks, of which it has the numbers.

    small:  a pickle, whose first byte is always 0x80
    large:  HEAD (0x01, the block of the pickle and its length, the block of the buffers, how many buffers,
            how many of the first ones are bytes, how many bytes or bytearrays), offset and length of each, the pickle

A pickle of length 0 in block 0 is the rest of the parcel. If there are very many buffers, their offsets and lengths are
themselves the last buffer, and the only one that the parcel mentions (0x02).
"""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from struct import Struct, pack, unpack_from

PLAIN = 0x80
LARGE = 0x01
MANY = 0x02
#: The parcel that comes back most often.
NOTHING: bytes = pickle.dumps(None, 5)
#: Buffers that a parcel mentions itself.
FEW = 256

_HEAD: Struct = Struct("<BQQQIII")
_SLICE: Struct = Struct("<QQ")


@dataclass(slots=True)
class Layout:
    """Where the parts of a large parcel are."""

    pickle: bytes | memoryview = b""
    stream: int = 0
    stream_length: int = 0
    block: int = 0
    slices: Sequence[tuple[int, int]] = ()
    bytes_count: int = 0
    blob_count: int = 0
    many: int = 0  # as many are in the table, which is then the only one of `slices`

    def to_bytes(self) -> bytes:
        kind, count = (MANY, self.many) if self.many else (LARGE, len(self.slices))
        head = _HEAD.pack(kind, self.stream, self.stream_length, self.block, count, self.bytes_count, self.blob_count)
        return b"".join((head, *(_SLICE.pack(*each) for each in self.slices), self.pickle))

    @property
    def blocks(self) -> list[int]:
        return [number for number in (self.stream, self.block) if number]


def layout_of(parcel: bytes | memoryview) -> Layout:
    """Of a parcel that is not PLAIN."""
    kind, stream, stream_length, block, count, bytes_count, blob_count = _HEAD.unpack_from(parcel)
    end = _HEAD.size + (1 if kind == MANY else count) * _SLICE.size
    slices = list(_SLICE.iter_unpack(parcel[_HEAD.size : end]))
    many = count if kind == MANY else 0
    return Layout(parcel[end:], stream, stream_length, block, slices, bytes_count, blob_count, many)


def table(slices: Sequence[tuple[int, int]]) -> bytes:
    """Offsets and lengths of very many buffers, as a buffer."""
    return pack(f"<{2 * len(slices)}Q", *(number for each in slices for number in each))


def slices_in(data: bytes, count: int) -> list[tuple[int, int]]:
    """Read such a table."""
    numbers = unpack_from(f"<{2 * count}Q", data)
    return list(zip(numbers[::2], numbers[1::2], strict=True))

"""Objects into parcels and back: what is small lies in the parcel itself, what is large in shared blocks.

    pack: plain and small? ── yes: pickle.dumps ──────────────────────────────> parcel ──> unpack: pickle.loads
            └ no: ValuePickler ─┬─ pickle: in the parcel, or in a block if long ──> ^            ^
                                └─ buffers from 64 KiB on: in one block ────────────┴── views ───┘

The Packer is in `packing`, the Unpacker in `unpacking`; this module is what the others import.

Each of two processes has a Packer for what it sends and an Unpacker for what it receives; `direction` is "out" from the
parent to the worker, "home" from there to the parent. Packers and unpackers may be used by any thread.

Owners: what `pack` has placed in blocks belongs to the receiver as soon as the parcel is sent, and is released by it. A
parcel that is not sent after all must be given to `Packer.discard`; one that was received and is not wanted to
`Unpacker.discard`. A failed `pack` has placed nothing, a failed `unpack` has released everything. If the other process
dies, parcels for it are worth nothing, and blocks that came from it live as long as their views. Whatever goes wrong with
an object is an error of that call only: PicklingError, or UnpicklingError.
"""

from __future__ import annotations

from bridge.executors.process.wire.packing import Direction, Packer
from bridge.executors.process.wire.patience import TooLarge
from bridge.executors.process.wire.unpacking import Unpacker

__all__ = ["Direction", "Packer", "TooLarge", "Unpacker"]

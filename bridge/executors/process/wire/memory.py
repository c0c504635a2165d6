"""Shared memory by its address: mapping, copying and looking at it without holding the interpreter's lock.

In: descriptors and sizes from `blocks`. Out: addresses, and arrays over them. The standard `mmap` keeps a descriptor of
its own for each mapping, which a process with thousands of results cannot afford, and copies with the lock held; so this
calls the C library itself. `ctypes` is imported when the first large buffer comes along.
"""

from __future__ import annotations

import errno
import os
import sys
import weakref
from functools import cache, lru_cache
from mmap import MAP_SHARED, PROT_READ, PROT_WRITE
from typing import Any

_MADV_POPULATE_WRITE = 23  # Linux 5.14
_PAGE = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4096


@cache
def _libc() -> Any:
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    size, pointer, number = ctypes.c_size_t, ctypes.c_void_p, ctypes.c_int
    libc.mmap.argtypes = (pointer, size, number, number, number, ctypes.c_long)
    libc.mmap.restype = pointer
    libc.munmap.argtypes = (pointer, size)
    libc.madvise.argtypes = (pointer, size, number)
    return libc


def map_shared(descriptor: int, size: int) -> int:
    """The address at which `size` bytes of the file are now seen, and written. Raises OSError."""
    import ctypes

    address: int | None = _libc().mmap(None, size, PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, 0)
    if address is None or address == ctypes.c_void_p(-1).value:
        number = ctypes.get_errno() or errno.ENOMEM
        raise OSError(number, os.strerror(number))
    return address


def map_while_seen(descriptor: int, size: int) -> Any:
    """An array over the file, which is unmapped with the last view of it. Raises OSError."""
    address = map_shared(descriptor, size)
    array = array_at(address, size)
    weakref.finalize(array, unmap, address, size).atexit = False
    return array


def unmap(address: int, size: int) -> None:
    """Never while anything still looks there."""
    _libc().munmap(address, size)


def populate(address: int, begin: int, end: int) -> None:
    """Have the kernel enter those pages now, in one go, instead of at a fault for each; where it knows how."""
    if sys.platform == "linux" and end - begin > _PAGE:
        begin -= begin % _PAGE
        _libc().madvise(address + begin, end - begin, _MADV_POPULATE_WRITE)


def array_at(address: int, size: int) -> Any:
    """The bytes at an address, as an object that can be looked at through `memoryview`, and referred to weakly."""
    return _array_type(size).from_address(address)


def part_of(array: Any, offset: int, length: int) -> Any:
    """Some of it, as a bytes-like object that keeps it alive.

    A memoryview, where Python can be trusted with it: before 3.12.6 the garbage collector crashes when something that
    looks through a memoryview is part of a garbage cycle (CPython gh-77894).
    """
    if sys.version_info >= (3, 12, 6):
        return memoryview(array).cast("B")[offset : offset + length]
    import ctypes

    part = _array_type(length).from_address(ctypes.addressof(array) + offset)
    part.whole = array
    return part


@lru_cache(maxsize=64)
def _array_type(size: int) -> Any:
    import ctypes

    return ctypes.c_ubyte * size


def copy(source: memoryview, address: int) -> bool:
    """Copy bytes, letting other threads run meanwhile; False, nothing done, if there is no way to do that."""
    import ctypes

    if not source.readonly:
        ctypes.memmove(address, ctypes.addressof(ctypes.c_ubyte.from_buffer(source)), source.nbytes)
    elif type(source.obj) is bytes and len(source.obj) == source.nbytes:
        ctypes.memmove(address, source.obj, source.nbytes)
    else:
        return False
    return True

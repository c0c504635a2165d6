"""The functions that the processes suite sends to worker processes, and the child at the other end of the socket floor.

A module of their own, so that every peer pickles them by reference. Worker processes import it: nothing heavy up here.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from time import monotonic, perf_counter, sleep
from typing import Any


def noop() -> None:
    """Costs nothing: what is measured is the way there and back."""


async def async_noop() -> None:
    """Likewise, as a coroutine function that never suspends."""


def echo(value: Any) -> Any:
    """Gives back what it got."""
    return value


def last(array: Any) -> float:
    """Looks at an array just enough to tell whether it arrived."""
    return float(array[-1])


def stamp(array: Any, number: float) -> Any:
    """Writes into an array and gives it back, so that the result cannot be what the caller has already."""
    array[-1] = number
    return array


def pid_after(seconds: float) -> int:
    """Sleeps, so that another call has to go to another process; then says which process this is."""
    sleep(seconds)
    return os.getpid()


def pid_with_numpy_after(seconds: float) -> int:
    """The same, by when numpy is there."""
    import numpy  # noqa: F401, ICN001

    return pid_after(seconds)


def hang(begun: str) -> None:
    """Leaves a file as the sign that it runs, then sleeps until it is killed."""
    Path(begun).touch()
    while True:
        sleep(60)


def moment() -> float:
    """When its first statement ran, on the clock that all processes of a machine share."""
    return monotonic()


async def call(fn: Callable[..., Any], *args: Any) -> Any:
    """Any of the above for pools that run nothing but coroutine functions."""
    return fn(*args)


def calls_home(fn: Callable[[], Any], warm_up: int, calls: int) -> float:
    """Calls `fn` on the loop that sent this here, again and again. Microseconds per call."""
    import bridge

    portal_call = bridge.portal().call
    started = 0.0
    for count in (warm_up, calls):
        started = perf_counter()
        for _ in range(count):
            portal_call(fn)
    return (perf_counter() - started) / calls * 1e6


# -- the child of the socket floor -------------------------------------------------------------------------------------

#: Bytes in each message: about the smallest frame that says which call it belongs to.
MESSAGE = 32


def reflect(connection: socket.socket) -> None:
    """Sends back whatever comes, until the other end closes."""
    while message := connection.recv(MESSAGE):
        connection.send(message)


def begin(connection: socket.socket, warm_up: int, calls: int) -> float:
    """Sends a message and waits for the answer, again and again. Microseconds per round trip."""
    message = bytes(MESSAGE)
    started = 0.0
    for count in (warm_up, calls):
        started = perf_counter()
        for _ in range(count):
            connection.send(message)
            connection.recv(MESSAGE)
    return (perf_counter() - started) / calls * 1e6


if __name__ == "__main__":
    _connection = socket.socket(fileno=int(sys.argv[1]))
    if len(sys.argv) == 2:
        reflect(_connection)
    else:
        print(begin(_connection, int(sys.argv[2]), int(sys.argv[3])))

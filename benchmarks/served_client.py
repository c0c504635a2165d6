"""The client of the served request: a process of its own, so that its CPU time is not counted as the server's.

    stdin   `port connections rounds`: in each round one request on each connection, then all the answers
    stdout  `done` when the last answer is there

Plain blocking sockets, kept alive. One that stays silent for `PATIENCE` seconds, or is closed by the server, ends the
process with a traceback; the end of stdin does so quietly.
"""

from __future__ import annotations

import socket
import sys
from contextlib import ExitStack

BODY = b'{"message": "Hello, world!"}'
REQUEST = b"GET / HTTP/1.1\r\nHost: localhost\r\nAccept: application/json\r\n\r\n"
#: Seconds.
PATIENCE = 20.0


def ask(port: int, connections: int, rounds: int) -> None:
    """Send all requests and read all answers."""
    with ExitStack() as stack:
        sockets = []
        for _ in range(connections):
            connection = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=PATIENCE))
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sockets.append(connection)
        for _ in range(rounds):
            for connection in sockets:
                connection.sendall(REQUEST)
            for connection in sockets:
                read_answer(connection)


def read_answer(connection: socket.socket) -> None:
    """Raises ConnectionError if it is not the one that is expected."""
    received = b""
    while not received.endswith(BODY):
        data = connection.recv(65536)
        if not data:
            raise ConnectionError(f"the server closed the connection after {received!r}")
        received += data
    if not received.startswith(b"HTTP/1.1 200 "):
        raise ConnectionError(f"not the answer: {received!r}")


if __name__ == "__main__":
    for line in sys.stdin:
        ask(*map(int, line.split()))
        print("done", flush=True)

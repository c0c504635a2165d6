"""A request that uvicorn serves on the running loop: what it costs the server's process.

    client's process ── CONNECTIONS kept alive, one request on each at a time ──> uvicorn, httptools ──> CountingApp

Each measurement starts a server on a socket that listens already, so that the client never comes too early, and ends it.
The app is the clock: it starts with the first request after the warm-up and stops with the last one. A client that gives
up, or a server that answers too late, is an error within `LIMIT` seconds; the server is ended all the same.
"""

from __future__ import annotations

import asyncio
import atexit
import socket
import subprocess
import sys
import time
from functools import cache
from typing import Any

import uvicorn

from benchmarks import served_client

CONNECTIONS = 8
#: Seconds.
LIMIT = 30.0


class CountingApp:
    """An ASGI application that answers all requests alike; `done` when it has come to the `last` one."""

    def __init__(self, first: int, last: int) -> None:
        self.seconds = 0.0
        self.done = asyncio.Event()
        self._first = first
        self._last = last
        self._count = 0
        self._started_at = 0.0
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(served_client.BODY))]
        self._start = {"type": "http.response.start", "status": 200, "headers": headers}
        self._body = {"type": "http.response.body", "body": served_client.BODY}

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self._count += 1
        if self._count == self._first:
            self._started_at = time.process_time()
        elif self._count == self._last:
            self.seconds = time.process_time() - self._started_at
            self.done.set()
        await send(self._start)
        await send(self._body)


class Client:
    """The process that asks, started with the first request and kept."""

    def __init__(self) -> None:
        command = [sys.executable, "-I", served_client.__file__]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        atexit.register(self.close)

    def ask(self, port: int, rounds: int) -> None:
        """Have it begin."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{port} {CONNECTIONS} {rounds}\n")
        self._process.stdin.flush()

    def wait_until_done(self) -> None:
        """Raises RuntimeError if it has given up; its own error is on stderr."""
        assert self._process.stdout is not None
        if self._process.stdout.readline() != "done\n":
            raise RuntimeError(f"the client gave up: exit code {self._process.wait(LIMIT)}")

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.communicate()


@cache
def client() -> Client:
    """The only one."""
    return Client()


def listening_socket() -> socket.socket:
    """On a port of the system's choice. It says that it is TCP: asyncio sends without delay only on such ones."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.bind(("127.0.0.1", 0))
    listener.listen(CONNECTIONS)
    return listener


async def serve(_: object, requests: int) -> float:
    """Seconds of CPU time for `requests` requests, by a server on the running loop, after a warm-up of a tenth more."""
    warm_up = max(1, requests // 10 // CONNECTIONS)
    rounds = warm_up + max(1, requests // CONNECTIONS)
    app = CountingApp(warm_up * CONNECTIONS, rounds * CONNECTIONS)
    config = uvicorn.Config(
        app,
        http="httptools",
        ws="none",
        lifespan="off",
        access_log=False,
        log_config=None,
        timeout_graceful_shutdown=int(LIMIT),
    )
    server = uvicorn.Server(config)
    listener = listening_socket()
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    client().ask(listener.getsockname()[1], rounds)
    try:
        async with asyncio.timeout(LIMIT):
            await app.done.wait()
    finally:
        server.should_exit = True
        await serving
    client().wait_until_done()
    return app.seconds / ((rounds - warm_up) * CONNECTIONS) * requests

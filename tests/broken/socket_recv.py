# expects: BRG101
# advice: await bridge.to_thread(connection.recv, 100)
# says: waiting
# before: pong
# also: BRG102
# prints: pong
"""A blocking socket in a coroutine; the other side takes a while to answer."""

import socket
import threading
import time

import bridge


def answer(connection):
    connection.recv(100)
    time.sleep(0.7)
    connection.sendall(b"pong")


async def ping(connection):
    connection.sendall(b"ping")
    reply = connection.recv(100)  # <- BRG101
    print(reply.decode())


async def main():
    await ping(ours)


ours, theirs = socket.socketpair()
with ours, theirs:
    threading.Thread(target=answer, args=(theirs,)).start()
    bridge.run(main)

# expects: BRG101
# says: waiting
# before: received b'order 1'
# also: BRG102
# prints: received b'order 1'
"""A protocol's data_received blocks: the loop calls it as soon as something has arrived."""

import asyncio
import socket
import time

import bridge


class Orders(asyncio.Protocol):
    def __init__(self, received):
        self.received = received

    def data_received(self, data):
        time.sleep(0.6)  # <- BRG101
        print("received", data)
        self.received.set()


async def main():
    ours, theirs = socket.socketpair()
    received = asyncio.Event()
    transport, _ = await asyncio.get_running_loop().create_connection(lambda: Orders(received), sock=ours)
    theirs.sendall(b"order 1")
    await received.wait()
    transport.close()
    theirs.close()


bridge.run(main)

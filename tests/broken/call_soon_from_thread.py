# expects: BRG301
# advice: loop.call_soon_threadsafe(
# says: {called}
# prints: arrived
"""asyncio's guide, "Concurrency and Multithreading": a callback is scheduled from another thread."""

import asyncio
import threading
import time

import bridge


def read(loop, arrived):
    time.sleep(0.1)  # the loop sleeps by now
    loop.call_soon(arrived.set)  # <- BRG301, called


async def main():
    arrived = asyncio.Event()
    threading.Thread(target=read, args=(asyncio.get_running_loop(), arrived)).start()
    await arrived.wait()
    print("arrived")


bridge.run(main)

# expects: BRG301
# advice: call_soon_threadsafe(arrived.set)
# prints: arrived
"""asyncio.Event.set from another thread, while a coroutine waits for it."""

import asyncio
import threading
import time

import bridge


def read(arrived):
    time.sleep(0.1)  # the loop sleeps by now, and somebody waits
    arrived.set()  # <- BRG301


async def main():
    arrived = asyncio.Event()
    threading.Thread(target=read, args=(arrived,)).start()
    await arrived.wait()
    print("arrived")


bridge.run(main)

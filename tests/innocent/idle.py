# prints: awake
"""A loop that has nothing to do for long, first with a timer, then without one."""

import asyncio
import threading
import time

import bridge


async def main():
    await asyncio.sleep(1)
    called = asyncio.Event()
    loop = asyncio.get_running_loop()

    def call():
        time.sleep(1)
        loop.call_soon_threadsafe(called.set)

    thread = threading.Thread(target=call)
    thread.start()
    await called.wait()
    thread.join()
    print("awake")


bridge.run(main)

# expects: BRG301
# advice: call_soon_threadsafe(
# prints: WrongThread
# prints: arrived
"""In debug mode Event.set raises in the thread; the same done rightly afterwards still wakes up the waiter."""

import asyncio
import time

import bridge


def read(loop, arrived):
    time.sleep(0.1)  # somebody waits by now
    try:
        arrived.set()  # <- BRG301
    except bridge.WrongThread as error:
        print(type(error).__name__)
        loop.call_soon_threadsafe(arrived.set)


async def main():
    arrived = asyncio.Event()
    loop = asyncio.get_running_loop()
    reading = asyncio.create_task(bridge.to_thread(read, loop, arrived))
    async with asyncio.timeout(5):
        await arrived.wait()
    await reading
    print("arrived")


bridge.run(main, debug=True)

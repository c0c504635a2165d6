# expects: BRG301
# advice: call_soon_threadsafe(
# prints: WrongThread
# prints: nothing arrived
"""In debug mode the call raises where it is made, and has done nothing."""

import asyncio

import bridge


def read(loop, arrived):
    try:
        loop.call_soon(arrived.set)  # <- BRG301
    except bridge.WrongThread as error:
        print(type(error).__name__)


async def main():
    arrived = asyncio.Event()
    await bridge.to_thread(read, asyncio.get_running_loop(), arrived)
    await asyncio.sleep(0.05)
    print("arrived" if arrived.is_set() else "nothing arrived")


bridge.run(main, debug=True)

# expects: BRG301
# advice: arrived.set() on the loop, without a thread; from a thread loop.call_soon_threadsafe(arrived.set)
# says: sent at
# prints: arrived
"""A method that belongs to the loop, sent to a thread: no line of the program is executed there."""

import asyncio

import bridge


async def main():
    arrived = asyncio.Event()
    waiting = asyncio.create_task(arrived.wait())
    await asyncio.sleep(0)
    await bridge.to_thread(arrived.set)  # <- BRG301
    await waiting
    print("arrived")


bridge.run(main)

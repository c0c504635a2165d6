# expects: BRG101
# advice: await asyncio.sleep(0.3)
# says: {spawned}
# also: BRG102
# stderr: took 0.3
# prints: twice
"""Debug mode: asyncio says that a callback was slow, bridge says which line of it, and where its task was made."""

import asyncio
import time

import bridge


async def refresh():
    for _ in range(2):
        time.sleep(0.3)  # <- BRG101
        await asyncio.sleep(0)


async def main():
    task = asyncio.create_task(refresh())  # <- spawned
    await task
    print("twice")


bridge.run(main, debug=True)

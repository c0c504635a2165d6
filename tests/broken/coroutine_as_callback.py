# expects: BRG201
# says: tick
# stderr: RuntimeWarning: coroutine 'tick' was never awaited
# prints: waited
"""An async function handed to call_later, which calls it and drops what it returns."""

import asyncio

import bridge


async def tick():
    print("tick")


async def main():
    asyncio.get_running_loop().call_later(0.01, tick)  # <- BRG201
    await asyncio.sleep(0.05)
    print("waited")


bridge.run(main)

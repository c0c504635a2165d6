# expects: BRG101
# advice: await asyncio.sleep(0.8)
# expects: BRG102
# says: serve
# prints: 1 request served
"""Each report of a blocked loop has its end, with how long it took."""

import asyncio
import time

import bridge


async def serve():
    time.sleep(0.8)  # <- BRG101, BRG102
    return 1


async def main():
    served = await serve()
    await asyncio.sleep(0.2)
    print(served, "request served")


bridge.run(main)

# expects: BRG101
# advice: await asyncio.sleep(0.6)
# says: waiting
# before: served
# also: BRG102
# prints: served
"""A program on asyncio's own loop, watched."""

import asyncio
import time

import bridge


async def serve():
    time.sleep(0.6)  # <- BRG101
    print("served")


async def main():
    async with bridge.watch():
        await asyncio.create_task(serve())


asyncio.run(main())

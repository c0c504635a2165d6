# expects: BRG101
# advice: await asyncio.sleep(0.6)
# says: waiting
# before: served
# also: BRG102
# needs: uvloop
# prints: served
"""A program on uvloop, watched."""

import asyncio
import time

import uvloop

import bridge


async def serve():
    await asyncio.sleep(0.1)
    time.sleep(0.6)  # <- BRG101
    print("served")


async def main():
    async with bridge.watch():
        await asyncio.create_task(serve())


with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
    runner.run(main())

# expects: BRG101
# advice: await trio.sleep(0.6)
# says: waiting
# before: served
# also: BRG102
# needs: trio
# prints: served
"""A program on trio, watched."""

import time

import trio

import bridge


async def serve():
    time.sleep(0.6)  # <- BRG101
    print("served")


async def main():
    async with bridge.watch(), trio.open_nursery() as nursery:
        nursery.start_soon(serve)


trio.run(main)

# expects: BRG101
# advice: await asyncio.sleep(0.6)
# says: waiting
# before: page 1
# also: BRG102
# prints: page 1
"""An async generator that is none: it blocks before it yields."""

import time

import bridge


async def pages(count):
    for number in range(1, count + 1):
        time.sleep(0.6)  # <- BRG101
        yield number


async def main():
    async for number in pages(1):
        print("page", number)


bridge.run(main)

# expects: BRG402
# advice: bridge.stream(sums, 200000, to="process")
# says: sums is on the CPU for
# also: BRG104
# needs: linux
# prints: 299 sums
"""A generator that computes, streamed from a thread: it takes turns with the loop, and both are slower."""

import asyncio

import bridge


def sums(below):
    for factor in range(1, 300):
        total = 0
        for number in range(below):
            total += factor * number
        yield total


async def tick():
    while True:
        await asyncio.sleep(0.01)


async def main():
    ticking = asyncio.create_task(tick())
    found = [total async for total in bridge.stream(sums, 200_000)]  # <- BRG402
    print(len(found), "sums")
    ticking.cancel()


bridge.run(main)

# expects: BRG402
# advice: await bridge.to_process(count, 30000000)
# says: % of its time, in thread 'bridge-thread-1'
# says: in count
# also: BRG104
# needs: linux
# prints: 449999985000000
"""Python code that computes, in a thread: it takes turns with the loop, and both are slower."""

import asyncio

import bridge


def count(below):
    total = 0
    for number in range(below):
        total += number
    return total


async def main():
    counting = asyncio.create_task(bridge.to_thread(count, 30_000_000))  # <- BRG402
    while not counting.done():
        await asyncio.sleep(0.01)
    print(counting.result())


bridge.run(main)

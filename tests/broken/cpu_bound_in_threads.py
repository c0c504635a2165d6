# expects: BRG402
# advice: await bridge.to_process(count, 20000000)
# says: so is __main__.count in thread
# needs: linux
# prints: 199999990000000 199999990000000
"""Two threads that compute take turns with each other as well: together they keep the GIL, and nothing is gained."""

import asyncio

import bridge


def count(below):
    total = 0
    for number in range(below):
        total += number
    return total


async def serve(until):
    while not until.done():
        await asyncio.sleep(0.01)


async def count_twice():
    return await asyncio.gather(*(bridge.to_thread(count, 20_000_000) for _ in range(2)))  # <- BRG402


async def main():
    counting = asyncio.create_task(count_twice())
    await serve(counting)
    print(*counting.result())


bridge.run(main)

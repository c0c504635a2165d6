# expects: BRG104
# advice: await bridge.to_process(
# says: {holding}
# prints: 1249999950000000
"""C calls in a thread that do not let go of the GIL: the loop has a timer due, and cannot run."""

import asyncio
import time

import bridge


def total():
    time.sleep(0.1)  # the loop sleeps by now
    result = 0
    for _ in range(4):
        result += sum(range(25_000_000))  # <- BRG104, holding
    return result


async def main():
    adding = asyncio.create_task(bridge.to_thread(total))
    while not adding.done():
        await asyncio.sleep(0.01)
    print(adding.result())


bridge.run(main)

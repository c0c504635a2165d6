# expects: BRG104
# advice: await bridge.to_process(
# says: {holding}
# prints: 449999985000000
"""A C call in a thread that does not let go of the GIL: the loop has a timer due, and cannot run."""

import asyncio

import bridge


def total():
    return sum(range(30_000_000))  # <- BRG104, holding


async def main():
    adding = asyncio.create_task(bridge.to_thread(total))
    while not adding.done():
        await asyncio.sleep(0.01)
    print(adding.result())


bridge.run(main)

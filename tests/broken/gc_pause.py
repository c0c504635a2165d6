# expects: BRG101
# says: garbage collection
# also: BRG102
# prints: 4000000 rows are still there
"""A collection of everything, with millions of objects that stay: somebody has read that it saves memory."""

import asyncio
import gc

import bridge


async def handle_request():
    gc.collect()  # <- BRG101


async def main():
    await handle_request()
    await asyncio.sleep(0.2)
    print(len(rows), "rows are still there")


gc.disable()  # while the rows are made
rows = [[number] for number in range(4_000_000)]
gc.enable()
bridge.run(main)

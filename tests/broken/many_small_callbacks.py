# expects: BRG103
# says: redraw
# prints: drawn 250
"""The same with plain callbacks, in Python."""

import asyncio

import bridge


def redraw(drawn, number):
    area = 0
    for width in range(40_000):
        area += width * number  # <- BRG103
    drawn.append(area)


async def main():
    drawn = []
    loop = asyncio.get_running_loop()
    for number in range(250):
        loop.call_soon(redraw, drawn, number)
    while len(drawn) < 250:
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.2)
    print("drawn", len(drawn))


bridge.run(main)

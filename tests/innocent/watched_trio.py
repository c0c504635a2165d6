# needs: trio
# prints: 50 [0, 1, 4] done
"""A well-behaved program on trio, watched."""

import trio

import bridge


async def tick(ticks):
    for _ in range(50):
        await trio.sleep(0.01)
        ticks.append(1)


async def main():
    ticks = []
    async with bridge.watch(), trio.open_nursery() as nursery:
        nursery.start_soon(tick, ticks)
        squares = [square async for square in bridge.map(pow, range(3), [2, 2, 2], to="thread")]
        async with trio.open_nursery() as many:
            for _ in range(5000):
                many.start_soon(trio.lowlevel.checkpoint)
        await trio.sleep(1)
    print(len(ticks), squares, "done")


trio.run(main)

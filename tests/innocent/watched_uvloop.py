# needs: uvloop
# prints: 50 [0, 1, 4] done
"""A well-behaved program on uvloop, watched."""

import asyncio

import uvloop

import bridge


async def tick(ticks):
    for _ in range(50):
        await asyncio.sleep(0.01)
        ticks.append(1)


async def main():
    ticks = []
    async with bridge.watch():
        ticking = asyncio.create_task(tick(ticks))
        squares = [square async for square in bridge.map(pow, range(3), [2, 2, 2], to="thread")]
        await asyncio.gather(*(asyncio.sleep(0) for _ in range(5000)))
        await ticking
        await asyncio.sleep(0.5)
    print(len(ticks), squares, "done")


with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
    runner.run(main())

# prints: 1 2 3
"""A program that is synchronous in between: a loop that does not run is not blocked."""

import asyncio
import time

import bridge


async def step(number):
    await asyncio.sleep(0.01)
    return number


loop = bridge.new_event_loop()
time.sleep(0.4)
one = loop.run_until_complete(step(1))
time.sleep(0.4)
two = loop.run_until_complete(step(2))
time.sleep(0.4)
loop.close()
time.sleep(0.4)
print(one, two, bridge.run(step, 3))

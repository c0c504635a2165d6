# prints: 4 9 16 25
"""Every executor, portal and background loop is closed, each in one of the ways there are."""

import asyncio
import gc

import bridge


async def square(number):
    return number**2


async def main():
    async with bridge.ThreadExecutor(1) as threads:
        nine = await threads.run(pow, 3, 2)
    executor = bridge.ThreadExecutor(2)
    future = executor.submit(pow, 4, 2)
    sixteen = await asyncio.wrap_future(future)
    executor.shutdown()
    return nine, sixteen


with bridge.background_loop() as portal:
    four = portal.call(square, 2)
with bridge.ProcessExecutor(1) as processes:
    twenty_five = processes.submit(pow, 5, 2).result()
print(four, *bridge.run(main), twenty_five)
gc.collect()

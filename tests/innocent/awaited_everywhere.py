# prints: 55 55 0123 timed out [0, 1, 4]
"""Nothing is forgotten: everything that is made is awaited, closed or asked."""

import asyncio
import contextlib

import bridge


async def square(number):
    await asyncio.sleep(0.001 * number)
    return number**2


async def count(below):
    for number in range(below):
        yield number
        await asyncio.sleep(0)


@contextlib.asynccontextmanager
async def opened():
    yield "0"
    await asyncio.sleep(0)


async def main():
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(square(number)) for number in range(6)]
    gathered = await asyncio.gather(*map(square, range(6)))
    async with opened() as text:
        async for number in count(4):
            text += str(number) if number else ""
    try:
        await asyncio.wait_for(square(1000), 0.01)
    except TimeoutError:
        waited = "timed out"
    square(7).close()
    results = [result async for result in bridge.map(pow, range(3), [2, 2, 2], to="thread")]
    print(sum(task.result() for task in tasks), sum(gathered), text, waited, results)


bridge.run(main)

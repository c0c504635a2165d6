# prints: 3 cancelled
"""Tasks are cancelled: awaited, by a timeout, and by the end of the program."""

import asyncio

import bridge


async def wait(cancelled):
    try:
        await asyncio.sleep(3600)
    except asyncio.CancelledError:
        cancelled.append(1)
        raise


async def main(cancelled):
    task = asyncio.create_task(wait(cancelled))
    await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.wait([task])
    try:
        async with asyncio.timeout(0.01):
            await wait(cancelled)
    except TimeoutError:
        pass
    asyncio.get_running_loop().create_task(wait(cancelled))
    never_begun = asyncio.create_task(wait(cancelled))
    never_begun.cancel()
    await asyncio.sleep(0.01)


cancelled = []
bridge.run(main, cancelled)
print(len(cancelled), "cancelled")

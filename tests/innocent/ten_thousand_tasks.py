# prints: 10000 awake
"""Ten thousand tasks that wake up at once, and do little."""

import asyncio

import bridge


async def wait(starting, awake):
    await starting.wait()
    awake.append(len(awake))
    await asyncio.sleep(0)


async def main():
    starting = asyncio.Event()
    awake = []
    tasks = [asyncio.create_task(wait(starting, awake)) for _ in range(10_000)]
    await asyncio.sleep(0.5)
    starting.set()
    await asyncio.gather(*tasks)
    print(len(awake), "awake")


bridge.run(main)

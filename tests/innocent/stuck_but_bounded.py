# prints: gave up
"""A function in a thread is given up: it ends soon after, well within the time that it has."""

import asyncio
import time

import bridge


@bridge.offload(timeout=0.2, cancel="abandon")
def slow():
    time.sleep(0.8)


async def main():
    try:
        await slow()
    except bridge.OffloadTimeout:
        print("gave up")
    await asyncio.sleep(0)


bridge.run(main)

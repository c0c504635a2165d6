# expects: BRG202
# says: not consumed
# stderr: Exception: not consumed
# prints: done
"""asyncio's guide, "Detect never-retrieved exceptions"."""

import asyncio

import bridge


async def bug():
    raise Exception("not consumed")


async def main():
    asyncio.create_task(bug())  # <- BRG202
    await asyncio.sleep(0.01)
    print("done")


bridge.run(main)

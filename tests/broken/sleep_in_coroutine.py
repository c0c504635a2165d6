# expects: BRG101
# advice: await asyncio.sleep(0.5)
# says: waiting
# before: polled 3 times
# also: BRG102
# prints: polled 3 times
"""A poller that pauses between two tries as one does in a thread."""

import asyncio
import time

import bridge


async def poll(tries):
    for attempt in range(tries):
        if attempt:
            time.sleep(0.5)  # <- BRG101
        await asyncio.sleep(0)
    print(f"polled {tries} times")


async def main():
    await poll(3)


bridge.run(main)

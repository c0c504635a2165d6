# expects: BRG101
# says: waiting
# advice: , in an async function, which
# before: saved
# also: BRG102
# prints: saved
"""A plain callback, run by a timer: no task is there to be named."""

import asyncio
import time

import bridge


def autosave(saved):
    time.sleep(0.6)  # <- BRG101
    print("saved")
    saved.set()


async def main():
    saved = asyncio.Event()
    asyncio.get_running_loop().call_later(0.05, autosave, saved)
    await saved.wait()


bridge.run(main)

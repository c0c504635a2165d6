# expects: BRG202
# says: nobody listens
# prints: done
"""run_coroutine_threadsafe from a thread, whose future nobody asks."""

import asyncio

import bridge


async def notify():
    raise ConnectionError("nobody listens")


def work(loop):
    asyncio.run_coroutine_threadsafe(notify(), loop)  # <- BRG202


async def main():
    await bridge.to_thread(work, asyncio.get_running_loop())
    await asyncio.sleep(0.05)
    print("done")


bridge.run(main)

# expects: BRG202
# says: nobody listens
# prints: done
"""The same with the portal's own."""

import asyncio

import bridge


async def notify():
    raise ConnectionError("nobody listens")


def work():
    bridge.portal().run_coroutine_threadsafe(notify())  # <- BRG202


async def main():
    await bridge.to_thread(work)
    await asyncio.sleep(0.05)
    print("done")


bridge.run(main)

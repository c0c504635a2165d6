# expects: BRG301
# advice: call_soon_threadsafe(
# says: cancel
# prints: cancelled
"""A task is cancelled by another thread."""

import asyncio
import threading
import time

import bridge


def stop(serving):
    time.sleep(0.1)  # the loop sleeps by now
    serving.cancel()  # <- BRG301


async def serve():
    await asyncio.sleep(3600)


async def main():
    serving = asyncio.create_task(serve())
    threading.Thread(target=stop, args=(serving,)).start()
    try:
        await serving
    except asyncio.CancelledError:
        print("cancelled")


bridge.run(main)

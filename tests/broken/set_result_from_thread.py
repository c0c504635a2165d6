# expects: BRG301
# advice: call_soon_threadsafe(
# says: set_result
# prints: reply: 42
"""A future of the loop's is resolved by another thread."""

import asyncio
import threading
import time

import bridge


def compute(reply):
    time.sleep(0.1)  # the loop sleeps by now
    reply.set_result(42)  # <- BRG301


async def main():
    reply = asyncio.get_running_loop().create_future()
    threading.Thread(target=compute, args=(reply,)).start()
    print("reply:", await reply)


bridge.run(main)

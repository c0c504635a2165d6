# expects: BRG301
# advice: call_soon_threadsafe(
# prints: WrongThread
# prints: reply: right
"""In debug mode set_result raises before the future is done: whoever waits for it can still be answered."""

import asyncio
import time

import bridge


def compute(loop, reply):
    time.sleep(0.1)  # somebody waits by now
    try:
        reply.set_result("wrong")  # <- BRG301
    except bridge.WrongThread as error:
        print(type(error).__name__)
        loop.call_soon_threadsafe(reply.set_result, "right")


async def main():
    loop = asyncio.get_running_loop()
    reply = loop.create_future()
    computing = asyncio.create_task(bridge.to_thread(compute, loop, reply))
    async with asyncio.timeout(5):
        print("reply:", await reply)
    await computing


bridge.run(main, debug=True)

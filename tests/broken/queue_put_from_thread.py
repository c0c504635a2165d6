# expects: BRG301
# advice: call_soon_threadsafe(queue.put_nowait, number)
# prints: got 0, 1, 2
"""asyncio.Queue.put_nowait from another thread, while a coroutine waits in get()."""

import asyncio
import threading
import time

import bridge


def produce(queue):
    time.sleep(0.1)  # the loop sleeps by now, and somebody waits
    for number in range(3):
        queue.put_nowait(number)  # <- BRG301


async def main():
    queue = asyncio.Queue()
    threading.Thread(target=produce, args=(queue,)).start()
    first, second, third = await queue.get(), await queue.get(), await queue.get()
    print(f"got {first}, {second}, {third}")


bridge.run(main)

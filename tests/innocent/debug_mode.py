# flags: -X dev
# prints: [0, 1, 4, 9] True
"""Everything done rightly, in debug mode."""

import asyncio
import threading

import bridge


def notify(loop, event):
    loop.call_soon_threadsafe(event.set)


async def square(number):
    await asyncio.sleep(0.001)
    return number**2


def squared(number):
    return bridge.portal().call(square, number)


async def main():
    event = asyncio.Event()
    thread = threading.Thread(target=notify, args=(asyncio.get_running_loop(), event))
    thread.start()
    await event.wait()
    thread.join()
    squares = await asyncio.gather(*(bridge.to_thread(squared, number) for number in range(4)))
    print(squares, asyncio.get_running_loop().get_debug())


bridge.run(main)

# prints: 3000 calls, 42, True
"""Threads call into the loop, in the ways that are made for it."""

import asyncio
import threading

import bridge


async def answer():
    return 42


def work(loop, portal, calls, future):
    for _ in range(1000):
        loop.call_soon_threadsafe(calls.append, 1)
        portal.call_soon_threadsafe(calls.append, 2)
        portal.call(calls.append, 3)
    result = asyncio.run_coroutine_threadsafe(answer(), loop).result()
    loop.call_soon_threadsafe(future.set_result, result)


async def main():
    loop = asyncio.get_running_loop()
    calls = []
    future = loop.create_future()
    thread = threading.Thread(target=work, args=(loop, bridge.portal(), calls, future))
    thread.start()
    result = await future
    event = asyncio.Event()
    await bridge.to_thread(bridge.syncify(set_event), event)
    print(f"{len(calls)} calls, {result}, {event.is_set()}")
    thread.join()


async def set_event(event):
    event.set()


bridge.run(main)

# prints: [40, 40, 40]
"""A loop in each of several threads, with work of its own, and calls between them."""

import asyncio
import threading

import bridge


async def ping():
    return 1


async def work(portals, number, pings):
    portals[number] = bridge.portal()
    while len(portals) < 3:
        await asyncio.sleep(0.01)
    for _ in range(40):
        other = portals[(number + 1) % 3]
        pings[number] += await asyncio.wrap_future(other.run_coroutine_threadsafe(ping()))
        await asyncio.sleep(0.005)
    await bridge.to_thread(done.wait)  # nobody leaves while he is called


portals, pings = {}, [0, 0, 0]
done = threading.Barrier(3)
threads = [threading.Thread(target=bridge.run, args=(work, portals, number, pings)) for number in range(3)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(pings)

# prints: slept 5 times, ticked True
"""time.sleep where it may be: in threads, bridge's and others, while the loop goes on."""

import asyncio
import threading
import time

import bridge


def sleep(naps):
    time.sleep(0.7)
    naps.append(1)


async def main():
    naps = []
    other = threading.Thread(target=sleep, args=(naps,))
    other.start()
    sleeping = asyncio.gather(*(bridge.to_thread(sleep, naps) for _ in range(4)))
    ticks = 0
    while not sleeping.done():
        ticks += 1
        await asyncio.sleep(0.01)
    other.join(5)
    print(f"slept {len(naps)} times, ticked {ticks > 3}")


bridge.run(main)

"""A function in a thread that ends early: after `timeout=`, and when the task that awaits it is cancelled."""

from __future__ import annotations

import asyncio
import time

import bridge

begun = asyncio.Event()


def count() -> None:
    bridge.portal().call_soon_threadsafe(begun.set)
    try:
        while True:
            bridge.check_cancelled()  # raises once the awaiting side has given up
            time.sleep(0.001)
    finally:
        print("the thread has cleaned up")


async def main() -> None:
    try:
        await bridge.offload(timeout=0.5)(count)()
    except bridge.OffloadTimeout as error:
        print(f"timed out: {error}")

    begun.clear()
    task = asyncio.create_task(bridge.to_thread(count))
    await begun.wait()
    task.cancel()
    try:
        await task
    except asyncio.CancelledError:
        print("cancelled, and nothing runs on")


bridge.run(main)

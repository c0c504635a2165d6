# expects: BRG404
# says: watch_folder
# says: {stuck}
# prints: the end
"""A function in a thread that nothing ever ends."""

import asyncio
import threading

import bridge

changed = threading.Event()


def watch_folder(begun):
    bridge.portal().call_soon_threadsafe(begun.set)
    while True:
        changed.wait()  # <- BRG404, stuck


async def main():
    begun = asyncio.Event()
    watching = asyncio.create_task(bridge.to_thread(watch_folder, begun))
    await begun.wait()
    return watching


bridge.run(main, shutdown_timeout=0.3)
print("the end")

# expects: BRG301
# advice: run_coroutine_threadsafe(
# says: create_task
# prints: saved row 1
"""A task is created from another thread."""

import asyncio
import threading
import time

import bridge


async def save(row, saved):
    print("saved row", row)
    saved.set()


def work(loop, saved):
    time.sleep(0.1)  # the loop sleeps by now
    loop.create_task(save(1, saved))  # <- BRG301


async def main():
    saved = asyncio.Event()
    threading.Thread(target=work, args=(asyncio.get_running_loop(), saved)).start()
    await saved.wait()


bridge.run(main)

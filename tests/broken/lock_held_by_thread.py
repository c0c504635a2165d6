# expects: BRG101
# advice: await bridge.to_thread(lock.acquire)
# says: waiting
# before: updated
# also: BRG102
# prints: updated
"""A lock of threading in a coroutine, while a thread holds it."""

import threading
import time

import bridge

lock = threading.Lock()


def save_slowly(taken):
    with lock:
        taken.set()
        time.sleep(0.7)


async def update():
    lock.acquire()  # <- BRG101
    try:
        print("updated")
    finally:
        lock.release()


async def main():
    taken = threading.Event()
    saving = threading.Thread(target=save_slowly, args=(taken,))
    saving.start()
    await bridge.to_thread(taken.wait)
    await update()


bridge.run(main)

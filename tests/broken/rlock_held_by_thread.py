# expects: BRG101
# advice: where that_function has the whole `with lock:` in it
# says: waiting
# before: updated
# also: BRG102
# prints: updated
"""A lock that belongs to the thread which took it: taken by another thread, it could not be released by this one."""

import threading
import time

import bridge

lock = threading.RLock()


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

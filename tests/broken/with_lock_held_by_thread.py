# expects: BRG101
# says: waiting
# before: updated
# also: BRG102
# prints: updated
"""The same as `with lock:`, where the line has no call to show."""

import threading
import time

import bridge

lock = threading.Lock()


def save_slowly(taken):
    with lock:
        taken.set()
        time.sleep(0.7)


async def main():
    taken = threading.Event()
    threading.Thread(target=save_slowly, args=(taken,)).start()
    await bridge.to_thread(taken.wait)
    with lock:  # <- BRG101
        print("updated")


bridge.run(main)

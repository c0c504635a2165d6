# expects: BRG404
# says: poll
# also: BRG101
# prints: left
"""A background loop that is left while a coroutine blocks it."""

import threading
import time

import bridge


async def poll(begun):
    begun.set()
    time.sleep(3)  # <- BRG404


begun = threading.Event()
try:
    with bridge.background_loop(shutdown_timeout=0.3) as portal:
        portal.run_coroutine_threadsafe(poll(begun))
        begun.wait()
        raise LookupError("something else went wrong")
except LookupError:
    print("left")

# expects: BRG101
# advice: await bridge.to_thread(
# says: waiting
# before: job 7
# also: BRG102
# prints: job 7
"""A queue of the standard library's for threads, in a coroutine."""

import queue
import threading
import time

import bridge

jobs = queue.SimpleQueue()


def produce():
    time.sleep(0.7)
    jobs.put(7)


async def consume():
    job = jobs.get()  # <- BRG101
    print("job", job)


async def main():
    threading.Thread(target=produce).start()
    await consume()


bridge.run(main)

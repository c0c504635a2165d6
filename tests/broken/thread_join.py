# expects: BRG101
# advice: await bridge.to_thread(
# says: waiting
# before: loaded 3 rows
# also: BRG102
# prints: loaded 3 rows
"""A thread that is waited for on the loop."""

import threading
import time

import bridge


def load(rows):
    time.sleep(0.7)
    rows += [1, 2, 3]


async def main():
    rows = []
    loading = threading.Thread(target=load, args=(rows,))
    loading.start()
    loading.join()  # <- BRG101
    print("loaded", len(rows), "rows")


bridge.run(main)

# expects: BRG101
# says: by the finalizer Connection.__del__
# advice: await bridge.to_thread(
# also: BRG102
# prints: closed
"""A finalizer that blocks and is run by the garbage collector, in a line that has nothing to do with it."""

import asyncio
import gc
import time

import bridge


class Connection:
    def __init__(self):
        self.itself = self

    def __del__(self):
        time.sleep(0.7)  # <- BRG101
        print("closed")


async def main():
    gc.collect()  # long enough to be remembered, and not to blame
    await asyncio.sleep(0)
    Connection()
    gc.collect()
    await asyncio.sleep(0)


gc.disable()  # while the rows are made
rows = [[number] for number in range(500_000)]
gc.enable()
bridge.run(main)

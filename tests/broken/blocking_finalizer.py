# expects: BRG101
# says: by the finalizer Connection.__del__
# advice: await bridge.to_thread(
# before: went on
# also: BRG102
# prints: went on
"""A finalizer that blocks, at a line that merely drops the last reference."""

import asyncio
import time

import bridge


class Connection:
    def __del__(self):
        time.sleep(0.7)  # <- BRG101


async def main():
    connection = Connection()
    connection = None
    print("went on")
    await asyncio.sleep(0)
    return connection


bridge.run(main)

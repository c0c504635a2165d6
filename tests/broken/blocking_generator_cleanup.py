# expects: BRG101
# says: by the end of the generator rows
# before: went on
# also: BRG102
# prints: went on
"""A generator that was not used up: its clean-up runs, and blocks, where the last reference to it goes away."""

import asyncio
import time

import bridge


def rows():
    try:
        yield 1
        yield 2
    finally:
        time.sleep(0.7)  # <- BRG101


async def main():
    found = rows()
    next(found)
    del found
    print("went on")
    await asyncio.sleep(0)


bridge.run(main)

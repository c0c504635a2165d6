# expects: BRG104
# says: {holding}
# prints: 1 matched
"""The same with a thread that bridge has not started."""

import asyncio
import re
import threading
import time

import bridge

SLUG = re.compile(r"([a-z0-9]+-?)+")


def count_slugs(texts, counts):
    time.sleep(0.1)  # the loop sleeps by now
    counts.append(sum(SLUG.fullmatch(text) is not None for text in texts))  # <- BRG104, holding


async def main():
    counts = []
    threading.Thread(target=count_slugs, args=(["a-b", *["a" * 22 + "!"] * 8], counts)).start()
    while not counts:
        await asyncio.sleep(0.01)
    print(counts[0], "matched")


bridge.run(main)

# prints: 120 rows
"""Many short calls through few workers: the last ones wait long, but the queue moves."""

import time

import bridge


def convert(row):
    time.sleep(0.02)
    return row


async def main():
    rows = 0
    async for _ in bridge.map(convert, range(120), to="one"):
        rows += 1
    print(rows, "rows")


bridge.run(main, executors={"one": bridge.ThreadExecutor(1)})

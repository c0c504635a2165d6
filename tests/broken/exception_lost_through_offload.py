# expects: BRG202
# says: {sent}
# prints: imported
"""loop -> thread -> loop: the lost task is told with the line that sent its creator to a thread."""

import asyncio

import bridge


async def index(row):
    raise ValueError(f"bad row {row}")


async def start_indexing(row):
    asyncio.create_task(index(row))  # <- BRG202


def import_rows():
    bridge.portal().call(start_indexing, 7)


async def main():
    await bridge.to_thread(import_rows)  # <- sent
    await asyncio.sleep(0.05)
    print("imported")


bridge.run(main)

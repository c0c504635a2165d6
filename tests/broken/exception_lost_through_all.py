# expects: BRG202
# says: {process}
# says: {thread}
# prints: imported
"""loop -> thread -> loop -> process -> loop: the whole chain of lines that led to the lost task."""

import asyncio

import bridge


async def index(row):
    raise ValueError(f"bad row {row}")


async def start_indexing(row):
    asyncio.create_task(index(row))  # <- BRG202


def convert(row):
    bridge.portal().call(start_indexing, row)


async def convert_elsewhere(row):
    await bridge.to_process(convert, row)  # <- process


def import_rows():
    bridge.portal().call(convert_elsewhere, 7)


async def main():
    await bridge.to_thread(import_rows)  # <- thread
    await asyncio.sleep(0.05)
    print("imported")


bridge.run(main)

# expects: BRG202
# says: {sent}
# prints: rendered
"""loop -> process -> loop: the same, from a worker process."""

import asyncio

import bridge


async def note(page):
    raise ValueError(f"bad page {page}")


async def start_noting(page):
    asyncio.create_task(note(page))  # <- BRG202


def render(page):
    bridge.portal().call(start_noting, page)


async def main():
    await bridge.to_process(render, 7)  # <- sent
    await asyncio.sleep(0.05)
    print("rendered")


bridge.run(main)

"""A blocking function in a worker thread uses what lives on the loop: a call, an `async for` and an `async with`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import bridge


async def orders() -> AsyncIterator[str]:
    for item in ("tea", "sugar", "milk"):
        await asyncio.sleep(0.001)
        yield item


async def price(item: str) -> int:
    await asyncio.sleep(0.001)
    return len(item)


@asynccontextmanager
async def till() -> AsyncIterator[list[int]]:
    takings: list[int] = []
    yield takings
    print(f"till closed with {sum(takings)}")


@bridge.offload
def sell() -> int:
    portal = bridge.portal()  # into the loop that sent this work here
    with portal.enter(till()) as takings:
        for item in portal.iterate(orders()):
            takings.append(portal.call(price, item))
    return len(takings)


print(f"{bridge.run(sell)} orders")

"""A synchronous program with async parts: a loop in a thread of its own, and a portal into it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import bridge


async def fetch(page: str) -> str:
    await asyncio.sleep(0.01)
    return f"<{page}>"


async def pages() -> AsyncIterator[str]:
    for number in (1, 2):
        yield await fetch(f"page {number}")


def main() -> None:
    with bridge.background_loop() as portal:
        print(portal.call(fetch, "start"))
        for page in portal.iterate(pages()):
            print(page)
        futures = [portal.run_coroutine_threadsafe(fetch(name)) for name in ("a", "b", "c")]  # all at once
        print(*(future.result() for future in futures))


main()

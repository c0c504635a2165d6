"""The same calls under trio: a named lane, many inputs, and a cancel scope that a thread obeys."""

from __future__ import annotations

import time
from contextlib import aclosing

import trio

import bridge

lines: list[str] = []


@bridge.offload(to="log")
def log(line: str) -> None:  # one at a time, so `lines` needs no lock
    lines.append(line)


def wait_for_ever() -> None:
    while True:
        bridge.check_cancelled()
        time.sleep(0.001)


async def main() -> None:
    async with bridge.lanes(log=bridge.ThreadExecutor(1)):
        async with aclosing(bridge.map(str.upper, ["one", "two", "three"])) as words:
            async for word in words:
                await log(word)
        with trio.move_on_after(0.05) as scope:
            await bridge.to_thread(wait_for_ever)
        await log(f"cancelled: {scope.cancelled_caught}")
    print(*lines, sep="\n")


trio.run(main)

"""A function that runs away, where no thread could stop it: its process is ended, and the next call goes on."""

from __future__ import annotations

import asyncio
import re
from time import perf_counter

import bridge


def is_sentence(text: str) -> bool:
    return re.fullmatch(r"(\w+\s?)*", text) is not None  # years, for a long word with a "!" behind it


async def main() -> None:
    async with bridge.ProcessExecutor(1, grace=0.1) as executor:
        print("it works:", await executor.run(is_sentence, "so far so good"))

        task = asyncio.create_task(executor.run(is_sentence, "a" * 50 + "!"))
        while not any(worker.function for worker in executor.statistics().workers):
            await asyncio.sleep(0.01)
        (worker,) = executor.statistics().workers
        print(f"{worker.function} has run away in process {worker.pid}")

        started = perf_counter()
        task.cancel()  # asks first; SIGTERM after `grace` seconds; SIGKILL after as many again
        try:
            await task
        except asyncio.CancelledError:
            print(f"ended {perf_counter() - started:.1f} s after it was cancelled")
        print("it works:", await executor.run(is_sentence, "and on it goes"))


bridge.run(main)

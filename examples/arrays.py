"""A numpy array goes to a worker process and comes back changed, 64 MB each way, through memory that both can see."""

from __future__ import annotations

import os
import sys
from time import perf_counter
from typing import Any

import bridge

try:
    import numpy as np
except ModuleNotFoundError as error:
    if error.name != "numpy":
        raise
    sys.exit("the arrays are numpy's, which is not installed; run: pip install '.[examples]'")


def double(array: Any) -> tuple[int, Any]:
    array *= 2  # the worker's own, and writable: the caller's array stays as it is
    return os.getpid(), array


async def main() -> None:
    array = await bridge.to_thread(np.arange, 8_000_000, dtype=np.float64)
    async with bridge.ProcessExecutor(1) as executor:
        seconds = []
        for _ in range(5):  # the first one starts the process, and gets the memory that the others use again
            started = perf_counter()
            pid, doubled = await executor.run(double, array)
            seconds.append(perf_counter() - started)
    print(f"{array.nbytes // 1_000_000} MB to process {pid} and back: {min(seconds) * 1000:.0f} ms")
    right = await bridge.to_thread(lambda: np.array_equal(doubled, array * 2))
    print(f"doubled: {right}; the array here is as it was: {array[1] == 1.0}")


bridge.run(main)

# flags: -W ignore::DeprecationWarning
# needs: linux
# prints: child 7, forked 3, worker 1024
"""Other processes, started in every way, one of them with a loop of its own in a forked child."""

import asyncio
import os
import sys

import bridge


async def child():
    process = await asyncio.create_subprocess_exec(sys.executable, "-S", "-c", "raise SystemExit(7)")
    return await process.wait()


async def in_the_child():
    await asyncio.sleep(0.15)
    return 3


def fork():
    pid = os.fork()
    if pid == 0:
        os._exit(bridge.run(in_the_child))
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


async def main():
    return f"child {await child()}", f"worker {await bridge.to_process(pow, 2, 10)}"


first, last = bridge.run(main)
print(f"{first}, forked {fork()}, {last}")

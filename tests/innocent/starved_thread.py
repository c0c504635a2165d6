# needs: linux
# prints: 8 served
"""Only the thread of the loop is kept from its core, the watchdog is not."""

import asyncio
import os
import subprocess
import sys
import time

import bridge

SPIN = "while True: pass"


def pin():
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})


async def serve():
    busy_until = time.thread_time() + 0.002
    while time.thread_time() < busy_until:
        pass
    await asyncio.sleep(0.005)


async def main():
    await serve()
    pin()  # this thread, and no other
    os.nice(19)
    for _ in range(8):
        await serve()
    print("8 served")


others = [subprocess.Popen([sys.executable, "-S", "-c", SPIN], preexec_fn=pin) for _ in range(4)]
try:
    bridge.run(main)
finally:
    for other in others:
        other.kill()
        other.wait()

# needs: linux
# prints: 8 served
"""Others have the core: the loop does little, and comes to do it late; so does the watchdog."""

import asyncio
import os
import subprocess
import sys
import time

import bridge

SPIN = """
input()
while True:
    pass
"""


async def serve():
    busy_until = time.thread_time() + 0.002
    while time.thread_time() < busy_until:
        pass
    await asyncio.sleep(0.005)


async def main():
    await serve()
    for other in others:
        other.stdin.write(b"go\n")
    for _ in range(8):
        await serve()
    for other in others:
        other.kill()
    print("8 served")


os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
others = [subprocess.Popen([sys.executable, "-S", "-c", SPIN], stdin=subprocess.PIPE, bufsize=0) for _ in range(4)]
os.nice(17)
bridge.run(main)
for other in others:
    other.wait()
    other.stdin.close()

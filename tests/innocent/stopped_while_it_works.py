# needs: linux
# prints: 100 rounds
"""The process is stopped at any time while the loop runs short callbacks, eight times."""

import asyncio
import os
import subprocess
import time

import bridge

STOP = "for time in 1 2 3 4 5 6 7 8; do sleep 0.1; kill -STOP $0; sleep 0.2; kill -CONT $0; done"


async def main():
    helper = subprocess.Popen(["sh", "-c", STOP, str(os.getpid())])
    rounds = 0
    while rounds < 100 or helper.poll() is None:
        busy_until = time.process_time() + 0.005
        while time.process_time() < busy_until:
            pass
        rounds += 1
        await asyncio.sleep(0)
    print("100 rounds")


bridge.run(main)

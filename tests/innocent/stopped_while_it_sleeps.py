# needs: linux
# prints: 5 ticks
"""The process is stopped while the loop sleeps and a timer becomes due."""

import asyncio
import os
import subprocess

import bridge

STOP = "sleep 0.2; kill -STOP $0; sleep 1; kill -CONT $0"


async def main():
    helper = subprocess.Popen(["sh", "-c", STOP, str(os.getpid())])
    for _ in range(5):
        await asyncio.sleep(0.1)
    print("5 ticks")
    await bridge.to_thread(helper.wait)


bridge.run(main)

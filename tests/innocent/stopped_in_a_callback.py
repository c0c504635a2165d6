# needs: linux
# prints: goes on
"""The process is stopped in the middle of a callback (Ctrl-Z, a suspended machine, a container that is frozen)."""

import asyncio
import os
import signal
import subprocess

import bridge

GO_ON = 'until grep -q "^State:.T" /proc/$0/status; do sleep 0.02; done; sleep 1; kill -CONT $0'


async def main():
    helper = subprocess.Popen(["sh", "-c", GO_ON, str(os.getpid())])
    await asyncio.sleep(0.05)
    os.kill(os.getpid(), signal.SIGSTOP)
    await asyncio.sleep(0.2)
    print("goes on")
    helper.wait()


bridge.run(main)

# prints: interrupted
"""Ctrl-C while the loop sleeps and a function waits in a thread."""

import asyncio
import os
import signal
import threading

import bridge


def wait():
    while True:
        bridge.check_cancelled()
        woken.wait(0.05)


async def main():
    waiting = asyncio.create_task(bridge.to_thread(wait))
    asyncio.get_running_loop().call_later(0.3, os.kill, os.getpid(), signal.SIGINT)
    await waiting


woken = threading.Event()
try:
    bridge.run(main)
except KeyboardInterrupt:
    print("interrupted")

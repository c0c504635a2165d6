# expects: BRG101
# says: waiting
# before: reloaded
# also: BRG102
# prints: reloaded
"""What a signal handler does, it does on the loop."""

import asyncio
import os
import signal
import time

import bridge


def reload(done):
    time.sleep(0.6)  # <- BRG101
    print("reloaded")
    done.set()


async def main():
    done = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, reload, done)
    os.kill(os.getpid(), signal.SIGHUP)
    await done.wait()


bridge.run(main)

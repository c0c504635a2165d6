# expects: BRG403
# says: SIGKILL
# says: convert
# prints: WorkerDied: SIGKILL
# prints: converted
"""A worker process is killed, as by the system for want of memory; the next call has another one."""

import os
import signal

import bridge


def convert(fatal):
    if fatal:
        os.kill(os.getpid(), signal.SIGKILL)
    return "converted"


async def main():
    try:
        await bridge.to_process(convert, True)  # <- BRG403
    except bridge.WorkerDied as error:
        print("WorkerDied:", error.signal.name)
    print(await bridge.to_process(convert, False))


bridge.run(main)

# expects: BRG403
# says: SIGSEGV
# says: decode
# prints: WorkerDied: SIGSEGV
"""C code crashes in a worker process."""

import ctypes
import resource

import bridge


def decode(address):
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    return ctypes.string_at(address)


async def main():
    try:
        await bridge.to_process(decode, 0)  # <- BRG403
    except bridge.WorkerDied as error:
        print("WorkerDied:", error.signal.name)


bridge.run(main)

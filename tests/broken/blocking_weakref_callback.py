# expects: BRG101
# says: by the callback of a weak reference, forget
# advice: await bridge.to_thread(
# before: went on
# also: BRG102
# prints: went on
"""A callback of a weak reference that blocks, at a line that merely drops the last strong one."""

import asyncio
import time
import weakref

import bridge


class Connection:
    pass


def forget(reference):
    time.sleep(0.7)  # <- BRG101


async def main():
    connection = Connection()
    reference = weakref.ref(connection, forget)
    del connection
    print("went on")
    await asyncio.sleep(0)
    return reference


bridge.run(main)

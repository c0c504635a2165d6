# expects: BRG101
# advice: await asyncio.sleep(0.6)
# says: waiting
# before: pushed
# also: BRG102
# prints: pushed
"""The loop of a synchronous program is in a thread of its own, and can be blocked there."""

import time

import bridge


async def push(message):
    time.sleep(0.6)  # <- BRG101
    return message


with bridge.background_loop() as portal:
    print(portal.call(push, "pushed"))

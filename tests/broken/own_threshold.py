# expects: BRG101
# advice: await asyncio.sleep(0.4)
# says: waiting
# before: frame drawn
# also: BRG102
# prints: frame drawn
"""What counts as blocked is the program's to say, as in asyncio; the first sleep is not, the second is."""

import asyncio
import time

import bridge


async def main():
    asyncio.get_running_loop().slow_callback_duration = 0.25
    time.sleep(0.15)
    await asyncio.sleep(0.01)
    time.sleep(0.4)  # <- BRG101
    print("frame drawn")


bridge.run(main)

# expects: BRG101
# advice: await asyncio.sleep(0.6)
# says: waiting
# before: old style
# also: BRG102
# prints: old style
"""bridge's loop, driven by hand."""

import time

import bridge


async def old_style():
    time.sleep(0.6)  # <- BRG101
    print("old style")


loop = bridge.new_event_loop()
try:
    loop.run_until_complete(old_style())
finally:
    loop.close()

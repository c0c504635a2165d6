# expects: BRG101
# advice: , in an async function, which refresh is not
# says: callback __main__.refresh
# before: refreshed
# also: BRG102
# prints: refreshed
"""A plain function that a thread has the loop run: no task is there to be named."""

import time

import bridge


def refresh():
    time.sleep(0.7)  # <- BRG101


def work(portal):
    portal.call(refresh)


async def main():
    await bridge.to_thread(work, bridge.portal())
    print("refreshed")


bridge.run(main)

# expects: BRG302
# says: {here}
# says: {there}
# stderr: bridge.errors.WouldDeadlock
# exit: 1
# also: BRG101
# also: BRG102
"""Two loops wait for each other, in a way that nobody can refuse: each stands still until the other goes on."""

import asyncio

import bridge


async def name():
    return "main"


async def greet(back):
    return "hello " + asyncio.run_coroutine_threadsafe(name(), back).result()  # <- there


async def main(portal):
    back = asyncio.get_running_loop()
    print(portal.run_coroutine_threadsafe(greet(back)).result())  # <- here, BRG302


with bridge.background_loop(diagnostics=False) as portal:  # so that it is the other one that tells
    bridge.run(main, portal)

# expects: BRG302
# advice: await load()
# prints: WouldDeadlock
"""portal.call on the loop it leads into is refused at once."""

import bridge


async def load():
    return 42


async def main():
    try:
        print(bridge.portal().call(load))  # <- BRG302
    except bridge.WouldDeadlock as error:
        print(type(error).__name__)


bridge.run(main)

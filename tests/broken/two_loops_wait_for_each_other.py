# expects: BRG302
# says: {there}
# also: BRG101
# also: BRG102
# prints: WouldDeadlock
"""A loop calls into another one and waits, and that one calls back and waits."""

import bridge


def name():
    return "main"


def greet(back):
    return "hello " + back.call(name)  # <- there, BRG302


async def main(portal):
    here = bridge.portal()
    try:
        print(portal.call(greet, here))
    except bridge.WouldDeadlock as error:
        print(type(error).__name__)


with bridge.background_loop() as portal:
    bridge.run(main, portal)

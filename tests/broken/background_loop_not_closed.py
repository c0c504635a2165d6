# expects: BRG501
# says: background
# stderr: ResourceWarning
# prints: 4
"""A background loop that is entered and never left."""

import bridge


async def square(number):
    return number**2


loop = bridge.background_loop()  # <- BRG501
portal = loop.__enter__()
print(portal.call(square, 2))

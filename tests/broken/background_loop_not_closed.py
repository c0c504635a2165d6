# expects: BRG501
# advice: with bridge.background_loop(name='mail') as portal:
# says: background_loop 'mail' was not closed
# stderr: ResourceWarning
# prints: 4
"""A background loop that is entered and never left: the program's end cuts off whatever it still has to do."""

import bridge


async def square(number):
    return number**2


loop = bridge.background_loop(name="mail")  # <- BRG501
portal = loop.__enter__()
print(portal.call(square, 2))

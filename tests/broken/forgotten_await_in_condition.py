# expects: BRG201
# advice: await is_admin(user)
# stderr: RuntimeWarning: coroutine 'is_admin' was never awaited
# prints: deleted by bob
"""A coroutine is true, whatever it would have returned."""

import bridge


async def is_admin(user):
    return user == "alice"


async def delete(user):
    if is_admin(user):  # <- BRG201
        print("deleted by", user)
    else:
        print("denied")


bridge.run(delete, "bob")

# expects: BRG101
# advice: await bridge.to_thread(
# says: lets other threads run
# before: stored
# also: BRG102
# prints: stored
"""C code that computes for long, but lets go of the GIL: a thread is enough."""

import hashlib

import bridge


async def register(user, password):
    digest = hashlib.pbkdf2_hmac("sha256", password.encode(), user.encode(), 2_500_000)  # <- BRG101
    return {user: digest.hex()}


async def main():
    users = await register("ada", "correct horse")
    print("stored" if "ada" in users else "lost")


bridge.run(main)

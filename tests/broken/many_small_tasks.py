# expects: BRG103
# says: check
# prints: checked 250
"""Many tasks that are ready at once and compute a few milliseconds each: no single one is slow, all together are."""

import asyncio
import hashlib

import bridge


async def check(password):
    return hashlib.pbkdf2_hmac("sha256", password, b"salt", 10_000)  # <- BRG103


async def main():
    digests = await asyncio.gather(*(check(b"%d" % number) for number in range(250)))
    await asyncio.sleep(0.2)
    print("checked", len(digests))


bridge.run(main)

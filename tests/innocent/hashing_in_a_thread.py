# prints: 2 hashes
"""C code that lets go of the GIL is well off in a thread, however much of its time it is on the CPU."""

import asyncio
import hashlib

import bridge


def digest(password):
    return hashlib.pbkdf2_hmac("sha256", password, b"salt", 3_000_000)


async def tick(until):
    while not until.done():
        await asyncio.sleep(0.01)


async def main():
    hashing = asyncio.ensure_future(asyncio.gather(*(bridge.to_thread(digest, word) for word in (b"a", b"b"))))
    await tick(hashing)
    print(len(await hashing), "hashes")


bridge.run(main)

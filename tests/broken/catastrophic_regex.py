# expects: BRG101
# advice: await bridge.to_process(
# says: holds the GIL
# also: BRG102
# prints: is a slug: False
"""A regular expression whose quantifiers are nested takes twice as long for each further character."""

import asyncio
import re

import bridge

SLUG = re.compile(r"([a-z0-9]+-?)+")


async def is_slug(text):
    return SLUG.fullmatch(text) is not None  # <- BRG101


async def main():
    print("is a slug:", await is_slug("a" * 24 + "!"))
    await asyncio.sleep(0.2)


bridge.run(main)

# expects: BRG201
# advice: await mailer.send('hello')
# says: AsyncMock mock.send()
# prints: tested
# stderr: was never awaited
"""A mock of an async method, called and not awaited, as tests do."""

import asyncio
from unittest.mock import AsyncMock

import bridge


async def main():
    mailer = AsyncMock()
    mailer.send("hello")  # <- BRG201
    await asyncio.sleep(0)
    print("tested")


bridge.run(main)

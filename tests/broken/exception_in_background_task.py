# expects: BRG202
# says: KeyError
# prints: the server has stopped
"""A background task dies, and the program serves on without it until its end."""

import asyncio

import bridge


class Server:
    def start(self):
        self.refreshing = asyncio.create_task(self.refresh())  # <- BRG202

    async def refresh(self):
        settings = {}
        while True:
            await asyncio.sleep(settings["interval"])


async def main():
    server = Server()
    server.start()
    await asyncio.sleep(0.05)
    del server
    print("the server has stopped")


bridge.run(main)

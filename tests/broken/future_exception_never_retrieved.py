# expects: BRG202
# says: connection lost
# prints: closed
"""Future.set_exception, and nobody has awaited the future. Who made a future is known in debug mode."""

import asyncio

import bridge


class Connection:
    def __init__(self):
        self.closed = asyncio.get_running_loop().create_future()  # <- BRG202

    def connection_lost(self):
        self.closed.set_exception(ConnectionError("connection lost"))


async def main():
    connection = Connection()
    connection.connection_lost()
    del connection
    print("closed")


bridge.run(main, debug=True)

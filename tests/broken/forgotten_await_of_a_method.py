# expects: BRG201
# advice: await self.connection.close()
# says: Connection.close
# stderr: RuntimeWarning: coroutine 'Connection.close' was never awaited
# prints: left
"""A method, in a method, in a nested function: the line is still found."""

import bridge


class Connection:
    async def close(self):
        print("closed")


class Session:
    def __init__(self):
        self.connection = Connection()

    async def __aenter__(self):
        return self

    async def __aexit__(self, *exc_info):
        def hang_up():
            self.connection.close()  # <- BRG201

        hang_up()


async def main():
    async with Session():
        pass
    print("left")


bridge.run(main)

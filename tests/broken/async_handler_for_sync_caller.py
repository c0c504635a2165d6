# expects: BRG201
# says: on_message
# stderr: RuntimeWarning: coroutine 'on_message' was never awaited
# prints: 1 message handled
"""An async function as a handler of something that calls handlers as plain functions."""

import bridge


class Client:
    def __init__(self):
        self.handlers = []

    def receive(self, message):
        for handler in self.handlers:
            handler(message)  # <- BRG201


async def on_message(message):
    print("got", message)


async def main():
    client = Client()
    client.handlers.append(on_message)
    client.receive("hello")
    print("1 message handled")


bridge.run(main)

# expects: BRG303
# advice: a queue.SimpleQueue
# says: the on_event callback count
# also: BRG101
# also: BRG102
# prints: the end
"""A listener that sends each event to a server, which does not answer."""

import threading
import time

import bridge

told = threading.Event()


def count(event):
    if event.code == "BRG101":
        told.wait()  # <- BRG303


def tell(event):
    if event.code == "BRG303":
        told.set()


async def main():
    time.sleep(0.5)


bridge.on_event(count)
bridge.on_event(tell)
bridge.run(main)
told.wait(60)
print("the end")

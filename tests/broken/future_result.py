# expects: BRG101
# advice: await bridge.to_thread(
# says: waiting
# before: converted
# also: BRG102
# prints: converted
"""The result of a concurrent future, waited for as in a thread."""

import time
from concurrent.futures import ThreadPoolExecutor

import bridge


def convert():
    time.sleep(0.7)
    return "converted"


async def main():
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(convert)
        print(future.result())  # <- BRG101


bridge.run(main)

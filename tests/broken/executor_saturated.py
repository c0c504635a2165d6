# expects: BRG401
# says: the only worker of 'db' is busy: __main__.query has waited for
# says: s, at {busy}
# advice: in_flight=1
# prints: [0, 1, 2]
"""One worker, three queries: the third one waits for longer than anybody would expect."""

import asyncio
import time

import bridge


def query(number):
    time.sleep(1.2)  # <- busy
    return number


async def main():
    run = bridge.offload(to="db")(query)
    print(await asyncio.gather(*(run(number) for number in range(3))))  # <- BRG401


bridge.run(main, executors={"db": bridge.ThreadExecutor(1, name="db")})

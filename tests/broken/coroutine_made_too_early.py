# expects: BRG201
# says: fetch
# stderr: RuntimeWarning: coroutine 'fetch' was never awaited
# prints: failed: no route to a
"""Two coroutines are made; the second one's await is not reached, because the first one fails."""

import bridge


async def fetch(host):
    raise OSError(f"no route to {host}")


async def main():
    first = fetch("a")
    second = fetch("b")  # <- BRG201
    try:
        print(await first, await second)
    except OSError as error:
        print("failed:", error)


bridge.run(main)

# expects: BRG201
# advice: await save('a')
# says: {run}
# stderr: Coroutine created at (most recent call last)
# prints: done
"""The same in debug mode: with the whole stack that made it."""

import bridge


async def save(row):
    print("saved", row)


async def main():
    save("a")  # <- BRG201
    print("done")


bridge.run(main, debug=True)  # <- run

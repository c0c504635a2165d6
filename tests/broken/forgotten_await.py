# expects: BRG201
# advice: await save('a')
# says: save
# stderr: RuntimeWarning: coroutine 'save' was never awaited
# prints: done
"""asyncio's guide, "Detect never-awaited coroutines"."""

import bridge


async def save(row):
    print("saved", row)


async def main():
    save("a")  # <- BRG201
    print("done")


bridge.run(main)

# expects: BRG201
# advice: await save('a')
# says: save()
# prints: done
# stderr: was never awaited
"""An async function beneath a decorator, whose wrapper has made the coroutine."""

import asyncio
import functools

import bridge


def counted(fn):
    @functools.wraps(fn)
    def wrapper(*args):
        return fn(*args)

    return wrapper


@counted
async def save(row):
    print("saved", row)


async def main():
    save("a")  # <- BRG201
    await asyncio.sleep(0)
    print("done")


bridge.run(main)

# expects: BRG302
# says: {waiting}
# hangs: yes
# also: BRG101
"""run_coroutine_threadsafe(...).result() on the loop that is to run the coroutine."""

import asyncio

import bridge


async def load():
    return 42


def settings():
    loop = asyncio.get_running_loop()
    return asyncio.run_coroutine_threadsafe(load(), loop).result()  # <- BRG302, waiting


async def main():
    print(settings())


bridge.run(main)

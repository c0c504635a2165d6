# expects: BRG101
# advice: bridge.to_process
# says: Python code on the CPU
# before: 501 shades
# also: BRG102
# prints: 501 shades
"""A computation in the coroutine itself: there is no call that could be sent away as it stands."""

import bridge


async def shades(size):
    found = {red * 7 % 251 + green * 3 % 251 for red in range(size) for green in range(size)}  # <- BRG101
    return len(found)


async def main():
    print(await shades(2800), "shades")


bridge.run(main)

# prints: 449999985000000
"""Python code that computes in a thread, while the loop has nothing to do but to wait for it: nobody is held up."""

import bridge


def count(below):
    total = 0
    for number in range(below):
        total += number
    return total


async def main():
    print(await bridge.to_thread(count, 30_000_000))


bridge.run(main)

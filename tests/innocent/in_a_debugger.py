# stdin: sleep 0.8; echo p total; sleep 0.8; echo next; sleep 0.5; echo continue
# prints: total 3
"""A breakpoint in a coroutine: the loop stands still for as long as somebody types."""

import asyncio

import bridge


async def add(numbers):
    total = 0
    for number in numbers:
        total += number
        if total == 3:
            breakpoint()  # noqa: T100
    await asyncio.sleep(0)
    print("\ntotal", total)


async def main():
    await asyncio.sleep(0.01)
    await add([1, 2])


bridge.run(main)

# prints: 3000 rounds
"""Much garbage, in cycles, in callbacks that are short: the collector has a lot to do, and little at a time."""

import asyncio

import bridge


def litter():
    for _ in range(100):
        knot = [{}, []]
        knot[1].append(knot)
        knot[0]["knot"] = knot


async def main():
    for _ in range(3000):
        litter()
        await asyncio.sleep(0)
    print("3000 rounds")


bridge.run(main)

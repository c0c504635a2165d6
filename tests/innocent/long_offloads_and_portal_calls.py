# prints: ['deep: 3', 'waited', 'waited']
"""Long waits in threads, in either direction: functions that sleep, and functions that wait for the loop."""

import asyncio
import time

import bridge


def wait_in_thread():
    time.sleep(1.5)
    return "waited"


async def wait_on_loop():
    await asyncio.sleep(1.5)
    return "waited"


def wait_for_loop():
    return bridge.portal().call(wait_on_loop)


async def deeper(level):
    return level if level == 3 else await bridge.offload(to="one")(call_back)(level + 1)


def call_back(level):
    return bridge.portal().call(deeper, level)


async def main():
    deep = bridge.offload(to="one")(call_back)(0)
    results = await asyncio.gather(deep, bridge.to_thread(wait_in_thread), bridge.to_thread(wait_for_loop))
    print([f"deep: {results[0]}", *results[1:]])


bridge.run(main, executors={"one": bridge.ThreadExecutor(1)})

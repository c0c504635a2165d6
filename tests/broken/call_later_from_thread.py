# expects: BRG301
# advice: call_soon_threadsafe(
# says: call_later
# prints: time is up
"""A timer is set from another thread, while the loop sleeps without one."""

import asyncio
import threading
import time

import bridge


def set_alarm(loop, alarm):
    time.sleep(0.1)  # the loop sleeps by now
    loop.call_later(0.05, alarm.set)  # <- BRG301


async def main():
    alarm = asyncio.Event()
    threading.Thread(target=set_alarm, args=(asyncio.get_running_loop(), alarm)).start()
    await alarm.wait()
    print("time is up")


bridge.run(main)

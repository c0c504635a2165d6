# expects: BRG101
# advice: await bridge.to_thread(subprocess.run,
# says: waiting
# before: b'ok\n'
# also: BRG102
# prints: b'ok\n'
"""A command that is waited for in a coroutine."""

import subprocess

import bridge


async def build():
    done = subprocess.run(["sh", "-c", "sleep 0.7; echo ok"], capture_output=True, check=True)  # <- BRG101
    return done.stdout


async def main():
    print(await build())


bridge.run(main)

# expects: BRG101
# advice: await bridge.to_thread(path.read_text)
# says: waiting
# before: read: ready
# also: BRG102
# needs: linux
# prints: read: ready
"""Opening a named pipe waits until somebody writes into it."""

import os
import subprocess
import tempfile
from pathlib import Path

import bridge


async def read(path):
    return path.read_text()  # <- BRG101


async def main():
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "pipe")
        os.mkfifo(path)
        writer = subprocess.Popen(["sh", "-c", f"sleep 0.7; echo ready > {path}"])
        print("read:", await read(path), end="")
        writer.wait()


bridge.run(main)

# needs: coverage
# prints: covered
"""coverage.py itself, with branches, threads included."""

import asyncio
import os
import tempfile

import coverage

import bridge


def parse(text):
    words = {}
    for word in text.split():
        if word in words:
            words[word] += 1
        else:
            words[word] = 1
    return words


async def worker(number):
    for _ in range(3):
        parse("the quick brown fox jumps over the lazy dog " * 20)
        await bridge.to_thread(parse, "one two three " * 20)
        await asyncio.sleep(0.001 * (number % 7))


async def main():
    await asyncio.gather(*(worker(number) for number in range(100)))


with tempfile.TemporaryDirectory() as folder:
    measured = coverage.Coverage(
        data_file=os.path.join(folder, "data"), branch=True, config_file=False, include=[__file__]
    )
    measured.start()
    bridge.run(main)
    measured.stop()
    if measured.get_data().measured_files():
        print("covered")
    measured.get_data().close()

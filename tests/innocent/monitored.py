# needs: 3.12
# prints: 120 parsed
"""The same with sys.monitoring."""

import asyncio
import sys
from collections import Counter

import bridge

lines = Counter()
monitoring = sys.monitoring


def note(code, line):
    lines[code, line] += 1


def parse(text):
    words = {}
    for word in text.split():
        words[word] = words.get(word, 0) + 1
    return words


async def worker(number):
    for _ in range(3):
        parse("the quick brown fox jumps over the lazy dog " * 20)
        await asyncio.sleep(0.001 * (number % 7))
    return number


async def main():
    parsed = await asyncio.gather(*(worker(number) for number in range(40)))
    print(3 * len(parsed), "parsed")


monitoring.use_tool_id(monitoring.COVERAGE_ID, "coverage")
monitoring.register_callback(monitoring.COVERAGE_ID, monitoring.events.LINE, note)
monitoring.set_events(monitoring.COVERAGE_ID, monitoring.events.LINE)
bridge.run(main)
monitoring.set_events(monitoring.COVERAGE_ID, 0)

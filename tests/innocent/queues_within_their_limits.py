# prints: 30 rows, 3 queries, 2 pages
"""Queues in which nobody waits for longer than he may, or in which somebody else waits for the whole."""

import asyncio
import time

import bridge


def convert(row):
    time.sleep(0.05)
    return row


def query(number):
    time.sleep(0.6)
    return number


async def main():
    run = bridge.offload(to="db")(query)
    return len(await asyncio.gather(*(run(number) for number in range(3))))


with bridge.ThreadExecutor(1) as executor:
    rows = len(list(executor.map(convert, range(30))))  # all submitted at once; the program waits for all
queries = bridge.run(main, executors={"db": bridge.ThreadExecutor(1, queue_limit=10)})
with bridge.ThreadExecutor(1) as executor:
    pages = [executor.submit(query, number) for number in range(3)]  # leaving the block waits for all
print(rows, "rows,", queries, "queries,", sum(page.done() for page in pages[1:]), "pages")

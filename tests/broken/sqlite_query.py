# expects: BRG101
# advice: await bridge.to_thread(
# before: total: 6000001
# also: BRG102
# prints: total: 6000001
"""A synchronous database driver, called from a coroutine."""

import asyncio
import sqlite3

import bridge

REPORT = """
    WITH RECURSIVE numbers(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM numbers WHERE i < 3000000)
    SELECT sum(i * i % 7) FROM numbers
"""


async def report(database):
    (total,) = database.execute(REPORT).fetchone()  # <- BRG101
    print("total:", total)


async def main():
    database = sqlite3.connect(":memory:")
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(report(database))
    finally:
        database.close()


bridge.run(main)

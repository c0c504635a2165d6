# prints: 6 errors
"""Tasks fail, and somebody asks them later: each in one of the ways there are."""

import asyncio
import gc

import bridge


async def fail(number):
    raise ValueError(number)


def fail_in_thread():
    raise ValueError("thread")


async def main():
    errors = []
    task = asyncio.create_task(fail(0))
    asked = asyncio.create_task(fail(1))
    asked.add_done_callback(lambda task: errors.append(task.exception()))
    await asyncio.sleep(0.3)
    gc.collect()
    try:
        await task
    except ValueError as error:
        errors.append(error)
    errors += await asyncio.gather(fail(2), fail(3), return_exceptions=True)
    done, _ = await asyncio.wait([asyncio.create_task(fail(4))])
    errors += [task.exception() for task in done]
    (error,) = await asyncio.gather(bridge.to_thread(fail_in_thread), return_exceptions=True)
    errors.append(error)
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(fail(5))
            group.create_task(asyncio.sleep(3600))
    except* ValueError:
        pass
    print(len(errors), "errors")


bridge.run(main)
gc.collect()

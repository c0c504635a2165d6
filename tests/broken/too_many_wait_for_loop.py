# expects: BRG405
# says: 4 functions of 'clients' have begun and most of them wait for a loop
# says: __main__.ask cannot begin before one has ended
# says: 4 x __main__.ask for
# says: s, at {waits}
# advice: max_lent=6
# prints: 30 answers
"""Thirty functions that wait for the loop, in an executor that has threads for four of them."""

import asyncio

import bridge


async def answer(number):
    await asyncio.sleep(0.05)
    return number


def ask(number):
    return bridge.portal().call(answer, number)  # <- waits


async def main():
    run = bridge.offload(to="clients")(ask)
    answers = await asyncio.gather(*(run(number) for number in range(30)))  # <- BRG405
    print(len(answers), "answers")


bridge.run(main, executors={"clients": bridge.ThreadExecutor(1, name="clients", max_lent=3)})

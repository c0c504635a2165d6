# expects: BRG101
# advice: await bridge.to_process(count_primes, 13000)
# says: Python code on the CPU
# before: 1547 primes
# also: BRG102
# prints: 1547 primes
"""A computation in pure Python, called from a coroutine: another thread would not help, another process does."""

import bridge


def count_primes(below):
    count = 0
    for number in range(2, below):
        count += all(number % divisor for divisor in range(2, number))  # <- BRG101
    return count


async def main():
    found = count_primes(13_000)
    print(found, "primes")


bridge.run(main)

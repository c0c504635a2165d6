# expects: BRG101
# advice: await bridge.to_process(count_primes, 11000)
# says: Python code on the CPU
# before: 1337 primes
# also: BRG102
# prints: 1337 primes
"""A computation in pure Python, called from a coroutine: another thread would not help, another process does."""

import bridge


def count_primes(below):
    count = 0
    for number in range(2, below):
        count += all(number % divisor for divisor in range(2, number))  # <- BRG101
    return count


async def main():
    found = count_primes(11_000)
    print(found, "primes")


bridge.run(main)

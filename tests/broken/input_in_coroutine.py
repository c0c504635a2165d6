# expects: BRG101
# advice: await bridge.to_thread(input, 'name? ')
# says: waiting
# before: name? hello Ada
# also: BRG102
# stdin: sleep 3; echo Ada
# prints: name? hello Ada
"""A question to the user stops the loop until he has typed the answer."""

import bridge


async def ask():
    return input("name? ")  # <- BRG101


async def main():
    name = await ask()
    print("hello", name)


bridge.run(main)

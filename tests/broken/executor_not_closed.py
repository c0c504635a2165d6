# expects: BRG501
# advice: with bridge.ThreadExecutor(2) as executor:
# says: ThreadExecutor
# stderr: ResourceWarning
# before: collected
# prints: [1, 4, 9]
"""An executor is made for one call, and dropped."""

import bridge


def squares():
    executor = bridge.ThreadExecutor(2)  # <- BRG501
    return list(executor.map(pow, [1, 2, 3], [2, 2, 2]))


print(squares())
print("collected")

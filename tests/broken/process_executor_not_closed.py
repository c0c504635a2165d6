# expects: BRG501
# says: ProcessExecutor
# stderr: ResourceWarning
# prints: 1024
"""A process executor is still open when the program ends."""

import bridge

executor = bridge.ProcessExecutor(1, name="render")  # <- BRG501
print(executor.submit(pow, 2, 10).result())

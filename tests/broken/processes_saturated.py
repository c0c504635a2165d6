# expects: BRG401
# says: the only worker of 'render' is busy: __main__.render has waited for
# says: sent at {busy}
# advice: bridge.ProcessExecutor(2)
# prints: [0, 1]
"""A worker process is busy for longer than a call may wait for it, as its executor was told."""

import time

import bridge


def render(number):
    time.sleep(0.8)
    return number


with bridge.ProcessExecutor(1, name="render", queue_limit=0.3) as executor:
    first = executor.submit(render, 0)  # <- busy
    second = executor.submit(render, 1)  # <- BRG401
    print([first.result(), second.result()])

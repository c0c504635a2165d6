# expects: BRG301
# advice: call_soon_threadsafe(loop.stop)
# prints: stopped
"""loop.stop from another thread, while the loop sleeps."""

import threading
import time

import bridge


def stop(loop):
    time.sleep(0.1)  # the loop sleeps by now
    loop.stop()  # <- BRG301


loop = bridge.new_event_loop()
threading.Thread(target=stop, args=(loop,)).start()
loop.run_forever()
loop.close()
print("stopped")

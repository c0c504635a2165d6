# expects: BRG101
# advice: await bridge.to_thread(refresh, cache)
# says: {awaiting}
# before: refreshed 2
# also: BRG102
# prints: refreshed 2
"""The blocking line is in a plain function, deep below the coroutine that should have sent it away."""

import time

import bridge


class Cache(dict):
    def fill(self, names):
        for name in names:
            self[name] = self.load(name)

    def load(self, name):
        if name == "slow":
            time.sleep(0.6)  # <- BRG101
        return name.upper()


def refresh(cache):
    cache.fill(["quick", "slow"])
    return len(cache)


async def main():
    cache = Cache()
    count = refresh(cache)  # <- awaiting
    print("refreshed", count)


bridge.run(main)

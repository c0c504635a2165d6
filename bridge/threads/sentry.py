"""The sentry: a thread on duty while anybody waits for a loop, that notices loops which went away without a word.

A loop that bridge runs says when it closes. A stock loop says nothing, and one that was stopped and never closed does
not even change. So while callers wait, the sentry looks at their loops every `INTERVAL`: one that is closed has its
callers answered at once, one that is merely not running after `GRACE` (a loop stands still for a moment between two
`run_until_complete`). When nobody waits for `LINGER` the thread leaves; the next caller starts another.

`off_duty` is written by the sentry's thread and read without a lock by callers, after they have put themselves into
`host.waits`; the sentry looks into `waits` once more after setting it. One of the two sees the other.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING
from weakref import WeakSet

from bridge.threads.fork import tell_after_fork

if TYPE_CHECKING:
    from bridge.threads.host import Host

INTERVAL = 0.1
GRACE = 1.0
LINGER = 2.0


class Sentry:
    """Watches loops for which threads are waiting. `clock` and `sleep` are in seconds and can be faked."""

    def __init__(self, clock: Callable[[], float] = time.monotonic, sleep: Callable[[float], None] = time.sleep):
        self.off_duty: bool = True
        self._clock = clock
        self._sleep = sleep
        self._lock = threading.Lock()
        self._hosts: WeakSet[Host] = WeakSet()
        self._not_running_since: dict[int, float] = {}
        tell_after_fork(self)

    def watch(self, host: Host) -> None:
        """Know `host` from now on, for as long as it lives."""
        with self._lock:
            self._hosts.add(host)

    def call(self) -> None:
        """Be on duty, because somebody waits."""
        with self._lock:
            if not self.off_duty:
                return
            self.off_duty = False
        threading.Thread(target=self._patrol, name="bridge-sentry", daemon=True).start()

    def look(self) -> bool:
        """Look at every loop once, answering in the stead of those that are gone. True if anybody waits."""
        now = self._clock()
        with self._lock:
            hosts = [host for host in self._hosts if host.waits]
        standing = {}
        for host in hosts:
            trouble = host.trouble()
            if trouble is None:
                continue
            if trouble.startswith("closed"):
                host.close(f"{host!r} was closed")
                continue
            since = self._not_running_since.get(id(host), now)
            if now - since >= GRACE:
                host.strand(f"{host!r} is not running: {trouble}, and nobody has started it again for {GRACE:g} s")
            else:
                standing[id(host)] = since
        self._not_running_since = standing
        return bool(hosts)

    def _patrol(self) -> None:
        needed_at = self._clock()
        while True:
            self._sleep(INTERVAL)
            now = self._clock()
            if self.look():
                needed_at = now
            elif now - needed_at >= LINGER:
                self.off_duty = True
                if not self._anybody_waits():
                    return
                with self._lock:
                    if not self.off_duty:  # a caller has started another sentry meanwhile
                        return
                    self.off_duty = False

    def _anybody_waits(self) -> bool:
        with self._lock:
            return any(host.waits for host in self._hosts)

    def after_fork_in_child(self) -> None:
        self._lock = threading.Lock()
        self.off_duty = True


#: The one sentry of this process.
sentry: Sentry = Sentry()

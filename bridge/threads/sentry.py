"""The sentry: a thread on duty while any thread waits for a loop, which notices loops that went away without a word.

A loop that bridge runs says when it closes. A stock loop says nothing, and one that was stopped and never closed does
not even change. So while callers wait, the sentry looks at their loops every `INTERVAL`: one that is closed has its
callers answered at once, one that is merely not running after `GRACE` (a loop stands still for a moment between two
`run_until_complete`). When no thread has waited for `LINGER` the sentry leaves; the next caller starts another.

`permits` holds one element while no sentry is on duty; taking it out, in one atomic step, is the right to start one.
Callers look at it after they have put themselves into `host.waits`; a sentry that leaves puts the permit back and then
looks into `waits` once more. One of the two sees the other. There is no lock that an interrupted caller could leave shut.

When the main thread has ended, a call that blocks a thread which the interpreter joins holds up the end of the program.
It may do so for the `exit_timeout` of its loop; then it is answered with LoopClosed, and its coroutine is cancelled. From
then on the sentry stays on duty, because `atexit` functions may call a loop and Python starts no thread any more.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

from bridge.errors import LoopClosed
from bridge.threads.deadlock import thread_of
from bridge.threads.fork import tell_after_fork
from bridge.threads.green import require_threads
from bridge.threads.program_end import before_joining

if TYPE_CHECKING:
    from bridge.threads.host import Host, Waiting

INTERVAL = 0.1
GRACE = 1.0
LINGER = 2.0


class Sentry:
    """Watches loops for which threads are waiting. `clock` and `sleep` are in seconds and can be faked."""

    def __init__(self, clock: Callable[[], float] = time.monotonic, sleep: Callable[[float], None] = time.sleep):
        self.permits: list[None] = [None]
        self._clock = clock
        self._sleep = sleep
        self._hosts: WeakValueDictionary[int, Host] = WeakValueDictionary()
        self._not_running_since: dict[int, float] = {}
        self._program_ends: bool = False
        self._holding_up_since: dict[Waiting, float] = {}
        tell_after_fork(self)

    def watch(self, host: Host) -> None:
        """Know `host` from now on, for as long as it lives."""
        self._hosts[id(host)] = host

    def call(self) -> None:
        """Be on duty, because a thread waits. Where no thread can be started, the next caller tries again."""
        try:
            try:
                self.permits.pop()
            except IndexError:
                return
            require_threads("the sentry", "thread")  # which would stand in the way of the loop, and of the program's end
            threading.Thread(target=self._patrol, name="bridge-sentry", daemon=True).start()
        except RuntimeError:  # there is no thread to be had, or none any more because the interpreter is ending
            self.permits[:] = [None]
        except BaseException:  # Ctrl-C, perhaps when it had started: two of them do no harm
            self.permits[:] = [None]
            raise

    def stay(self) -> None:
        """The main thread has ended: from now on look for calls that hold up the end of the program."""
        self._program_ends = True
        if self._hosts:
            self.call()

    def look(self) -> bool:
        """Look at every loop once, answering in the stead of those that are gone. True if any thread waits."""
        now = self._clock()
        hosts = list(self._waited_for())
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
        if self._program_ends:
            self._end_waits(hosts, now)
        return bool(hosts)

    def _end_waits(self, hosts: list[Host], now: float) -> None:
        joined = {thread.ident or 0 for thread in (*threading.enumerate(), threading.main_thread()) if not thread.daemon}
        before, self._holding_up_since = self._holding_up_since, {}
        for host in hosts:
            if thread_of(host) in joined:  # the loop itself is what goes on; it ends when its thread does
                continue
            for waiting in [each for each in list(host.waits) if each.blocks_any_of(joined)]:
                since = self._holding_up_since[waiting] = before.get(waiting, now)
                if now - since >= host.exit_timeout:
                    waiting.refuse(
                        LoopClosed(
                            f"the program is ending, and this call into {host!r} has held it up for {now - since:.0f} s: "
                            f"it was cancelled. Join the threads that call a loop before the main thread ends, or start "
                            f"them with daemon=True."
                        )
                    )

    def _patrol(self) -> None:
        needed_at = self._clock()
        while True:
            self._sleep(INTERVAL)
            now = self._clock()
            if self.look():
                needed_at = now
            elif now - needed_at >= LINGER and not self._program_ends:
                self.permits[:] = [None]
                if not any(self._waited_for()):
                    return
                try:
                    self.permits.pop()
                except IndexError:  # a caller has started another sentry in the meantime
                    return

    def _waited_for(self) -> Iterator[Host]:
        for reference in self._hosts.valuerefs():
            host = reference()
            if host is not None and host.waits:
                yield host

    def after_fork_in_child(self) -> None:
        self.permits = [None]


#: The one sentry of this process.
sentry: Sentry = Sentry()
before_joining(sentry.stay)

"""How many functions may begin on lent slots, and which ones beyond that: so that waiting is no way to endless threads.

A function that waits for a loop lends its slot, and another one begins on it. Without a bound, 3,000 functions that wait
are 3,000 threads. The bound counts the functions of one executor that have begun and not ended, running or waiting:

    fewer than max_workers + max_lent              any call may begin, in order
    so many, and fewer than `level` more           only calls nested in a function that has not ended
    for each further `level`                       only calls nested one function deeper

What "nested" means: a call is nested in every function by whose own portal call it was sent, directly or through tasks,
threads and other executors in between, as long as that function has not ended. It is read from the trail
(`threads.trail`), which is in the contextvars context: each task and callback that the call makes copies it, whatever
the loop, and a request of a worker process runs in it, too. All portal calls count: `call`, `enter`, `iterate`,
`run_coroutine_threadsafe` (its result may be waited for later), and `executor.submit` in a worker, because a portal call
may wait for its future. A stream's generator waits for its consumer, so what the consumer sends while it iterates is
nested in the generator. The depth is kept apart from the lines that the trail shows, which are cut after a few steps.
What has been left behind by functions that have ended is nested in nothing, however often it sends itself off again.

Why it cannot starve. Let D be the depth of the function that was the last to begin, of those that have not ended. When
it began, there were fewer than max_workers + max_lent + D * level; so now there are at most as many, and a call of depth
D + 1 may begin. If every function waits for calls of its own, this one does: its call is D + 1 deep, or deeper. So some
call may always begin, as soon as a slot is free; slots are free, for all that have begun wait. Calls that may begin do
so in order, and each ends sooner or later by the same reasoning about the finite tree below it. Then the number falls,
and the calls nested less deep have their turn. Returning functions get their slots as without a bound, ahead of all
calls.

What can starve is a function that waits for a call that is not nested in it (an asyncio.Event that a later call sets),
if more than max_workers + max_lent functions wait in this way at once. That is why the bound is announced (BRG405).

The bound costs nothing until it is reached: only then are calls sorted by their depth, each of them once.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from itertools import chain
from typing import TYPE_CHECKING

from bridge.threads.trail import depth_of

if TYPE_CHECKING:
    from bridge.threads.job import Job


class Bound:
    """The limits of one executor: `limit` functions, and `level` more for each function that a call is nested in."""

    __slots__ = ("level", "limit")

    def __init__(self, max_workers: int, max_lent: int, level: int):
        self.limit: int = max_workers + max_lent
        self.level: int = level

    def depth(self, begun: int) -> int:
        """How deep a call must be nested to begin while so many functions have begun and not ended."""
        return 0 if begun < self.limit else 1 + (begun - self.limit) // self.level

    def room(self, begun: int) -> int:
        """How many calls of that depth may begin."""
        return self.limit + self.depth(begun) * self.level - begun


class Backlog:
    """Calls that wait, sorted by how deep they are nested, those of one depth in order. Empty below the bound.

    `to` is where they are on their way to, a "thread" or a "process". Whoever owns it sees that no two threads change it
    at once.
    """

    def __init__(self, to: str):
        self._to = to
        #: By depth. None is empty, but for a moment.
        self.lines: dict[int, deque[Job]] = {}

    def __iter__(self) -> Iterator[Job]:
        """From any thread."""
        return chain.from_iterable(list(line) for line in list(self.lines.values()))

    def take_over(self, queue: deque[Job]) -> None:
        """Sort in what is queued. Others may take from `queue`, and append to it, meanwhile.

        A job is taken out of the queue when it is in its line already: whatever interrupts this, it is not lost. In the
        worst case it is in both, and is claimed but once.
        """
        while True:
            try:
                job = queue[0]
            except IndexError:
                return
            if not job.withdrawn:
                depth = depth_of(job, self._to)
                line = self.lines.get(depth)
                if line is None:
                    line = self.lines[depth] = deque()
                line.append(job)
            with suppress(ValueError):  # a worker was quicker
                queue.remove(job)

    def next_line(self, depth: int) -> deque[Job] | None:
        """The line with the oldest call of those that are nested so deep, or deeper; None if there is no such call."""
        oldest = None
        for each, line in list(self.lines.items()):
            while line and line[0].withdrawn:
                line.popleft()
            if not line:
                del self.lines[each]
            elif each >= depth and (oldest is None or line[0].queued_at < oldest[0].queued_at):
                oldest = line
        return oldest

    def put_back(self, jobs: list[Job]) -> None:
        """To the heads of their lines, in their order."""
        for job in reversed(jobs):
            self.lines.setdefault(depth_of(job, self._to), deque()).appendleft(job)

    def count(self, depth: int) -> int:
        """The calls that are nested so deep, or deeper."""
        return sum(len(line) for each, line in self.lines.items() if each >= depth)

    def remove(self, job: Job) -> None:
        """Raises ValueError if it is not there."""
        for line in self.lines.values():
            if job in line:
                line.remove(job)
                return
        raise ValueError(job)


def checked_max_lent(max_lent: object, default: int) -> int:
    """`max_lent`, or the default for None. Raises TypeError, ValueError."""
    if max_lent is None:
        return default
    if not isinstance(max_lent, int) or isinstance(max_lent, bool):
        raise TypeError(f"max_lent must be a whole number of functions, not {max_lent!r}: write max_lent=256")
    if max_lent < 0:
        raise ValueError(f"max_lent cannot be negative: {max_lent}. Write max_lent=0 for none")
    return max_lent

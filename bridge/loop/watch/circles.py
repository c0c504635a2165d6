"""BRG302 for a loop that is blocked: does it wait for something that nobody is left to do?

    blocked beyond a mark ──> find_deadlock ──> suspected ── the same circle at the next look ──> told, once

In and out: the watchdog's thread only; the answer that ends a circle is given by a thread of its own. The threads of a
circle may be those of several loops, each with a watcher that sees the same circle: it is told by the first, for as long
as that one's loop stays blocked.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from threading import Thread
from weakref import WeakValueDictionary

from bridge.diagnostics.delivery import log_elsewhere
from bridge.diagnostics.stacks import frames_of_others
from bridge.diagnostics.switch import wanted
from bridge.threads.deadlock import Deadlock
from bridge.threads.wait_graph import find_deadlock

logger: logging.Logger = logging.getLogger("bridge.threads.BRG302")

#: A thread's wait: the thread, what it waits for, and the lines at which it stands.
_Key = tuple[int, str, tuple[str, ...]]


class CircleWatch:
    """Looks for a circle of waits for as long as a loop is blocked in one callback."""

    def __init__(self) -> None:
        self._mark = 0
        self._suspected: frozenset[_Key] | None = None
        self._told = False

    def look(self, ident: int, mark: int) -> None:
        """The loop of thread `ident` is blocked, and has been reported `mark` times: a search for each, and one more
        where it has found something."""
        if self._told or (mark == self._mark and self._suspected is None):
            return
        self._mark = mark
        found = _circle_of(ident)
        before, self._suspected = self._suspected, None if found is None else _keys(found)
        if found is None or self._suspected != before or before is None:
            return
        self._told = True
        if wanted() and not any(key in _told for key in before):
            for key in before:
                _told[key] = self
            found.tell()
            _answer_elsewhere(found)


def _circle_of(ident: int) -> Deadlock | None:
    try:
        return find_deadlock(ident, frames_of_others())
    except Exception as error:  # most likely what was read has changed meanwhile, so that somebody goes on
        log_elsewhere(logger.name, logging.DEBUG, "waits could not be followed", error)
        return None


def _answer_elsewhere(circle: Deadlock) -> None:
    """Whoever is answered may have callbacks, and what those do is not to keep the watchdog."""
    with suppress(RuntimeError):  # the interpreter ends
        Thread(target=circle.answer, name="bridge-deadlock", daemon=True).start()


#: The waits that have been told, and by whom; they are forgotten with the episode.
_told: WeakValueDictionary[_Key, CircleWatch] = WeakValueDictionary()


def _keys(circle: Deadlock) -> frozenset[_Key]:
    return frozenset((each.ident, each.what, tuple(each.stack.lines())) for each in circle.participants)

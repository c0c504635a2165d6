"""Log records of worker processes, as they come in: given to the loggers of this process, as if they were made here.

levels, LevelWatch ── SETUP, LEVELS ──> worker: makes what is wanted ── LOG ──> handle_record ──> logger, handlers
"""

from __future__ import annotations

import logging
import pickle

from bridge.executors.process.worker.logs import DISABLED

_complaints = logging.NullHandler()


def levels() -> dict[str, int]:
    """The levels that loggers of this process were given, by name (the root logger's is ""), and `logging.disable`."""
    manager = logging.root.manager
    found = {"": logging.root.level, DISABLED: manager.disable}
    for name, logger in list(manager.loggerDict.items()):
        if isinstance(logger, logging.Logger) and logger.level:
            found[name] = logger.level
    return found


class LevelWatch:
    """Says when levels have changed, for some 50 ns a look.

    `logging` forgets what it has cached about levels whenever one is set. A mark of ours in that cache is then gone.
    """

    def __init__(self) -> None:
        self._mark = object()
        self._levels = self._look()

    def changed(self) -> dict[str, int] | None:
        """The levels, if they are others than when last asked."""
        if self._mark in getattr(logging.root, "_cache", ()):
            return None
        before, self._levels = self._levels, self._look()
        return None if before == self._levels else self._levels

    def _look(self) -> dict[str, int]:
        cache = getattr(logging.root, "_cache", None)
        if cache is not None:
            cache[self._mark] = True  # before looking: what changes meanwhile removes it
        return levels()


def handle_record(payload: bytes) -> None:
    """Give a worker's record to the logger of its name. Never raises: a handler that does is reported on stderr."""
    record = logging.makeLogRecord({"msg": "a log record of a worker process cannot be read"})
    try:
        plain, packed = pickle.loads(payload)
        record.__dict__.update(plain)
        for name, data in packed.items():
            record.__dict__[name] = _unpacked(data)
        logger = logging.getLogger(record.name)
        if logger.isEnabledFor(record.levelno):
            logger.handle(record)
    except Exception:
        _complaints.handleError(record)


def _unpacked(data: bytes) -> object:
    try:
        return pickle.loads(data)
    except Exception as why:
        return f"<cannot be unpickled here: {type(why).__name__}: {why}>"

"""Log records of a worker process, on their way to the parent's loggers.

    logger.warning(...) ── level of the parent's logger ──> root handler ── pack_record ──> LOG frame
    LEVELS frame ──> apply_levels

What the parent would not have is not even made: the loggers here have the parent's levels. Nothing else is changed: what
an initializer does to logging in this process stays as it is. Warnings go to stderr, as ever.
"""

from __future__ import annotations

import logging
import os
import pickle
from collections.abc import Callable, Mapping
from typing import Any

#: The name under which the level of `logging.disable` travels; no logger has it.
DISABLED = "\0disabled"

_PLAIN = (str, int, float, bool, type(None))
_formatter = logging.Formatter()
_applied: set[str] = set()


class Forwarder(logging.Handler):
    """Gives records to `send`, packed, in the thread that made them.

    The handler's lock is not taken: a finalizer may make a record anywhere, also in a thread that is just sending one.
    """

    def __init__(self, send: Callable[[bytes], object]):
        super().__init__()
        self._send = send
        self._pid = os.getpid()

    def handle(self, record: logging.LogRecord) -> bool:
        passed = self.filter(record)
        if passed:
            self.emit(passed if isinstance(passed, logging.LogRecord) else record)
        return bool(passed)

    def emit(self, record: logging.LogRecord) -> None:
        try:
            if os.getpid() == self._pid:
                self._send(pack_record(record))
            elif logging.lastResort is not None and record.levelno >= logging.lastResort.level:
                logging.lastResort.handle(record)  # in a child that was forked here: the way to the parent is not its own
        except RecursionError:
            raise
        except Exception:
            self.handleError(record)


def forward_logs(send: Callable[[bytes], object], levels: Mapping[str, int]) -> Forwarder:
    """From now on the records of this process go to `send`, as far as the parent's levels want them."""
    apply_levels(levels)
    forwarder = Forwarder(send)
    logging.getLogger().addHandler(forwarder)
    return forwarder


def apply_levels(levels: Mapping[str, int]) -> None:
    """Give the loggers here the levels that those of the parent were given. Levels set by code here alone stay."""
    logging.disable(levels.get(DISABLED, logging.NOTSET))
    for name, level in levels.items():
        if name != DISABLED:
            logging.getLogger(name).setLevel(level)
    for name in _applied.difference(levels):
        logging.getLogger(name).setLevel(logging.NOTSET)
    _applied.clear()
    _applied.update(name for name in levels if name != DISABLED)


def pack_record(record: logging.LogRecord) -> bytes:
    """A record with its message formatted and its exception as text; what cannot be pickled of the rest as its repr."""
    told = dict(record.__dict__)
    told["msg"], told["args"] = record.getMessage(), None
    told.pop("message", None)
    if record.exc_info and not record.exc_text:
        told["exc_text"] = _formatter.formatException(record.exc_info)
    told["exc_info"] = None
    plain = {name: value for name, value in told.items() if type(value) in _PLAIN}
    packed = {name: _packed(value) for name, value in told.items() if name not in plain}
    return pickle.dumps((plain, packed))


def _packed(value: Any) -> bytes:
    try:
        return pickle.dumps(value)
    except Exception:
        pass
    try:
        return pickle.dumps(repr(value))
    except Exception:
        return pickle.dumps(object.__repr__(value))

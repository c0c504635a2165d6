"""Every code that bridge reports: what it is called, which logger it is written to, and how loudly.

docs/diagnostics.md says more of each.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

#: The loggers, by the first digit of the code.
_AREAS = {
    "1": "bridge.loop",
    "2": "bridge.tasks",
    "3": "bridge.threads",
    "4": "bridge.executors",
    "5": "bridge.resources",
}


@dataclass(frozen=True, slots=True)
class Code:
    """One kind of event. `name` is dotted, as OpenTelemetry names events; `level` is one of logging's."""

    code: str
    name: str
    title: str
    level: int

    @property
    def area(self) -> str:
        """The logger that all codes of this hundred have in common."""
        return _AREAS[self.code[3]]

    @property
    def logger_name(self) -> str:
        """The code's own logger is a child of the area's: setting its level silences this code and no other."""
        return f"{self.area}.{self.code}"

    @property
    def logger(self) -> logging.Logger:
        """The code's own logger."""
        return logging.getLogger(self.logger_name)

    @property
    def is_silenced(self) -> bool:
        """Has somebody set the level of its logger, or of its area's, higher than its own?"""
        return max(self.logger.level, logging.getLogger(self.area).level) > self.level


CATALOGUE: dict[str, Code] = {
    each.code: each
    for each in (
        Code("BRG101", "bridge.loop.blocked", "the loop is blocked", logging.WARNING),
        Code("BRG102", "bridge.loop.recovered", "the loop was blocked, and goes on", logging.WARNING),
        Code("BRG103", "bridge.loop.stalled", "many short callbacks hold the loop up", logging.WARNING),
        Code("BRG104", "bridge.loop.slow_poll", "the loop woke up late", logging.WARNING),
        Code("BRG201", "bridge.coroutine.never_awaited", "a coroutine was never awaited", logging.WARNING),
        Code("BRG202", "bridge.task.exception_never_retrieved", "an exception went unnoticed", logging.ERROR),
        Code("BRG301", "bridge.loop.wrong_thread", "a loop was called from a wrong thread", logging.WARNING),
        Code("BRG302", "bridge.thread.deadlock", "a wait that cannot end", logging.ERROR),
        Code("BRG303", "bridge.report.stuck", "a log handler or a listener does not return", logging.ERROR),
        Code("BRG401", "bridge.executor.saturated", "work waits for a worker for too long", logging.WARNING),
        Code("BRG402", "bridge.executor.cpu_bound", "a function in a thread keeps the GIL busy", logging.WARNING),
        Code("BRG403", "bridge.worker.died", "a worker process died", logging.WARNING),
        Code("BRG404", "bridge.executor.stuck", "something does not end", logging.ERROR),
        Code("BRG405", "bridge.executor.lent_out", "too many functions wait for a loop", logging.WARNING),
        Code("BRG501", "bridge.resource.not_closed", "something was not closed", logging.INFO),
        Code("BRG502", "bridge.test.leak", "a test left something running", logging.ERROR),
    )
}

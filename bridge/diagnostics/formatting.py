"""Two ways to write an event on one line: for people, and as JSON for machines. Both are `logging.Formatter`s."""

from __future__ import annotations

import json
import logging
import time
from typing import Any

from bridge.diagnostics.events import Event

#: OpenTelemetry's names for logging's levels.
_SEVERITY = {"DEBUG": "DEBUG", "INFO": "INFO", "WARNING": "WARN", "ERROR": "ERROR", "CRITICAL": "FATAL"}


class LineFormatter(logging.Formatter):
    """One readable line a record: an event's headline and what to write instead, without stacks.

    Records that are no events of bridge are formatted as by `logging.Formatter`, and their lines joined.
    """

    def format(self, record: logging.LogRecord) -> str:
        event: Event | None = getattr(record, "bridge_event", None)
        if event is None:
            return " | ".join(super().format(record).splitlines())
        advice = f"; write: {event.advice}" if event.advice else ""
        record.message = " ".join(f"{event.title}{advice}".split())
        if self.usesTime():
            record.asctime = self.formatTime(record, self.datefmt)
        return self.formatMessage(record)


class JsonFormatter(logging.Formatter):
    """One JSON object a line, its keys as in OpenTelemetry's log data model; for any record, bridge's or not.

    `timestamp` (UTC, ISO 8601), `severity_text`, `logger`, `body`; for an event of bridge also
    `event_name`, `advice`, `details` and `attributes` with `bridge.code`, `code.file.path`, `code.line.number`,
    `code.function.name` and the event's own.
    """

    def format(self, record: logging.LogRecord) -> str:
        event: Event | None = getattr(record, "bridge_event", None)
        line: dict[str, Any] = {
            "timestamp": _utc(record.created),
            "severity_text": _SEVERITY.get(record.levelname, record.levelname),
            "logger": record.name,
            "body": record.getMessage() if event is None else event.headline,
        }
        attributes: dict[str, Any] = {"thread.name": record.threadName}
        if event is not None:
            line |= {"event_name": event.name, "advice": event.advice, "details": list(event.details)}
            attributes |= _attributes(event)
        if record.exc_info and record.exc_info[0] is not None:
            kind, error, _ = record.exc_info
            attributes |= {
                "exception.type": kind.__qualname__,
                "exception.message": str(error),
                "exception.stacktrace": self.formatException(record.exc_info),
            }
        line["attributes"] = attributes
        return json.dumps(line, ensure_ascii=False, default=str)


def _attributes(event: Event) -> dict[str, Any]:
    attributes: dict[str, Any] = {"bridge.code": event.code, "bridge.repeats": event.repeats}
    if event.place is not None:
        attributes |= {
            "code.file.path": event.place.file,
            "code.line.number": event.place.line,
            "code.function.name": event.place.function,
        }
    return attributes | dict(event.attributes)


def _utc(seconds: float) -> str:
    whole, microseconds = divmod(round(seconds * 1e6), 1_000_000)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(whole))}.{microseconds:06d}Z"

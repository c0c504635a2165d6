"""Has the program that is just being started tell what bridge logs, on standard output, between what it prints itself.

Python imports this module before the program, which is then run as any other: nothing else of it is changed. Each record
is one JSON object between the bytes 1E and 1F, written at once; with `python -u`, the order on the pipe is the order in
which things happened. Programs that this one starts are not observed.
"""

from __future__ import annotations

import logging
import os

from bridge.diagnostics.formatting import JsonFormatter


class Observer(logging.Handler):
    """Writes past `sys.stdout`, which the program may have replaced, and which may be closed already."""

    def emit(self, record: logging.LogRecord) -> None:
        os.write(1, b"\x1e" + self.format(record).encode() + b"\x1f")


def observe() -> None:
    observer = Observer()
    observer.setFormatter(JsonFormatter())
    logger = logging.getLogger("bridge")
    logger.addHandler(observer)
    logger.setLevel(logging.INFO)
    os.write(1, b"\x1e{}\x1f")  # without this word a silent program would look like an innocent one


if os.environ.pop("BRIDGE_TESTS_OBSERVE", None):
    observe()

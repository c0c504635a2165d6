"""Numbers of seconds that users pass: checked in one place, and cut to what a wait of the standard library takes.

Infinity is a number of seconds everywhere, and means that there is no limit.
"""

from __future__ import annotations

import threading


def check_seconds(name: str, value: object, example: str, *, positive: bool = False) -> None:
    """Raise TypeError or ValueError if `value` is no number of seconds; `example` is what to write instead.

    Zero is refused only if it has to be `positive`. NaN and negative numbers always are.
    """
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise TypeError(f"{name} is in seconds, not {value!r}: write {example}")
    try:
        float(value)
    except OverflowError:
        raise ValueError(f"{name} is in seconds, and this is more than a float can hold: write {example}") from None
    if not (value > 0 if positive else value >= 0):
        rule = "must be positive" if positive else "cannot be negative"
        raise ValueError(f"{name} is in seconds and {rule}, so it cannot be {value!r}: write {example}")


def for_wait(seconds: float) -> float:
    """`seconds`, or the longest time for which `threading` waits (some centuries): beyond it, it raises OverflowError."""
    return min(seconds, threading.TIMEOUT_MAX)

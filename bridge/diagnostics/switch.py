"""What the environment says about diagnostics: whether they are on, and how long a callback may take."""

from __future__ import annotations

import logging
import os
from functools import lru_cache
from math import inf, nan

#: Set to 0 in the environment to turn off what is on by default.
VARIABLE = "BRIDGE_DIAGNOSTICS"
#: Set to a number of seconds for loops that are told nothing else: machines differ, programs need not.
THRESHOLD_VARIABLE = "BRIDGE_SLOW_CALLBACK_DURATION"
#: Seconds for which a callback may block its loop, where nobody says anything else: asyncio's own.
USUAL_THRESHOLD = 0.1

logger: logging.Logger = logging.getLogger("bridge")


def wanted(explicitly: bool | None = None) -> bool:
    """What the caller said (True or False), otherwise what the environment says, otherwise True."""
    if explicitly is not None:
        return explicitly
    return os.environ.get(VARIABLE, "1").strip().lower() not in ("0", "off", "false", "no")


def first_threshold() -> float:
    """`slow_callback_duration` of a loop for which nobody has said anything else, in seconds."""
    text = os.environ.get(THRESHOLD_VARIABLE, "").strip()
    return _seconds(text) if text else USUAL_THRESHOLD


@lru_cache(maxsize=1)
def _seconds(text: str) -> float:
    """Complains once, not for each loop."""
    try:
        return seconds(text)
    except ValueError as error:
        logger.warning("%s: %s; %s is used", THRESHOLD_VARIABLE, error, USUAL_THRESHOLD)
        return USUAL_THRESHOLD


def seconds(text: str) -> float:
    """A threshold that somebody has written; raises ValueError where it cannot be one."""
    try:
        number = float(text)
    except ValueError:
        number = nan
    if not 0 < number < inf:
        raise ValueError(f"a number of seconds above 0 is needed, such as 0.1, not {text!r}")
    return number

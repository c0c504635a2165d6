"""How the system is to run this process, and what it starts: on which core, and in what turns.

Both are asked of the system once, before anything is measured, and inherited by every thread and process started later.
Where it cannot be had, the figures are noisier, and the head of the report says so.
"""

from __future__ import annotations

import os


def pin_to_one_core() -> int | None:
    """Keep this process, and those it starts, on one core; None where the system cannot do that.

    Only one thread at a time holds the GIL, so a second core adds nothing but the noise of threads that move about.
    """
    if not hasattr(os, "sched_setaffinity"):
        return None
    core = max(os.sched_getaffinity(0))  # the last one: the first is where many systems handle their interrupts
    try:
        os.sched_setaffinity(0, {core})
    except OSError:
        return None
    return core


def take_turns() -> bool:
    """Let a thread that wakes up wait until the running one sleeps; False where the system cannot do that.

    Linux's SCHED_BATCH. Otherwise a woken thread may push the running one off the core at once, to find that it cannot
    have the GIL and sleep again: whether it may depends on what both have used of the core lately.
    """
    if not hasattr(os, "SCHED_BATCH"):
        return False
    try:
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    except OSError:
        return False
    return True

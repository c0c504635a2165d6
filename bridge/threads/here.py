"""What the current thread is to bridge: which worker it is, which loop it carries.

In: written by workers and by the loop room (`host`). Out: read by portals, jobs and pools. Worker processes import this,
so it imports next to nothing.
"""

from __future__ import annotations

import sys
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bridge.threads.host import Host
    from bridge.threads.job import Job
    from bridge.threads.worker import Worker


class _Here(threading.local):
    worker: Worker | None = None
    host: Host | None = None  # a cache: the last loop that was seen running in this thread


here: _Here = _Here()


def current_job() -> Job | None:
    """The job that the calling thread runs just now."""
    worker = here.worker
    return None if worker is None else worker.job


def runs_a_loop() -> bool:
    """As `blocking.loop_runs_here`, for places that must not import an event loop in order to ask."""
    events = sys.modules.get("asyncio.events")
    running = getattr(events, "_get_running_loop", None)  # absent while another thread imports it
    if running is not None and running() is not None:
        return True
    trio = sys.modules.get("trio")
    return trio is not None and bool(trio.lowlevel.in_trio_run())

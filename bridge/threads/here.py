"""What the current thread is to bridge: which worker it is, which loop it carries.

In: written by workers and by the loop room (`host`). Out: read by portals, jobs and pools. Worker processes import this,
so it imports next to nothing.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from bridge.threads.loaded import from_loaded, trio_runs_here

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
    running = from_loaded("asyncio.events", "_get_running_loop")
    return (running is not None and running() is not None) or trio_runs_here()

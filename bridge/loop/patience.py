"""Waiting that a cancellation does not end: for functions that must end first, in whatever way they were cancelled."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from anyio import CancelScope, Event

from bridge.threads.host import Host


async def wait_patiently(host: Host, event: Event) -> None:
    """Return when `event` is set, or when `host` is leaving for good. Cancellation is left for the next await."""
    host.patient.add(event.set)
    try:
        with CancelScope(shield=True):
            while not event.is_set() and not host.leaving:
                with suppress(asyncio.CancelledError):  # Task.cancel knows no shields; the task remembers that it came
                    await event.wait()
    finally:
        host.patient.discard(event.set)

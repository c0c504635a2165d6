"""Which loop runs here? One host for each loop, made when bridge first meets it, for as long as the loop lives.

In: the calling thread. Out: its Host, from a per-thread cache when the loop is the same as last time.
"""

from __future__ import annotations

import sys
from asyncio import AbstractEventLoop, _get_running_loop
from contextlib import suppress

from bridge.errors import WrongThread
from bridge.loop.asyncio_host import AsyncioHost
from bridge.threads.here import here
from bridge.threads.host import Host

_modules = sys.modules


def current_host() -> Host:
    """The host of the event loop that runs in this thread. Raises WrongThread if there is none."""
    loop = _get_running_loop()
    host = here.host
    if host is not None and host.loop is loop and ("trio.lowlevel" not in _modules or not _in_trio_step()):
        return host
    return _find(loop)


def _in_trio_step() -> bool:
    """Does trio run here just now, perhaps as a guest of the loop? As `in_trio_task`, in a fraction of the time.

    Many programs have trio loaded without knowing it. It marks the thread in sniffio's way for as long as it runs there.
    """
    mark = _modules["sniffio"].thread_local
    return mark.name == "trio"  # type: ignore[no-any-return]


def running_host() -> Host | None:
    """Likewise, or None."""
    loop = _get_running_loop()
    if loop is None and "trio" not in sys.modules:
        return None
    try:
        return current_host()
    except WrongThread:
        return None


def _find(loop: AbstractEventLoop | None) -> Host:
    lowlevel = _modules.get("trio.lowlevel")
    if lowlevel is not None and _in_trio_step() and lowlevel.in_trio_task():
        from bridge.loop.trio_host import current_trio_host

        return current_trio_host()
    if loop is None:
        raise WrongThread(
            "no event loop runs in this thread. Start one with bridge.run(main), or await this inside an `async def` "
            "that a loop runs; in a thread that no loop has sent work to, use `with bridge.background_loop() as portal`."
        )
    host = here.host = host_of(loop)
    return host


def host_of(loop: AbstractEventLoop) -> AsyncioHost:
    """The host of an asyncio loop, made if there is none yet; kept with the loop, so that both go together."""
    host: AsyncioHost | None = getattr(loop, "_bridge_host", None)
    if host is None or host.left_behind:
        host = AsyncioHost(loop)
        with suppress(AttributeError):  # a loop whose instances take no attributes gets a host for each thread
            loop._bridge_host = host  # type: ignore[attr-defined]
    return host

"""Which loop runs here? One host for each loop, made when bridge first meets it, for as long as the loop lives.

In: the calling thread. Out: its Host, from a per-thread cache when the loop is the same as last time.
"""

from __future__ import annotations

import sys
from asyncio import AbstractEventLoop, _get_running_loop
from contextlib import suppress
from threading import RLock, get_ident
from typing import Any

from bridge.errors import LoopClosed, WrongThread
from bridge.loop.asyncio_host import AsyncioHost
from bridge.threads.here import here
from bridge.threads.host import Host
from bridge.threads.interop import is_trios, sent_by
from bridge.threads.loaded import from_loaded, trio_task_runs_here

_modules = sys.modules
#: Where trio notes, for each thread, that it runs there just now; None as long as that is not known.
_trios_mark: Any = None
#: Held while a host is made; may be taken again by what interrupts that, a signal handler or a finalizer.
_making = RLock()


def current_host() -> Host:
    """The host of the event loop that runs in this thread. Raises WrongThread if there is none."""
    loop = _get_running_loop()
    host = here.host
    if host is not None and host.loop is loop and ("trio.lowlevel" not in _modules or not _in_trio_step()):
        return host
    return _find(loop)


def _in_trio_step() -> bool:
    """Does trio run here just now, perhaps as a guest of the loop? In a fraction of the time of `trio_task_runs_here`.

    Many programs have trio loaded without knowing it, so this is asked in each call.
    """
    mark = _trios_mark
    return _look_for_trio() if mark is None else mark.name == "trio"


def _look_for_trio() -> bool:
    """As `trio_task_runs_here`; and from now on by way of sniffio's mark, if trio is a version that sets it."""
    global _trios_mark  # noqa: PLW0603 - trio does not change any more once it is loaded
    mark = from_loaded("sniffio", "thread_local")
    if mark is not None and from_loaded("trio._core._run", "sniffio_library") is mark:
        _trios_mark = mark
    return trio_task_runs_here()


def running_host() -> Host | None:
    """As `current_host`, or None where no loop runs."""
    loop = _get_running_loop()
    if loop is None and not trio_task_runs_here():
        return None
    try:
        return current_host()
    except WrongThread:
        return None


def _find(loop: AbstractEventLoop | None) -> Host:
    if trio_task_runs_here():
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
    return _new_host_of(loop) if host is None or host.left_behind else host


def _new_host_of(loop: AbstractEventLoop) -> AsyncioHost:
    with _making:  # the loop's own thread, and threads that it has sent work to through other libraries
        host: AsyncioHost | None = getattr(loop, "_bridge_host", None)
        if host is None or host.left_behind:
            host = AsyncioHost(loop)
            with suppress(AttributeError):  # a loop whose instances take no attributes gets a host for each thread
                loop._bridge_host = host  # type: ignore[attr-defined]
            if _get_running_loop() is not loop:
                with suppress(LoopClosed):
                    host.call_soon(_met_here, (host,))
    return host


def _met_here(host: AsyncioHost) -> None:
    host.made_in = get_ident()


def host_that_sent() -> Host | None:
    """The host of the loop that has sent its work to the calling thread of anyio, trio or asgiref.

    None in any other thread. Raises LoopClosed if trio's run has ended.
    """
    loop = sent_by()
    if isinstance(loop, AbstractEventLoop):
        return host_of(loop)
    return _ask_trio_for_its_host() if loop is not None or is_trios() else None


def _ask_trio_for_its_host() -> Host | None:
    import trio

    from bridge.loop.trio_host import current_trio_host

    try:
        return trio.from_thread.run_sync(current_trio_host)
    except trio.RunFinishedError:
        raise LoopClosed("the trio run that sent this work has ended") from None
    except RuntimeError:  # "this thread wasn't created by Trio"
        return None

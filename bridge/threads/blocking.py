"""May this thread block? Not if it runs an event loop: then whatever it waits for may need that very loop."""

from __future__ import annotations

import threading
from asyncio import _get_running_loop
from typing import TYPE_CHECKING, NoReturn

from bridge.errors import WouldDeadlock, WrongThread
from bridge.threads.deadlock import instead_of_call, tell_refused, thread_of
from bridge.threads.loaded import trio_runs_here

if TYPE_CHECKING:
    from bridge.threads.host import Host


def loop_runs_here() -> bool:
    """Does the calling thread run an event loop, of any kind, just now?"""
    return _get_running_loop() is not None or trio_runs_here()


def refuse_blocking(host: Host, what: str, instead: str) -> NoReturn:
    """Raise the error that names both ends: `what` was about to block a loop's thread until `host` answers."""
    thread = threading.current_thread()
    own = host.runs_here()
    if own:
        told = f"{what} in thread {thread.name!r} would wait for the very loop that runs there"
        advice = instead_of_call(instead)
    else:
        told = f"{what} in thread {thread.name!r} would block the loop that runs there until another loop answers"
        advice = "await bridge.to_thread(...) around the blocking call"
    tell_refused(told, thread.ident, thread_of(host), advice)
    if own:
        raise WouldDeadlock(
            f"{what} was called in thread {thread.name!r}, which runs {host!r}, the very loop that would have to answer: "
            f"it would wait for itself. On the loop, write `{instead}`."
        )
    raise WrongThread(
        f"{what} was called in thread {thread.name!r}, which runs an event loop of its own: that loop would stand still "
        f"until {host!r} answers. Write `await bridge.to_thread(...)` around the blocking call."
    )

"""A loop in a thread of its own, for programs that are synchronous at heart.

    __enter__ ──> LoopThread ──> portal     __exit__: let go ── drained ── loop closes ── join
    never left: nobody holds the block or its portal any more ── let go ── BRG501; at the end of the program, BRG501

Owners: the thread owns the loop and itself; the block is owned by whoever has entered it, or holds its portal. If the
loop cannot end, because something blocks it, the thread is a daemon, is reported, and is left behind.
"""

from __future__ import annotations

import atexit
import sys
import threading
from contextlib import suppress
from functools import partial
from types import TracebackType
from weakref import WeakSet

import anyio
import anyio.to_thread

from bridge.diagnostics.places import submit_site
from bridge.diagnostics.unclosed import tell_not_closed, with_block
from bridge.errors import LoopClosed
from bridge.loop.event_loop import new_event_loop
from bridge.loop.loop_thread import LoopThread
from bridge.loop.runner import LoopFactory, check_timeout
from bridge.threads.host import Host
from bridge.threads.portal import Portal
from bridge.threads.stuck import report_thread


class background_loop:  # noqa: N801 - reads as a function: with bridge.background_loop() as portal
    """Run an event loop in a thread of its own for the time of a block (`with` or `async with`), and give its Portal.

    Leaving waits until every call into the loop is answered, then closes it; leaving by an exception cancels them. What
    does not end within `shutdown_timeout` seconds is reported with its stack and left behind. `loop_factory` makes any
    asyncio loop (None: asyncio's default). The portal may be used from any number of threads. `diagnostics` as for
    `bridge.run`.
    """

    def __init__(
        self,
        *,
        debug: bool | None = None,
        loop_factory: LoopFactory | None = new_event_loop,
        shutdown_timeout: float = 10.0,
        name: str = "bridge-loop",
        diagnostics: bool | None = None,
    ):
        check_timeout(shutdown_timeout)
        self._name = name
        self._shutdown_timeout = shutdown_timeout
        self._new_thread = partial(
            LoopThread,
            name,
            debug=debug,
            loop_factory=loop_factory,
            shutdown_timeout=shutdown_timeout,
            diagnostics=diagnostics,
        )
        self._made_at = submit_site()
        self._loop: LoopThread | None = None

    def __enter__(self) -> Portal:
        if self._loop is not None:
            raise RuntimeError("this background_loop is already entered: call bridge.background_loop() for another one")
        self._loop = self._new_thread()
        try:
            host = self._loop.start()
        except BaseException:
            self._loop = None
            raise
        _entered.add(self)
        return Portal(host, keeps=self)

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        loop, self._loop = self._loop, None
        if loop is None:
            raise RuntimeError("this background_loop is not entered: write `with bridge.background_loop() as portal`")
        _entered.discard(self)
        thread, host = loop.thread, loop.host
        loop.drain = exc is None
        with suppress(LoopClosed):
            loop.let_go()
            if loop.drain:
                self._wait_for_answers(thread, host)
        thread.join(self._shutdown_timeout + 1.0)  # it waits that long itself, and then says what is stuck
        if thread.is_alive():
            self._report(thread, host)

    def __del__(self) -> None:
        # Forgotten without being left: what was begun through it is still done, then the loop ends.
        loop = self.__dict__.get("_loop")
        if loop is None or sys.is_finalizing():
            return
        alive = loop.thread.is_alive()  # not in the child of a fork
        if alive:
            loop.let_go()
        if alive and not loop.told:
            self._tell(loop)

    def _tell(self, loop: LoopThread) -> None:
        loop.told = True
        site = self._made_at
        if site is not None:
            advice = with_block("bridge.background_loop", site, "portal")
            tell_not_closed("background_loop", self._name, site, advice)

    def _wait_for_answers(self, thread: threading.Thread, host: Host) -> None:
        """Return when every call is answered, or when the loop has given no sign of life for `shutdown_timeout`."""
        sign_of_life = threading.Event()
        while host.has_callers and thread.is_alive():
            host.call_soon(sign_of_life.set, ())
            if not sign_of_life.wait(self._shutdown_timeout):
                return
            sign_of_life.clear()
            thread.join(0.02)

    async def __aenter__(self) -> Portal:
        return await anyio.to_thread.run_sync(self.__enter__)

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(self.__exit__, exc_type, exc, traceback)

    def _report(self, thread: threading.Thread, host: Host) -> None:
        host.close(f"{host!r} was left behind: something blocks it")
        report_thread(
            thread.ident,
            f"{host!r} has not ended {self._shutdown_timeout:.1f} s after its block was left; "
            f"its thread {self._name!r} is left behind.",
            "await bridge.to_thread(...) around what blocks the loop",
            {"bridge.duration": self._shutdown_timeout, "thread.name": self._name},
        )


#: Those whose blocks have not been left.
_entered: WeakSet[background_loop] = WeakSet()


def _at_exit() -> None:
    """The threads are daemons, and end with the program, whatever they are at."""
    for scope in list(_entered):
        loop = scope._loop
        if loop is not None and loop.thread.is_alive():
            scope._tell(loop)


atexit.register(_at_exit)

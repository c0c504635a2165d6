"""A thread that runs a loop until it is let go.

    start: thread starts ── loop runs _serve ── ready ──> host     let_go: stop ── drained ── loop closes ── thread ends

Owners: the thread owns the loop; `_ready` is its one message to whoever has started it, and `_stop` the one back. If the
loop cannot start, `_ready` carries the error.
"""

from __future__ import annotations

import logging
import threading
from concurrent.futures import Future
from contextlib import suppress

import anyio

from bridge.errors import LoopClosed
from bridge.loop.event_loop import new_event_loop
from bridge.loop.hosts import current_host
from bridge.loop.runner import HostedRun, LoopFactory, diagnosed, run_on_asyncio
from bridge.threads.host import Host

logger: logging.Logger = logging.getLogger("bridge.loop")


class LoopThread:
    """The thread with its loop. It keeps itself alive until the loop has ended; whoever started it need not."""

    def __init__(
        self,
        name: str,
        *,
        debug: bool | None = None,
        loop_factory: LoopFactory | None = new_event_loop,
        shutdown_timeout: float = 10.0,
        diagnostics: bool | None = None,
    ):
        self.drain: bool = True
        self.told: bool = False  # that nobody has left its block
        self._debug = debug
        self._loop_factory = diagnosed(loop_factory, diagnostics)
        self._shutdown_timeout = shutdown_timeout
        self._diagnostics = diagnostics
        self._ready: Future[Host] = Future()
        self._stop: anyio.Event | None = None
        self.thread: threading.Thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> Host:
        """Return when the loop runs. Raises what keeps it from that."""
        self.thread.start()
        try:
            return self._ready.result()
        except BaseException:
            self._ready.add_done_callback(self._end_unused)  # interrupted: the loop may still come up
            raise

    @property
    def host(self) -> Host:
        """The loop's; it has been started."""
        return self._ready.result()

    def let_go(self) -> None:
        """End the loop, once every call into it is answered. Does not wait; from any thread, also in a finalizer."""
        with suppress(LoopClosed):
            self.host.call_soon(self._let_go, ())

    def _let_go(self) -> None:
        assert self._stop is not None
        self._stop.set()

    def _end_unused(self, ready: Future[Host]) -> None:
        with suppress(BaseException):
            self.let_go()

    # -- in the thread -------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            run = HostedRun(self._shutdown_timeout, diagnostics=self._diagnostics)
            run_on_asyncio(run, self._serve, (), self._debug, self._loop_factory)
        except BaseException as error:
            if self._ready.done():
                logger.error("the background loop in thread %r ended by an error", self.thread.name, exc_info=error)
            else:
                self._ready.set_exception(error)

    async def _serve(self) -> None:
        self._stop = anyio.Event()
        host = current_host()
        self._ready.set_result(host)
        await self._stop.wait()
        if self.drain:
            idle = anyio.Event()
            host.when_idle(lambda: host.loop.call_soon_threadsafe(idle.set))
            await idle.wait()

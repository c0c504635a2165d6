"""A thread that runs a loop until it is let go.

    start: thread starts ── loop runs _serve ── ready ──> host     let_go: stop ── drained ── loop closes ── thread ends
                                                                  abandon: stop, without draining

Owners: the thread owns the loop; `_ready` is its one message to whoever has started it, and `_stop` and `_idle` are those
back: the loop is to end, and nothing is worth waiting for any more. If the loop cannot start, `_ready` carries the error.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from concurrent.futures import Future
from contextlib import suppress

import anyio

from bridge.errors import LoopClosed
from bridge.loop.event_loop import new_event_loop
from bridge.loop.hosts import current_host
from bridge.loop.runner import HostedRun, LoopFactory, diagnosed, run_on_asyncio
from bridge.threads.green import require_threads
from bridge.threads.host import Host
from bridge.threads.safe_future import SafeFuture
from bridge.threads.session import ServingTask

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
        self.told: bool = False  # that nobody has left its block
        self._debug = debug
        self._loop_factory = diagnosed(loop_factory, diagnostics)
        self._shutdown_timeout = shutdown_timeout
        self._diagnostics = diagnostics
        self._ready: SafeFuture = SafeFuture()
        self._stop: anyio.Event | None = None
        self._idle: anyio.Event | None = None
        self.thread: threading.Thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> Host:
        """Return when the loop runs. Raises what keeps it from that."""
        require_threads(f"the loop in thread {self.thread.name!r}", "thread")
        self.thread.start()
        host: Host = self._ready.result()
        return host

    @property
    def host(self) -> Host:
        """The loop's; it has been started."""
        host: Host = self._ready.result()
        return host

    def let_go(self) -> None:
        """End the loop, once every call into it is answered. Does not wait; from any thread, also in a finalizer."""
        with suppress(LoopClosed):
            self.host.call_soon(self._let_go, ())

    def _let_go(self) -> None:
        assert self._stop is not None
        self._stop.set()

    def abandon(self) -> None:
        """End the loop, even if it has yet to come up; what it runs is cancelled. Does not wait; from any thread."""
        if self._ready.done():  # not as a callback, in which an interruption would be logged and forgotten
            self._abandon(self._ready)
        else:
            self._ready.add_done_callback(self._abandon)

    def _abandon(self, ready: Future[Host]) -> None:
        if ready.exception() is None:
            with suppress(RuntimeError):  # it has closed
                # Past its host, whose door may be closed already, when the loop has been left behind.
                ready.result().loop.call_soon_threadsafe(self._abandon_here)

    def _abandon_here(self) -> None:
        assert self._stop is not None
        assert self._idle is not None
        self._stop.set()
        self._idle.set()

    def _be_idle(self) -> None:
        with suppress(RuntimeError):  # it has closed
            assert self._idle is not None
            self.host.loop.call_soon_threadsafe(self._idle.set)

    # -- in the thread -------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            run = HostedRun(self._shutdown_timeout, diagnostics=self._diagnostics)
            run_on_asyncio(run, self._serve, (run,), self._debug, self._loop_factory)
        except BaseException as error:
            if self._ready.done():
                logger.error("the background loop in thread %r ended by an error", self.thread.name, exc_info=error)
            else:
                self._ready.set_exception(error)

    async def _serve(self, run: HostedRun) -> None:
        self._stop = anyio.Event()
        self._idle = idle = anyio.Event()
        host = current_host()
        host.exit_timeout = min(host.exit_timeout, self._shutdown_timeout)
        self._ready.set_result(host)
        await self._stop.wait()
        if not idle.is_set():
            host.when_idle(self._be_idle)
            await idle.wait()
            run.main_has_ended()  # what comes now has one time limit
            dropped = [each.task for each in host.waits if isinstance(each, ServingTask) and each.session.dropped]
            if dropped:  # their clean-up is under way
                await asyncio.wait(dropped, timeout=self._shutdown_timeout)

"""A loop in a thread of its own, for programs that are synchronous at heart.

    __enter__: thread starts ── loop runs _serve ── ready ──> portal     __exit__: stop ── drained ── loop closes ── join

Owners: the loop's thread owns the loop; `_ready` is its one message to the thread that entered, and `_stop` the one back.
If the loop cannot start, `_ready` carries the error. If it cannot end, because something blocks it, the thread is a
daemon, is reported, and is left behind.
"""

from __future__ import annotations

import logging
import threading
from concurrent.futures import Future
from contextlib import suppress
from types import TracebackType

import anyio
import anyio.to_thread

from bridge.errors import LoopClosed
from bridge.loop.event_loop import new_event_loop
from bridge.loop.hosts import current_host
from bridge.loop.runner import HostedRun, LoopFactory, check_timeout, diagnosed, run_on_asyncio
from bridge.threads.host import Host
from bridge.threads.portal import Portal
from bridge.threads.stuck import report_thread

logger: logging.Logger = logging.getLogger("bridge.loop")


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
        self._debug = debug
        self._loop_factory = diagnosed(loop_factory, diagnostics)
        self._diagnostics = diagnostics
        self._shutdown_timeout = shutdown_timeout
        self._name = name
        self._thread: threading.Thread | None = None
        self._ready: Future[Host] = Future()
        self._stop: anyio.Event | None = None
        self._drain = True

    def __enter__(self) -> Portal:
        if self._thread is not None:
            raise RuntimeError("this background_loop is already entered: call bridge.background_loop() for another one")
        self._ready = Future()
        self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
        self._thread.start()
        try:
            return Portal(self._ready.result())
        except BaseException:
            self._thread = None
            self._ready.add_done_callback(self._end_unused)  # interrupted: the loop may still come up
            raise

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        thread, self._thread = self._thread, None
        if thread is None:
            raise RuntimeError("this background_loop is not entered: write `with bridge.background_loop() as portal`")
        host = self._ready.result()
        self._drain = exc is None
        with suppress(LoopClosed):
            host.call_soon(self._let_go, ())
            if self._drain:
                self._wait_for_answers(thread, host)
        thread.join(self._shutdown_timeout + 1.0)  # it waits that long itself, and then says what is stuck
        if thread.is_alive():
            self._report(thread, host)

    def _wait_for_answers(self, thread: threading.Thread, host: Host) -> None:
        """Return when every call is answered, or when the loop has given no sign of life for `shutdown_timeout`."""
        sign_of_life = threading.Event()
        while host.has_callers and thread.is_alive():
            host.call_soon(sign_of_life.set, ())
            if not sign_of_life.wait(self._shutdown_timeout):
                return
            sign_of_life.clear()
            thread.join(0.02)

    def _end_unused(self, ready: Future[Host]) -> None:
        with suppress(BaseException):
            self.let_go()

    async def __aenter__(self) -> Portal:
        return await anyio.to_thread.run_sync(self.__enter__)

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(self.__exit__, exc_type, exc, traceback)

    # -- in the loop's thread ------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            run = HostedRun(self._shutdown_timeout, diagnostics=self._diagnostics)
            run_on_asyncio(run, self._serve, (), self._debug, self._loop_factory)
        except BaseException as error:
            if self._ready.done():
                logger.error("the background loop in thread %r ended by an error", self._name, exc_info=error)
            else:
                self._ready.set_exception(error)

    async def _serve(self) -> None:
        self._stop = anyio.Event()
        host = current_host()
        self._ready.set_result(host)
        await self._stop.wait()
        if self._drain:
            idle = anyio.Event()
            host.when_idle(lambda: host.loop.call_soon_threadsafe(idle.set))
            await idle.wait()

    def let_go(self) -> None:
        """End the loop, once every call into it is answered. Does not wait; from any thread."""
        with suppress(LoopClosed):
            self._ready.result().call_soon(self._let_go, ())

    def _let_go(self) -> None:
        assert self._stop is not None
        self._stop.set()

    def _report(self, thread: threading.Thread, host: Host) -> None:
        host.close(f"{host!r} was left behind: something blocks it")
        report_thread(
            thread.ident,
            f"{host!r} has not ended {self._shutdown_timeout:.1f} s after its block was left; "
            f"its thread {self._name!r} is left behind.",
            "await bridge.to_thread(...) around what blocks the loop",
            {"bridge.duration": self._shutdown_timeout, "thread.name": self._name},
        )

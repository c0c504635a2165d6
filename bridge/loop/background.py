"""A loop in a thread of its own, for programs that are synchronous at heart.

    __enter__ ──> LoopThread ──> portal     __exit__: let go ── drained ── loop closes ── join
    never left: nobody holds the block or its portal any more ── let go ── BRG501; at the end of the program, BRG501

Owners: the thread owns the loop and itself; the block is owned by whoever has entered it, or holds its portal. If the
loop cannot end, because something blocks it, the thread is a daemon, is reported, and is left behind.
"""

from __future__ import annotations

import sys
import threading
from contextlib import ExitStack, suppress
from functools import partial
from time import monotonic
from types import TracebackType
from weakref import WeakSet

import anyio
import anyio.to_thread

from bridge.diagnostics.places import submit_site
from bridge.diagnostics.unclosed import tell_not_closed, with_block
from bridge.errors import LoopClosed, WouldDeadlock
from bridge.loop.event_loop import new_event_loop
from bridge.loop.hosts import host_that_sent
from bridge.loop.loop_thread import LoopThread
from bridge.loop.runner import LoopFactory, check_timeout
from bridge.threads.closing import SHUTDOWN_TIMEOUT
from bridge.threads.here import current_job
from bridge.threads.host import Host
from bridge.threads.importing import refuse_in_an_import
from bridge.threads.portal import Portal
from bridge.threads.program_end import at_exit
from bridge.threads.safe_future import SafeFuture
from bridge.threads.seconds import for_wait
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
        refuse_in_an_import("bridge.background_loop")
        try:
            self._loop = self._new_thread()
            host = self._loop.start()
            _entered.add(self)
            return Portal(host, keeps=self)
        except BaseException:  # it could not start; or Ctrl-C, and then the loop may be up already
            loop, self._loop = self._loop, None
            if loop is not None:
                loop.abandon()
            raise

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        loop = self._loop
        if loop is None:
            raise RuntimeError("this background_loop is not entered: write `with bridge.background_loop() as portal`")
        if sys.is_finalizing():  # left by a finalizer: the loop's thread does not run any more, and nothing can end it
            self._loop = None
            return
        if _waits_for_this_thread(loop.host):
            self._let_go_on_its_own_loop(loop, exc)
            return
        try:
            self._end(loop, drain=exc is None)
        except BaseException:  # Ctrl-C: the loop ends all the same, but nothing waits for it
            loop.abandon()
            raise
        finally:
            self._loop = None
            _entered.discard(self)

    def _let_go_on_its_own_loop(self, loop: LoopThread, exc: BaseException | None) -> None:
        """Nothing can wait here for the loop's end, so it comes when every call is answered."""
        loop.let_go()
        self._loop = None
        _entered.discard(self)
        if not isinstance(exc, GeneratorExit):  # a generator that owns the block may be collected anywhere
            raise WouldDeadlock(
                f"the block of background_loop {self._name!r} was left on its own loop, or in a function that its loop "
                f"has sent and waits for: it would wait for itself. The loop ends when all calls into it are answered. "
                f"Leave the block in the thread that has entered it."
            )

    def _end(self, loop: LoopThread, drain: bool) -> None:
        left_at = monotonic()
        thread, host = loop.thread, loop.host
        if drain:
            loop.let_go()
            with suppress(LoopClosed):
                self._wait_for_answers(thread, host)
        else:
            loop.abandon()
        # It waits that long itself, for tasks and for threads, and says what is stuck.
        thread.join(for_wait(self._shutdown_timeout + 1.0))
        if thread.is_alive():
            self._report(loop, monotonic() - left_at)

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
        while host.has_callers and thread.is_alive():
            sign_of_life = SafeFuture()
            host.call_soon(sign_of_life.set_result, (None,))
            try:
                sign_of_life.result(for_wait(self._shutdown_timeout))
            except TimeoutError:
                return
            thread.join(0.02)

    async def __aenter__(self) -> Portal:
        return await anyio.to_thread.run_sync(self.__enter__)

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        loop = self._loop
        if loop is not None and _waits_for_this_thread(loop.host):
            self._let_go_on_its_own_loop(loop, exc)
            return
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(self.__exit__, exc_type, exc, traceback)

    def _report(self, loop: LoopThread, waited: float, began: str = "its block was left") -> None:
        thread, host = loop.thread, loop.host
        host.close(f"{host!r} was left behind: something blocks it")
        loop.abandon()  # should it go on one day
        report_thread(
            thread.ident,
            f"{host!r} has not ended {waited:.1f} s after {began}; its thread {self._name!r} is left behind.",
            "await bridge.to_thread(...) around what blocks the loop",
            {"bridge.duration": waited, "thread.name": self._name},
        )


def _waits_for_this_thread(host: Host) -> bool:
    """Does the calling thread run this loop, or a function that it has sent?"""
    job = current_job()
    with suppress(LoopClosed):
        return host.runs_here() or host is (job.origin if job is not None else host_that_sent())
    return False


#: Those whose blocks have not been left.
_entered: WeakSet[background_loop] = WeakSet()


def _at_exit() -> None:
    """Cancel what every loop does that is still open, wait for its end, and report that it was never left."""
    loops = [(scope, loop) for scope in list(_entered) if (loop := scope._loop) is not None and loop.thread.is_alive()]
    for _, loop in loops:
        loop.abandon()
    since = monotonic()
    for scope, loop in loops:
        limit = min(SHUTDOWN_TIMEOUT, scope._shutdown_timeout) + 1.0  # as in __exit__
        loop.thread.join(max(0.0, since + limit - monotonic()))
        if loop.thread.is_alive():
            scope._report(loop, monotonic() - since, "the program began to end")
    with ExitStack() as each:  # as errors, warnings are raised
        for scope, loop in reversed(loops):
            each.callback(scope._tell, loop)


at_exit(_at_exit)

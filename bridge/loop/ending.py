"""What still runs on an asyncio loop when its main function has ended: it is cancelled and waited for, but not for ever.

    main has ended ── tasks are cancelled ── async generators are closed ──> the loop closes
                      '── at the deadline: tasks are cancelled once more, and wait for functions in threads no longer;
                          a moment later, what has not ended is reported and left behind (BRG404)

In: a loop that stands still, between its main function and its close. Out: the same, with no task or async generator that
its close would wait for. asyncio waits without a limit, so that one task that swallows its cancellation would hold up the
program. The tasks of this module are not registered, so that no task that cancels all the others finds them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from time import monotonic
from typing import Any

from bridge.callables import qualname_of
from bridge.diagnostics.stacks import stack_of_awaitable
from bridge.threads.stuck import report_stack

#: Seconds that tasks have after the deadline: only at it are those released that wait for a function in a thread. As long
#: have async generators after that.
MOMENT = 0.25
#: How often tasks that were started while others were cancelled are cancelled as well; those of a program that starts
#: another one each time are left behind then.
_ROUNDS = 16


@contextmanager
def closing(runner: asyncio.Runner) -> Iterator[asyncio.Runner]:
    """Close it at the end of the block, whatever the tasks do that have been left behind."""
    try:
        yield runner
    finally:
        with suppress(asyncio.CancelledError):  # by a task that cancels all the others, again and again
            runner.close()


def end_tasks(loop: asyncio.AbstractEventLoop, leave: Callable[[], object], since: float, deadline: float) -> None:
    """Cancel all tasks of a loop, then close its async generators; give up some moments after `deadline`.

    `since` is when its main function ended; both as of `time.monotonic`. `leave` is called at the deadline: it is to
    release those that wait for functions. If a task calls `sys.exit`, the others are still waited for. After Ctrl-C the
    deadline is there at once, and after a second one nothing is waited for any more; then KeyboardInterrupt is raised.
    """
    if loop.is_closed():
        return
    ending = _Ending(loop, leave, since, deadline)
    raised: BaseException | None = None
    try:
        while not ending.over:
            try:
                loop.run_until_complete(ending.task())
            except SystemExit as error:
                raised = error
            except KeyboardInterrupt as error:
                raised = error
                ending.hurry()
            except RuntimeError as error:
                if "stopped before" not in str(error):  # by a task that calls loop.stop()
                    raise
        if raised is not None:
            raise raised
    finally:
        for task in asyncio.all_tasks(loop):
            asyncio._unregister_task(task)  # asyncio's close waits for what is registered


class _Ending:
    """The end of one loop. It belongs to the thread that runs the loop; `hurry` is called while the loop stands still."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, leave: Callable[[], object], since: float, deadline: float
    ) -> None:
        self.over: bool = False
        self._loop = loop
        self._leave = leave
        self._since = since
        self._deadline = deadline
        self._task: asyncio.Task[None] | None = None
        # Also those that end before anything is cancelled, as the main task may.
        self._first = asyncio.all_tasks(loop)
        self._cancelled: set[asyncio.Task[Any]] = set()

    def task(self) -> asyncio.Task[None]:
        """What the loop is to run."""
        if self._task is None or self._task.done():
            self._task = self._own_task(self._end())
        return self._task

    def hurry(self) -> None:
        """The deadline is there, and if it was there already, so are the moments after it over.

        Another task goes on with what is left: the interruption may have hit the loop where it had taken the next step of
        this one out of its queue, and then that is lost.
        """
        now = monotonic()
        self._deadline = now if now < self._deadline else now - 2 * MOMENT
        task, self._task = self._task, None
        if task is not None:
            task.cancel()

    def _own_task(self, coro: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """A task of this module's own: past the task factory, which may be the trouble."""
        task = asyncio.Task(coro, loop=self._loop)
        task._log_destroy_pending = False  # type: ignore[attr-defined]  # it may be interrupted
        asyncio._unregister_task(task)
        return task

    # -- on the loop ---------------------------------------------------------------------------------------------------

    async def _end(self) -> None:
        await self._wait(set(self._cancelled), 0.0)  # where this was interrupted
        await self._cancel((self._first | asyncio.all_tasks(self._loop)) - self._cancelled, 0.0)
        closing = self._own_task(self._loop.shutdown_asyncgens())
        await self._wait({closing}, MOMENT)
        await self._cancel(asyncio.all_tasks(self._loop) - self._cancelled, MOMENT)  # what that has started
        for task in self._cancelled:
            self._report_error(task)
        for task in asyncio.all_tasks(self._loop):
            self._leave_behind(task)
        self.over = True

    async def _cancel(self, tasks: set[asyncio.Task[Any]], extra: float) -> None:
        """Cancel these tasks, and those that they start in the end."""
        for _ in range(_ROUNDS):
            if not tasks:
                return
            for task in tasks:
                task.cancel()
            self._cancelled |= tasks
            await self._wait(tasks, extra)
            tasks = asyncio.all_tasks(self._loop) - self._cancelled

    async def _wait(self, tasks: set[asyncio.Task[Any]], extra: float) -> None:
        """Return when all of them have ended, or a moment after the deadline, which is put off by `extra` seconds."""
        if await self._ended(tasks, extra):
            return
        self._leave()
        for task in tasks:  # perhaps it is its clean-up that does not end
            if not task.done():
                task.cancel()
        await self._ended(tasks, extra + MOMENT)

    async def _ended(self, tasks: set[asyncio.Task[Any]], extra: float) -> bool:
        """Wait for them until the deadline and `extra` seconds more. True if all have ended."""
        while running := {task for task in tasks if not task.done()}:
            left = max(0.0, self._deadline + extra - monotonic())  # what is to end now still gets a turn
            _, pending = await asyncio.wait(running, timeout=left)
            if pending:
                return False
        return True

    def _report_error(self, task: asyncio.Task[Any]) -> None:
        """What asyncio does with the errors of tasks that were cancelled at the end. Exits have come out of the loop."""
        error = task.exception() if task.done() and not task.cancelled() else None
        if error is not None and not issubclass(type(error), (KeyboardInterrupt, SystemExit)):
            message = "a task that was cancelled at the end of its loop has raised an exception"
            self._loop.call_exception_handler({"message": message, "exception": error, "task": task})

    def _leave_behind(self, task: asyncio.Task[Any]) -> None:
        coro = task.get_coro()
        waited = monotonic() - self._since
        advice = "raise in `except asyncio.CancelledError:`, and give what is awaited in `finally:` a time limit"
        if task not in self._cancelled:
            advice = "start no task in the place of one that was cancelled: its `cancelled()` is true"
        with suppress(AttributeError):  # of a class that is not asyncio's
            task._log_destroy_pending = False  # type: ignore[attr-defined]  # this is said here
        report_stack(
            stack_of_awaitable(coro),
            f"task {task.get_name()!r} running {qualname_of(coro)}() has not ended {waited:.1f} s after the wait for its "
            f"end began; it is left behind.",
            advice,
            {"bridge.task.name": task.get_name(), "bridge.duration": waited},
        )

"""Lanes: executors by name, for `to=`. A lane belongs to one loop and to the scope that opened it."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager, AsyncExitStack
from importlib import import_module
from types import TracebackType
from typing import Self

from bridge.errors import UnknownLane
from bridge.executors.base import Executor
from bridge.executors.policy import not_an_executor
from bridge.executors.thread import ThreadExecutor
from bridge.loop.hosts import current_host
from bridge.loop.runner import check_lanes
from bridge.threads.host import Host
from bridge.threads.loaded import from_loaded
from bridge.threads.program_end import too_late

#: Takes a tenth of a second and more to import.
_PROCESSES = "bridge.executors.process.executor"


async def lane_prepared(to: str | Executor, host: Host) -> Executor:
    """As `lane`; but what must be imported for it first is imported in a thread, so that the loop is not held up."""
    if to == "process" and to not in host.lanes and from_loaded(_PROCESSES, "ProcessExecutor") is None:
        await host.perform(host.pool(), host.new_job(_import_processes, (), {}), "abandon")
    return lane(to, host)


def _import_processes() -> None:
    """A function of bridge's own, whose work in a thread is reported as no function of the program."""
    with too_late(
        "to_process", "Use it earlier, or write `from bridge import ProcessExecutor` at the top of the program."
    ):
        import_module(_PROCESSES)


def lane(to: str | Executor, host: Host) -> Executor:
    """The executor that `to` means on this loop. Raises UnknownLane, TypeError."""
    if isinstance(to, Executor):
        return to
    if not isinstance(to, str):
        raise not_an_executor(to)
    executor: Executor | None = host.lanes.get(to)
    if executor is not None:
        return executor
    if to == "thread":
        executor = ThreadExecutor.over(host.pool())
        host.open_lane("thread", executor)
        return executor
    if to == "process":
        from bridge.executors.process.executor import ProcessExecutor

        executor = ProcessExecutor(name="bridge-process")
        executor.made_at = None  # the loop's, and not the program's to close
        host.own_lane("process", executor)
        return executor
    known = ", ".join(sorted({"thread", "process", *host.lanes}))
    opened = f'"{to}": bridge.ThreadExecutor(1)'
    keyword = f"{to}=bridge.ThreadExecutor(1)" if to.isidentifier() else f"**{{{opened}}}"
    raise UnknownLane(
        f"there is no lane {to!r} on this loop; it has: {known}. "
        f"Open it with bridge.run(main, executors={{{opened}}}), "
        f"or around a part of the program with `async with bridge.lanes({keyword})`."
    )


class lanes(AbstractAsyncContextManager["lanes"]):  # noqa: N801 - reads as a function: async with bridge.lanes(db=...)
    """Give executors names for the time of a block, on the loop that runs it; leaving closes them.

    `async with bridge.lanes(db=bridge.ThreadExecutor(1)):` makes `to="db"` work inside. For programs whose loop is not
    started by `bridge.run` (uvicorn, a test, trio); a lane of the same name outside is hidden meanwhile.
    """

    def __init__(self, **executors: Executor):
        check_lanes(executors)
        self._executors = executors
        self._stack: AsyncExitStack | None = None

    async def __aenter__(self) -> Self:
        if self._stack is not None:
            raise RuntimeError("these lanes are already open: a block owns its executors, so it cannot be nested")
        host = current_host()
        async with AsyncExitStack() as stack:
            for name, executor in self._executors.items():
                await stack.enter_async_context(executor)
                host.open_lane(name, executor)
                stack.callback(host.close_lane, name, executor)  # before the executor is closed
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        stack, self._stack = self._stack, None
        assert stack is not None
        await stack.__aexit__(exc_type, exc, traceback)

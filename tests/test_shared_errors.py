"""One exception object, raised in several threads at once: each has its traceback only until the next one raises it."""

from __future__ import annotations

import sys
from types import FrameType
from typing import Any

import pytest

import bridge

SHARED = KeyError("shared")


def lose_the_traceback_in(function: str, error: BaseException) -> None:
    """As soon as `function`, which has called this one, has caught `error`, its traceback is gone."""

    def trace(frame: FrameType, event: str, arg: Any) -> Any:
        if event == "line" and sys.exception() is error:
            error.__traceback__ = None
        return trace

    frame: FrameType | None = sys._getframe()
    while frame is not None and frame.f_code.co_name != function:
        frame = frame.f_back
    assert frame is not None, f"{function} has not called this"
    frame.f_trace = trace
    sys.settrace(lambda *_: None)


def raise_what_is_shared() -> None:
    lose_the_traceback_in("run", SHARED)
    raise SHARED


@pytest.mark.anyio
async def test_a_traceback_that_another_thread_takes_away_ends_no_worker() -> None:
    async with bridge.ThreadExecutor(1) as executor:
        with pytest.raises(KeyError, match="shared") as caught:
            await executor.run(raise_what_is_shared)
        assert caught.value is SHARED
        assert await executor.run(sys.gettrace) is not None  # in the same worker thread, which is still there

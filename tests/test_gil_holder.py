"""Whose line is told when another thread has held the GIL."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

import pytest

from bridge.diagnostics.stacks import Stack
from bridge.loop.watch import gil_holder
from bridge.loop.watch.gil_holder import GilHolder
from bridge.loop.watch.readings import Window
from tests.test_loop_watch import frames


def window(ident: int | None, ran: float = 0.5) -> Window:
    busiest = None if ident is None else (ident, ran)
    return Window(wall=1.0, loop=0.0, process=1.0, starved=0.0, collecting=0.0, slices=0, busiest=busiest)


@pytest.fixture
def threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[int, FrameType]]:
    """Idents, and where the threads are: 1 in the application, 2 at rest."""
    done = threading.Event()
    resting = threading.Thread(target=done.wait)
    resting.start()
    there = {1: frames("/srv/app.py")[0], 2: sys._current_frames()[resting.ident or 0]}
    monkeypatch.setattr(gil_holder, "frames_of_others", there.copy)
    yield there
    done.set()
    resting.join()


def file_of(stack: Stack | None) -> Any:
    return None if stack is None or stack.place is None else stack.place.file


def test_it_is_the_thread_that_ran_for_most_of_the_time(threads: dict[int, FrameType]) -> None:
    assert file_of(GilHolder().stack(window(1), 0.5)) == "/srv/app.py"
    assert GilHolder().stack(window(1, 0.2), 0.5) is None
    assert GilHolder().stack(window(None), 0.5) is None


def test_one_that_rests_by_now_was_where_it_was_last(threads: dict[int, FrameType]) -> None:
    holder = GilHolder()
    assert holder.stack(window(2), 0.5) is None
    holder.stack(window(1), 0.5)
    assert holder.stack(window(2), 0.5) is None, "that was another thread"
    threads[1] = threads[2]
    assert file_of(holder.stack(window(1), 0.5)) == "/srv/app.py"


def test_one_that_has_ended_was_where_it_was_last(threads: dict[int, FrameType]) -> None:
    holder = GilHolder()
    holder.stack(window(1), 0.5)
    assert holder.stack(window(None), 0.5) is None, "it is still there, and did not run"
    del threads[1]
    assert file_of(holder.stack(window(None), 0.5)) == "/srv/app.py"

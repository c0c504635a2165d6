"""A module that a worker process imports for a call must not start the program once more, which would have workers too.

worker: a call comes ── its function's module is imported ── bridge.run(main), a process ──> RuntimeError: the line
"""

from __future__ import annotations

import sys
from types import FrameType

from bridge.diagnostics.places import Place, place_of, submit_site
from bridge.threads.here import here

#: Worker processes that the calling process descends from. Written once, when a worker begins.
nested: int = 0


def refuse_in_an_import(what: str) -> None:
    """Raise RuntimeError if the calling thread is a worker process's, and takes in a call: what runs is an import."""
    if not getattr(here.worker, "takes_in_a_call", False):
        return
    module = _imported()
    if module is None:  # a method of an object that is packed or rebuilt
        return
    site = submit_site()
    place = None if site is None else place_of(site)
    raise RuntimeError(
        f"a worker process imports {module}, which a call needs, and that calls {what}{_at(place)}: the program would "
        f'start once more in each worker. Put that line under `if __name__ == "__main__":`, or into a function.'
    )


def _imported() -> str | None:
    """The module whose own code runs, nearest to the call; not `__main__`, which is where the worker begins."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        name: str | None = frame.f_globals.get("__name__")
        if frame.f_code.co_name == "<module>" and name != "__main__":
            return name
        frame = frame.f_back
    return None


def _at(place: Place | None) -> str:
    return "" if place is None else f" at {place}"

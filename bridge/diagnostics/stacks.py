"""Stacks as a reader wants them: the application's line first, what carries it folded away.

In: live frames, of this thread or another. Out: `Stack`s, which hold code objects and no frame, so that nothing of what
they show is kept alive.
"""

from __future__ import annotations

import gc
import sys
from inspect import CO_ASYNC_GENERATOR, CO_COROUTINE
from operator import call
from threading import get_ident
from types import AsyncGeneratorType, FrameType
from typing import NamedTuple

from bridge.diagnostics.places import Place, Site, is_bridges, is_installed, is_stdlib, place_of

#: Frames that are looked at, and lines that are shown, of one stack.
_DEEPEST = 2000
_MOST_LINES = 30
#: Code in which an `await` can be written.
_AWAITS = CO_COROUTINE | CO_ASYNC_GENERATOR
#: Does `sys._current_frames` collect garbage when that is due?
_MAY_COLLECT = sys.version_info < (3, 12)


def can_await(site: Site) -> bool:
    """Is this a line of an async function or generator?"""
    return bool(site[0].co_flags & _AWAITS)


class Stack(NamedTuple):
    """The frames of one thread, innermost first."""

    sites: tuple[Site, ...]

    @property
    def blamed(self) -> Site | None:
        """The innermost frame of the application: of files that were not installed.

        Where all of it was installed, the innermost coroutine outside the standard library, and failing that the
        innermost frame there; at last, whatever there is.
        """
        sites = [site for site in self.sites if not is_bridges(site[0].co_filename)]
        foreign = [site for site in sites if not is_stdlib(site[0].co_filename)]
        own = (site for site in foreign if not is_installed(site[0].co_filename))
        awaiting = (site for site in foreign if site[0].co_flags & _AWAITS)
        return next((each for choice in (own, awaiting, foreign, sites, self.sites) for each in choice), None)

    @property
    def shows_the_program(self) -> bool:
        """Is any of it the application's: a file that was not installed?"""
        return any(not is_installed(site[0].co_filename) for site in self.sites)

    @property
    def shows_only_plumbing(self) -> bool:
        """True if all of it is bridge's or the standard library's, as where an event loop calls a built-in function."""
        return all(is_bridges(site[0].co_filename) or is_stdlib(site[0].co_filename) for site in self.sites)

    @property
    def place(self) -> Place | None:
        """The same as a line of the program."""
        site = self.blamed
        return None if site is None else place_of(site)

    @property
    def awaiting(self) -> Site | None:
        """The innermost coroutine of the application: where an `await` could be written."""
        coroutines = [site for site in self.sites if site[0].co_flags & _AWAITS]
        own = (site for site in coroutines if not is_installed(site[0].co_filename))
        foreign = (site for site in coroutines if not is_stdlib(site[0].co_filename))
        return next((each for choice in (own, foreign) for each in choice), None)

    @property
    def outermost_coroutine(self) -> Site | None:
        """The coroutine that all others run in, of those that are not bridge's or the standard library's."""
        sites = (site for site in reversed(self.sites) if site[0].co_flags & _AWAITS)
        return next(
            (site for site in sites if not is_bridges(site[0].co_filename) and not is_stdlib(site[0].co_filename)), None
        )

    def lines(self) -> tuple[str, ...]:
        """One line a frame, innermost first; frames of installed files that follow one another are one line."""
        lines: list[str] = []
        folded: list[str] = []
        for site in self.sites:
            filename = site[0].co_filename
            if is_installed(filename):
                folded.append(_package_of(filename))
                continue
            lines += _fold(folded)
            folded = []
            place = place_of(site)
            lines.append(place.with_source)
        lines += _fold(folded)
        if len(lines) > _MOST_LINES:
            half = _MOST_LINES // 2
            lines[half:-half] = [f"... {len(lines) - 2 * half} lines more ..."]
        return tuple(lines)

    def indented(self) -> tuple[str, ...]:
        """The lines as they stand below the one that says whose stack it is."""
        return tuple(f"  {line}" for line in self.lines())


def _fold(packages: list[str]) -> list[str]:
    if not packages:
        return []
    count = "1 frame" if len(packages) == 1 else f"{len(packages)} frames"
    return [f"({count} of {', '.join(dict.fromkeys(packages))})"]


def _package_of(filename: str) -> str:
    """The top-level package or module that an installed file belongs to."""
    if is_bridges(filename):
        return "bridge"
    parts = filename.replace("\\", "/").split("/")
    for index in range(len(parts) - 1, -1, -1):
        if parts[index] in ("site-packages", "dist-packages") or parts[index].startswith("python3."):
            parts = parts[index + 1 :]
            break
    if filename.startswith("<frozen "):
        parts = [filename[len("<frozen ") : -1].partition(".")[0]]
    return parts[0].removesuffix(".py") if parts else filename


def capture(frame: FrameType | None, until: FrameType | None = None) -> Stack:
    """The stack from `frame` outwards, up to and without `until`."""
    sites: list[Site] = []
    while frame is not None and frame is not until and len(sites) < _DEEPEST:
        sites.append((frame.f_code, frame.f_lasti))
        frame = frame.f_back
    return Stack(tuple(sites))


def current_frames() -> dict[int, FrameType]:
    """What each thread executes just now, by ident: `sys._current_frames()`, which is safe only from Python 3.12 on.

    Before, it may collect garbage while it holds a lock of the interpreter. If what is finalized then lets another thread
    run, and that one starts a thread, all of the process stands still (python/cpython#106883). So nobody collects
    meanwhile: the three calls are one step, between which no other thread can run.
    """
    if _MAY_COLLECT and gc.isenabled():
        return tuple(map(call, (gc.disable, sys._current_frames, gc.enable)))[1]  # type: ignore[return-value]
    return sys._current_frames()


def frames_of_others() -> dict[int, FrameType]:
    """Likewise, but for the calling thread's, whose frames would hold what holds them, and so all variables there are."""
    frames = current_frames()
    frames.pop(get_ident(), None)
    return frames


def stack_of_thread(ident: int | None) -> Stack | None:
    """What a thread executes just now; None if there is no such thread."""
    if ident == get_ident():
        return capture(sys._getframe())
    frame = current_frames().get(ident or 0)
    return None if frame is None else capture(frame)


def stack_of_awaitable(awaitable: object) -> Stack:
    """Where a suspended coroutine or async generator stands, with all that it awaits."""
    sites: list[Site] = []
    while awaitable is not None and len(sites) < _DEEPEST:
        prefix = next((each for each in ("cr", "ag", "gi") if hasattr(awaitable, f"{each}_frame")), None)
        if prefix is None:  # what an async generator's methods return: it has no attributes, but refers to its generator
            awaitable = next((each for each in gc.get_referents(awaitable) if isinstance(each, AsyncGeneratorType)), None)
            continue
        frame = getattr(awaitable, f"{prefix}_frame")
        if frame is not None:
            sites.append((frame.f_code, frame.f_lasti))
        awaitable = getattr(awaitable, "gi_yieldfrom" if prefix == "gi" else f"{prefix}_await")
    return Stack(tuple(reversed(sites)))

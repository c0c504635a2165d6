"""Lines of the program: how they are remembered cheaply, how they are told, and whose they are.

Site: (code, instruction), two pointers, taken on the hot path ──> Place: file, line, function, when it is needed
"""

from __future__ import annotations

import linecache
import os
import sys
from functools import lru_cache
from types import CodeType, FrameType
from typing import NamedTuple

#: A code object, and the instruction in it that was executed (`f_lasti`).
Site = tuple[CodeType, int]

#: Where bridge's own modules lie.
PACKAGE: str = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "")
_STDLIB: str = os.path.dirname(os.__file__)
#: Folders of those that submit on behalf of others.
PLUMBING: tuple[str, ...] = (
    PACKAGE,
    os.path.join(_STDLIB, "asyncio", ""),
    os.path.join(_STDLIB, "concurrent", "futures", ""),
)
_BUILT_IN: tuple[str, ...] = (os.path.join(_STDLIB, ""), "<frozen ", "<__array_function__")
#: Wherever they lie: a virtual environment's, the system's, the user's.
_INSTALLED: tuple[str, ...] = tuple(f"{os.sep}{folder}{os.sep}" for folder in ("site-packages", "dist-packages"))


class Place(NamedTuple):
    """A line of the program. `file` is as in a traceback, `function` is its qualified name."""

    file: str
    line: int
    function: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line} in {self.function}"

    @property
    def source(self) -> str:
        """The text of the line, stripped; empty if it cannot be found."""
        return linecache.getline(self.file, self.line).strip()

    @property
    def with_source(self) -> str:
        """`file:line in function: source`, as far as that can be found."""
        return f"{self}: {self.source}" if self.source else str(self)


def where(place: Place | None, preposition: str) -> str:
    """What a headline ends with: `, <preposition> file:line in function: source`; nothing if that is not known."""
    return "" if place is None else f", {preposition} {place.with_source}"


def is_bridges(filename: str) -> bool:
    """Is this a file of bridge itself?"""
    return filename.startswith(PACKAGE)


@lru_cache(maxsize=4096)
def is_installed(filename: str) -> bool:
    """Was this file installed: the standard library's, a package's, bridge's own, or built into the interpreter?"""
    return filename.startswith((*_BUILT_IN, PACKAGE)) or any(folder in filename for folder in _INSTALLED)


@lru_cache(maxsize=4096)
def is_stdlib(filename: str) -> bool:
    """Is this the standard library's, and not a package's below it?"""
    return filename.startswith(_BUILT_IN) and not any(folder in filename for folder in _INSTALLED)


def submit_site() -> Site | None:
    """The innermost line outside bridge that is being executed, as cheaply as it can be remembered."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        code = frame.f_code
        if not code.co_filename.startswith(PLUMBING):
            return code, frame.f_lasti
        frame = frame.f_back
    return None


def line_of(site: Site) -> int:
    """The line number of an instruction."""
    code, instruction = site
    line: int | None = code.co_firstlineno
    for begin, end, number in code.co_lines():
        if begin <= instruction < end:
            line = number or line
            break
    return line or 0


def place_of(site: Site) -> Place:
    """File, line and function of an instruction."""
    code = site[0]
    return Place(code.co_filename, line_of(site), code.co_qualname)


def describe(site: Site) -> str:
    """`file:line in function`."""
    return str(place_of(site))

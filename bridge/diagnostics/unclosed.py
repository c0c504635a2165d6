"""BRG501: something that holds threads, processes or coroutines was left open, and nobody can close it any more.

    a finalizer ── what it holds is let go, by its owner ── tell_not_closed ──> BRG501, then Python's ResourceWarning

In: finalizers, in whatever thread, and the end of the program. Out: an event and a warning, both with the line that made
the thing. The warning comes last, because it is raised where warnings are errors; a finalizer that raises has its error
written to standard error by CPython. When the interpreter has gone too far to tell, nothing is told.
"""

from __future__ import annotations

import ast
import sys
import warnings

from bridge.diagnostics.advice import called_at
from bridge.diagnostics.events import AttributeValue, Event, emit
from bridge.diagnostics.places import Site, place_of, where
from bridge.diagnostics.switch import wanted

#: Longer lines are not shown as what to write.
_LONGEST = 100


def tell_not_closed(kind: str, name: str | None, site: Site, advice: str, *, made: str = "made") -> None:
    """A `bridge.<kind>` of that name, `made` at `site`, was used and not closed. Raises ResourceWarning as an error."""
    if sys.is_finalizing():
        return
    place = place_of(site)
    called = kind if name is None else f"{kind} {name!r}"
    if wanted():
        attributes: dict[str, AttributeValue] = {"bridge.resource": kind}
        if name is not None:
            attributes["bridge.resource.name"] = name
        headline = f"a {called} was not closed{where(place, f'{made} at')}"
        emit(Event(code="BRG501", headline=headline, advice=advice, place=place, attributes=attributes))
    warnings.warn_explicit(f"unclosed {called}: write {advice}", ResourceWarning, place.file, place.line)


def with_block(kind: str, site: Site | None, variable: str) -> str:
    """The line that makes it, at `site`, as one that closes it, too; `kind` as the program would write it."""
    call = None if site is None else called_at(site)
    if call is not None and ast.unparse(call.func).rpartition(".")[2] == kind.rpartition(".")[2]:
        line = f"with {ast.unparse(call)} as {variable}:"
        if len(line) <= _LONGEST:
            return line
    return f"with {kind}(...) as {variable}:"


class Unleft:
    """Goes away together with a portal that was entered, and tells then, unless that was `left`, or never `used`."""

    __slots__ = ("left", "site", "used")

    def __init__(self, site: Site):
        self.site: Site = site
        self.left: bool = False
        self.used: bool = False

    def __del__(self) -> None:
        if getattr(self, "used", False) and not self.left:  # `__init__` may have been interrupted
            tell_not_closed("portal", None, self.site, "with portal:", made="entered")

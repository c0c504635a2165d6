"""Code that no line calls: finalizers, callbacks of weak references, and of the garbage collector.

Where the loop is blocked by one, the line at which the stack stands is merely the one at which it happened to run: the
last reference to something went away there, or garbage was due.
"""

from __future__ import annotations

import gc
import weakref
from dis import opname
from inspect import CO_COROUTINE, CO_GENERATOR
from types import CodeType
from typing import NamedTuple

from bridge.diagnostics.places import Site
from bridge.diagnostics.stacks import Stack

_FINALIZE: CodeType = weakref.finalize.__call__.__code__
#: Instructions that call nothing, and may drop the last reference to something.
_DROPPING = (
    "STORE_FAST",
    "DELETE_FAST",
    "STORE_DEREF",
    "DELETE_DEREF",
    "STORE_GLOBAL",
    "DELETE_GLOBAL",
    "STORE_NAME",
    "DELETE_NAME",
    "POP_TOP",
)


class Finalizer(NamedTuple):
    """What is run: a phrase for a headline. `advice` is what to do instead."""

    kind: str
    site: Site

    def __str__(self) -> str:
        return f"{self.kind} {self.site[0].co_qualname}"

    @property
    def advice(self) -> str:
        """What to write instead of work in a finalizer."""
        name = self.site[0].co_qualname
        return (
            f"move the work of {name} into a method, and await bridge.to_thread(that_method) before the object goes away"
        )


def finalizer_in(stack: Stack) -> Finalizer | None:
    """The innermost finalizer or callback that runs in these frames; None if there is none."""
    collector = [getattr(each, "__code__", None) for each in gc.callbacks]
    for site, caller in zip(stack.sites, (*stack.sites[1:], None), strict=True):
        code = site[0]
        if code.co_name == "__del__":
            return Finalizer("the finalizer", site)
        if code in collector:
            return Finalizer("the callback of the garbage collector", site)
        if caller is not None and caller[0] is _FINALIZE:
            return Finalizer("the finalizer", site)
        if caller is not None and _drops(caller):
            closes = code.co_flags & (CO_GENERATOR | CO_COROUTINE)
            return Finalizer("the end of the generator" if closes else "the callback of a weak reference,", site)
    return None


def _drops(site: Site) -> bool:
    code, instruction = site
    return instruction >= 0 and opname[code.co_code[instruction]].startswith(_DROPPING)

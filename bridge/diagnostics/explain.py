"""The pages: what each code means, a wrong and a right program, and how to tune or silence it.

In: a code, as somebody types it. Out: the text of its page, which is Markdown and lies in `pages/`, one file a code.
"""

from __future__ import annotations

import difflib
from importlib import resources

from bridge.diagnostics.catalogue import CATALOGUE


class UnknownCode(LookupError):
    """There is no such code; the message says which ones are close to it."""


def check(code: str) -> str:
    """The code that is meant by `BRG101`, `brg101` or `101`. Raises UnknownCode."""
    wanted = code.strip().upper()
    if wanted.isdigit():
        wanted = f"BRG{wanted}"
    if wanted not in CATALOGUE:
        raise UnknownCode(_advice(code, wanted))
    return wanted


def page(code: str) -> str:
    """The page of a code, as `check` takes it."""
    return resources.files("bridge.diagnostics").joinpath("pages", f"{check(code)}.md").read_text(encoding="utf-8")


def overview() -> str:
    """Every code with its title, one a line."""
    lines = [f"{each.code}  {each.title}" for each in CATALOGUE.values()]
    return "\n".join([*lines, "", "More of each: python -m bridge explain CODE", ""])


def _advice(code: str, wanted: str) -> str:
    close = difflib.get_close_matches(wanted, CATALOGUE, n=3)
    instead = f" Did you mean {' or '.join(close)}?" if close else ""
    return f"{code!r} is no code of bridge.{instead} `python -m bridge explain` lists all of them."

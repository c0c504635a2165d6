"""What to write instead: the call that stands at a line, made into one that can be awaited.

In: a site, with the source of its file at hand. Out: a line of code, or None where the source does not tell.
"""

from __future__ import annotations

import ast
import linecache
from itertools import islice
from typing import Literal

from bridge.diagnostics.places import Site

#: Longer calls are shortened to their function's name.
_LONGEST = 100


def called_at(site: Site) -> ast.Call | None:
    """The call that is being executed at a site, as its source has it."""
    text = _source_of(site)
    try:
        tree = ast.parse(f"({text})", mode="eval").body if text else None
    except (SyntaxError, ValueError):
        return None
    return tree if isinstance(tree, ast.Call) else None


def offloaded(site: Site, to: Literal["thread", "process"]) -> str | None:
    """`await bridge.to_thread(function, arguments)` for the call at `site`."""
    call = called_at(site)
    if call is None:
        return None
    function = ast.unparse(call.func)
    if to == "thread" and function in ("time.sleep", "sleep"):
        return f"await asyncio.sleep({', '.join(map(ast.unparse, call.args))})"
    arguments = [ast.unparse(each) for each in (*call.args, *call.keywords)]
    line = f"await bridge.to_{to}({', '.join([function, *arguments])})"
    return line if len(line) <= _LONGEST else f"await bridge.to_{to}({function}, ...)"


def _source_of(site: Site) -> str | None:
    """The source text of the expression that an instruction belongs to."""
    code, instruction = site
    position = next(islice(code.co_positions(), max(0, instruction) // 2, None), None)
    if position is None:
        return None
    first, last, begin, end = position
    if first is None or last is None or begin is None or end is None:
        return None
    lines = [linecache.getline(code.co_filename, number) for number in range(first, last + 1)]
    if not all(lines):
        return None
    encoded = [line.encode() for line in lines]  # columns count bytes
    encoded[-1] = encoded[-1][:end]
    encoded[0] = encoded[0][begin:]
    return b"".join(encoded).decode(errors="replace").strip()

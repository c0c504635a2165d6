"""What to write instead: the call that stands at a line, made into one that can be awaited.

In: a site, with the source of its file at hand. Out: a line of code, or None where the source does not tell.
"""

from __future__ import annotations

import ast
import linecache
from collections.abc import Sequence
from dis import opname
from functools import lru_cache
from itertools import islice
from textwrap import dedent
from types import FrameType
from typing import Literal

from bridge.diagnostics.owners import owned_instead
from bridge.diagnostics.places import Place, Site

#: Longer calls are shortened to their function's name.
_LONGEST = 100
#: What sends a function to a thread, with its arguments behind it.
_SENDERS = ("to_thread", "run", "submit", "run_in_executor")
#: What gives a callback to a loop, and where that stands among the arguments.
_CALLBACKS = {"call_soon": 0, "call_soon_threadsafe": 0, "call_later": 1, "call_at": 1}
#: Instructions that call something.
_CALLS = ("PRECALL", "CALL", "CALL_KW", "CALL_FUNCTION_EX")
#: Lines that are read for the end of one statement.
_MOST_LINES = 10


def called_at(site: Site) -> ast.Call | None:
    """The call that is being executed at a site, as its source has it."""
    text = _source_of(site)
    try:
        tree = ast.parse(f"({text})", mode="eval").body if text else None
    except (SyntaxError, ValueError):
        return None
    return tree if isinstance(tree, ast.Call) else None


def offloaded(
    site: Site, to: Literal["thread", "process"], library: str = "asyncio", frame: FrameType | None = None
) -> str | None:
    """`await bridge.to_thread(function, arguments)` for the call at `site`; None if such a call would not work.

    `library` is the one whose `sleep` is meant, `frame` the one that executes the call, if it is known.
    """
    call = called_at(site)
    if call is None or not _calls(site):
        return None
    instead = owned_instead(call, frame, to)
    if instead is not None:
        return instead
    if to == "process" and not _could_be_pickled(call):
        return None
    function = ast.unparse(call.func)
    if to == "thread" and function in ("time.sleep", "sleep"):
        return f"await {library}.sleep({', '.join(map(ast.unparse, call.args))})"
    return _written(f"await bridge.to_{to}", [call.func, *call.args, *call.keywords])


@lru_cache(maxsize=512)
def awaited(place: Place, name: str | None) -> str | None:
    """`await` before the call of the async function `name` that begins at `place`; None if none is found there. Without a
    name, it is the outermost call."""
    tree = _statement_at(place)
    calls = () if tree is None else (each for each in ast.walk(tree) if isinstance(each, ast.Call))
    call = next((each for each in calls if name is None or _last_name(each.func) == name), None)
    if call is None:
        return None
    return _with_await(call)


@lru_cache(maxsize=512)
def awaited_object(place: Place) -> str | None:
    """As `awaited`, of an object whose `__call__` is async, and whose name is not known. None if more than one call that
    begins at `place` may be its."""
    tree = _statement_at(place)
    calls = [] if tree is None else [each for each in ast.walk(tree) if isinstance(each, ast.Call)]
    if len(calls) == 1 or (len(calls) == 2 and calls[0].func is calls[1]):  # `handler()`, `Handler()()`
        return _with_await(calls[0])
    return None


@lru_cache(maxsize=512)
def as_a_task(place: Place) -> str | None:
    """The callback that a call which begins at `place` gives to the loop, as one that starts a task; None if no such call
    is found there."""
    sent = _callback_at(place)
    if sent is None:
        return None
    made = ast.unparse(ast.Call(sent[0], sent[1:], []))
    return f"lambda: asyncio.create_task({made})" if len(made) <= _LONGEST else None


@lru_cache(maxsize=512)
def offloaded_callback(place: Place, to: Literal["thread", "process"]) -> str | None:
    """As `offloaded`, of the callback that a call which begins at `place` gives to the loop."""
    sent = _callback_at(place)
    if sent is None or (to == "process" and any(isinstance(each, ast.Lambda) for each in sent)):
        return None
    return _written(f"await bridge.to_{to}", sent)


@lru_cache(maxsize=512)
def in_a_process(place: Place, function: str) -> str | None:
    """The call that begins at `place` and sends `function` to a thread, as one that sends it to a process.

    None if no such call is found there, or if it could not be pickled.
    """
    tree = _statement_at(place)
    for call in () if tree is None else ast.walk(tree):
        if isinstance(call, ast.Call) and _could_be_pickled(call):
            line = _in_a_process(call, function)
            if line is not None:
                return line
    return None


@lru_cache(maxsize=512)
def sent_to_a_thread(place: Place, name: str) -> tuple[str, tuple[str, ...]] | None:
    """The function of that last name which a call that begins at `place` sends to a thread, and its arguments."""
    tree = _statement_at(place)
    for call in () if tree is None else ast.walk(tree):
        if isinstance(call, ast.Call):
            for number, each in enumerate(call.args):
                if _last_name(each) == name:
                    return ast.unparse(each), tuple(map(ast.unparse, call.args[number + 1 :]))
    return None


def _in_a_process(call: ast.Call, function: str) -> str | None:
    sent = next((number for number, each in enumerate(call.args) if _last_name(each) == function), None)
    if sent is None:
        return None
    sender = _last_name(call.func)
    if sender in _SENDERS:
        return _written("await bridge.to_process", [*call.args[sent:], *call.keywords])
    if sender == "stream" or ast.unparse(call.func) == "bridge.map":
        keywords = [each for each in call.keywords if each.arg != "to"]
        return _written(f"bridge.{sender}", [*call.args[sent:], *keywords], 'to="process"')
    return None


def _written(function: str, arguments: Sequence[ast.AST], *last: str) -> str:
    """A call; if it is too long, with the first of its arguments and the `last` ones only."""
    first, *others = map(ast.unparse, arguments)
    line = f"{function}({', '.join([first, *others, *last])})"
    return line if len(line) <= _LONGEST else f"{function}({', '.join([first, '...', *last])})"


def _callback_at(place: Place) -> list[ast.expr] | None:
    """The callback that a call which begins at `place` gives to the loop, and its arguments."""
    tree = _statement_at(place)
    for call in () if tree is None else ast.walk(tree):
        at = _CALLBACKS.get(_last_name(call.func) or "") if isinstance(call, ast.Call) else None
        if isinstance(call, ast.Call) and at is not None and len(call.args) > at:
            return call.args[at:]
    return None


def _with_await(call: ast.Call) -> str:
    line = f"await {ast.unparse(call)}"
    return line if len(line) <= _LONGEST else f"await {ast.unparse(call.func)}(...)"


def _statement_at(place: Place) -> ast.AST | None:
    """The statement that begins at `place`, or the head of one; None if the source does not tell."""
    for last in range(place.line, place.line + _MOST_LINES):
        lines = [linecache.getline(place.file, number) for number in range(place.line, last + 1)]
        tree = _parsed(dedent("".join(lines)).strip())
        if tree is not None:
            return tree
    return None


def _parsed(text: str) -> ast.AST | None:
    """A statement, or the head of one, such as `if fetch():`."""
    for before, behind in (("", ""), ("", "\n    pass"), ("if 0: pass\n", "\n    pass"), ("(", ")")):
        try:
            return ast.parse(f"{before}{text}{behind}")
        except (SyntaxError, ValueError):
            continue
    return None


def _last_name(function: ast.expr) -> str | None:
    """`close` of `self.connection.close`."""
    return getattr(function, "attr", None) or getattr(function, "id", None)


def threadsafe(site: Site) -> str:
    """The call at `site`, made in another thread than the loop's, as one that the loop takes from any thread."""
    call = called_at(site)
    if call is None:
        return "loop.call_soon_threadsafe(function, ...)"
    function = ast.unparse(call.func)
    owner, _, method = function.rpartition(".")
    arguments = [ast.unparse(each) for each in call.args]
    if method == "create_task" and arguments:
        return f"asyncio.run_coroutine_threadsafe({arguments[0]}, {owner})"
    loop = owner if method in ("call_soon", "call_later", "call_at", "stop") else "loop"
    if call.keywords:
        return f"{loop}.call_soon_threadsafe(lambda: {ast.unparse(call)})"
    if method != "call_soon":
        arguments = [function, *arguments]
    return f"{loop}.call_soon_threadsafe({', '.join(arguments)})"


def _calls(site: Site) -> bool:
    """Is what executes at a site the call in its source, and not what `with` or `for` do with what that has returned?

    Those, too, count as the source text of the call, but they come after it.
    """
    code, instruction = site
    operations, positions = code.co_code[::2], list(code.co_positions())
    at = instruction // 2
    while at and opname[operations[at]] == "CACHE":  # in which a call of a Python function leaves its caller
        at -= 1
    same = (number for number in range(at) if operations[number] == operations[at])
    return opname[operations[at]] in _CALLS and not any(positions[number] == positions[at] for number in same)


def _could_be_pickled(call: ast.Call) -> bool:
    """Could the function and its arguments go to another process, as far as their source tells?"""
    return not any(isinstance(each, (ast.Lambda, ast.GeneratorExp)) for each in ast.walk(call))


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

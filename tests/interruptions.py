"""Run an action again and again, each time with an exception raised at the next bytecode of bridge that it executes.

A signal handler may raise between any two bytecodes. Here an exception comes at each of them in turn, which includes
places where CPython never runs a handler: what survives here survives a signal anywhere.

Only the calling thread counts, and by default only code of the bridge package. Where the standard library is to count
as well, `where_handlers_run` leaves out the places where no handler runs, as between the halves of `with lock:`.
"""

from __future__ import annotations

import dis
import random
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from threading import get_ident
from types import CodeType, FrameType
from typing import Any

import bridge

BRIDGE = str(Path(bridge.__file__).parent)

#: True for a bytecode, by its code and offset, that is to be interrupted.
Counts = Callable[[CodeType, int], bool]
#: Called before each bytecode of the calling thread, with its code and offset; may raise.
OnBytecode = Callable[[CodeType, int], None]


class Interrupted(Exception):
    """What the signal handler raises."""


@dataclass(frozen=True)
class Position:
    """The bytecode before which the exception was raised. `number` counts bytecodes of bridge from the start."""

    number: int
    file: str
    line: int | None
    function: str
    offset: int

    def __str__(self) -> str:
        return f"bytecode {self.number}: {self.file}:{self.line} in {self.function}, offset {self.offset}"

    @classmethod
    def of(cls, number: int, code: CodeType, offset: int) -> Position:
        line = next((line for start, end, line in code.co_lines() if start <= offset < end), None)
        return cls(number, Path(code.co_filename).name, line, code.co_qualname, offset)


def of_bridge(code: CodeType, offset: int) -> bool:
    """True for all code of the bridge package."""
    return code.co_filename.startswith(BRIDGE)


def where_handlers_run(code: CodeType, offset: int) -> bool:
    """True where CPython may run a signal handler: after calls, at the beginning of functions and at the end of loops."""
    return offset in _where_handlers_run(code)


@cache
def _where_handlers_run(code: CodeType) -> frozenset[int]:
    found, after = set(), False
    for instruction in dis.get_instructions(code):
        if after:
            found.add(instruction.offset)
        name = instruction.opname
        after = name == "RESUME" or (name.startswith("CALL") and "INTRINSIC" not in name)
        if name.startswith("JUMP_BACKWARD"):
            found.add(instruction.argval)
    return frozenset(found)


if sys.version_info >= (3, 12):
    # sys.settrace would do, but for Python 3.13, which leaves out the bytecodes of functions seen for the first time.

    @contextmanager
    def tracing(on_bytecode: OnBytecode) -> Iterator[None]:
        """Call `on_bytecode` before each bytecode that this thread executes in the block."""
        monitoring, tool, thread = sys.monitoring, sys.monitoring.DEBUGGER_ID, get_ident()

        def on_instruction(code: CodeType, offset: int) -> None:
            if get_ident() == thread:
                on_bytecode(code, offset)

        monitoring.use_tool_id(tool, "interruptions")
        monitoring.register_callback(tool, monitoring.events.INSTRUCTION, on_instruction)
        monitoring.set_events(tool, monitoring.events.INSTRUCTION)
        try:
            yield
        finally:
            monitoring.set_events(tool, 0)
            monitoring.register_callback(tool, monitoring.events.INSTRUCTION, None)
            monitoring.free_tool_id(tool)

else:

    @contextmanager
    def tracing(on_bytecode: OnBytecode) -> Iterator[None]:
        """Call `on_bytecode` before each bytecode that this thread executes in the block, until it raises."""

        def trace(frame: FrameType, event: str, argument: object) -> Any:
            frame.f_trace_opcodes = True
            if event == "opcode":
                on_bytecode(frame.f_code, frame.f_lasti)
            return trace

        before = sys.gettrace()
        sys.settrace(trace)
        try:
            yield
        finally:
            sys.settrace(before)


def interrupt(
    action: Callable[[], object],
    number: int,
    error: type[BaseException] = Interrupted,
    counts: Counts = of_bridge,
) -> Position | None:
    """Run `action`, raising `error` before the bytecode with this number (from 1). Return the position, or None if the
    action ended before it got there. What the action raises instead of `error` is raised here.
    """
    seen = 0
    position: Position | None = None

    def on_bytecode(code: CodeType, offset: int) -> None:
        nonlocal seen, position
        if position is None and counts(code, offset):
            seen += 1
            if seen == number:
                position = Position.of(number, code, offset)
                raise error

    try:
        with tracing(on_bytecode):
            action()
    except error:
        assert position is not None
    return position


def interruptions(
    action: Callable[[], object],
    *,
    error: type[BaseException] = Interrupted,
    counts: Counts = of_bridge,
    sample: int | None = None,
    seed: int = 0,
) -> Iterator[Position]:
    """Interrupt `action` at each bytecode in turn and give the position each time, for the test to check what is left.

    With `sample`, only that many bytecodes are interrupted, chosen at random from `seed`.
    """
    if sample is None:
        number = 1
        while (position := interrupt(action, number, error, counts)) is not None:
            yield position
            number += 1
        return
    bytecodes(action, counts)  # the first run also executes what is imported and cached then
    total = bytecodes(action, counts)
    for number in random.Random(seed).sample(range(1, total + 1), min(sample, total)):
        position = interrupt(action, number, error, counts)
        if position is not None:
            yield position


def bytecodes(action: Callable[[], object], counts: Callable[[CodeType], bool] = of_bridge) -> int:
    """Run `action` undisturbed and return how many bytecodes of bridge it executes in this thread."""
    seen = 0

    def on_bytecode(code: CodeType, offset: int) -> None:
        nonlocal seen
        seen += counts(code, offset)

    with tracing(on_bytecode):
        action()
    return seen

"""How to measure: cases side by side, in rounds, on one core.

    Suite ── Section (one question, one unit) ── Case (one answer) ── rounds ──> Measured

In each round every case of a section is run once, forwards and backwards in turn, so that a slow moment of the machine,
or a drift, meets all of them alike. The figure of a case is the median over its rounds. Whether all of it is kept on one
core is `scheduling`'s.
"""

from __future__ import annotations

import faulthandler
import gc
import statistics
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

#: Seconds after which a case that does not end is reported with the stacks of all threads, and the process ended.
STUCK_AFTER = 120.0

Status = Literal["hoped met", "met", "UNMET", "not measured"]


@dataclass(frozen=True)
class Case:
    """One way of doing what the section asks. `measure` does it once, from a fresh state, and returns the figure."""

    name: str
    on: str
    measure: Callable[[], float]

    @property
    def key(self) -> str:
        """What targets call it."""
        return f"{self.name} on {self.on}" if self.on else self.name


@dataclass(frozen=True)
class Section:
    """Cases that answer the same question. `reference` is the key of the case that the others are divided by."""

    title: str
    unit: str
    cases: list[Case]
    reference: str
    #: Key of the case that nothing can beat, if there is one.
    floor: str | None = None
    #: So many rounds are enough, because the figures hardly vary or because each takes long.
    max_rounds: int | None = None
    #: Whether a target is the median of the ratios within each round, not the ratio of the medians: for differences that
    #: are smaller than the drift of the machine from round to round. Then the first case is another one every two rounds.
    paired: bool = False


@dataclass(frozen=True)
class Target:
    """What a figure has to be. `limit`: at most so much; otherwise `other` has to be at least so many times `ours`."""

    name: str
    section: str
    ours: str
    required: float
    hoped: float | None = None
    #: Key of the case to divide by (`limit`), or to be divided by `ours`. None: the figure itself counts.
    other: str | None = None
    limit: bool = False
    #: Whether reaching the required figure exactly is not enough.
    strict: bool = False
    unit: str = "x"


@dataclass(frozen=True)
class Column:
    """Of the table over all sections: the figures of `case`, or how many times those of `other` they are."""

    header: str
    case: str
    other: str | None = None


@dataclass(frozen=True)
class Suite:
    """Everything that one command measures."""

    name: str
    sections: list[Section]
    targets: list[Target]
    notes: list[str] = field(default_factory=list)
    #: The optional packages that it makes use of, by their names in `peers.OPTIONAL`.
    optional: tuple[str, ...] = ()
    #: Whether everything is kept on one core, see `scheduling.pin_to_one_core`.
    one_core: bool = True
    #: Whether no thread pushes another one off that core, see `scheduling.take_turns`.
    turns: bool = False
    #: Unless the command says otherwise.
    rounds: int = 9
    #: Those of one more table, with a row for each section, if there are any.
    columns: list[Column] = field(default_factory=list)


@dataclass
class Measured:
    """The rounds of one case, in the unit of its section; or why there are none."""

    case: Case
    rounds: list[float] = field(default_factory=list)
    crash: str | None = None

    @property
    def median(self) -> float | None:
        if self.crash is not None or not self.rounds:
            return None
        return statistics.median(self.rounds)


@dataclass
class SectionResult:
    """A section with its figures."""

    section: Section
    measured: list[Measured]

    def median(self, key: str | None) -> float | None:
        """The figure of the case with that key, or None if it was not measured."""
        return next((measured.median for measured in self.measured if measured.case.key == key), None)


@dataclass(frozen=True)
class Judged:
    """A target, and what came out."""

    target: Target
    measured: float | None
    status: Status
    #: Between which the middle half of the ratios within the rounds lies, if the section is `paired`.
    spread: tuple[float, float] | None = None


def run_section(section: Section, rounds: int, progress: Callable[[str], None]) -> SectionResult:
    """Run every case of a section once in each round. A case that crashes is noted and left out of later rounds."""
    results = [Measured(case) for case in section.cases]
    total = min(rounds, section.max_rounds or rounds)
    for number in range(total):
        first = number // 2 % len(results) if section.paired else 0
        turn = results[first:] + results[:first]
        for measured in turn if number % 2 == 0 else reversed(turn):
            progress(f"{section.title}: round {number + 1} of {total}: {measured.case.key}")
            if measured.crash is None:
                _run_case(measured)
    progress("")
    return SectionResult(section, results)


def _run_case(measured: Measured) -> None:
    gc.collect()
    faulthandler.dump_traceback_later(STUCK_AFTER, exit=True)
    try:
        measured.rounds.append(measured.case.measure())
    except Exception:
        measured.crash = traceback.format_exc()
    finally:
        faulthandler.cancel_dump_traceback_later()


def judge(target: Target, results: list[SectionResult]) -> Judged:
    """Compare a target with what was measured."""
    result = next((result for result in results if result.section.title == target.section), None)
    measured = None if result is None else _figure(target, result)
    if measured is None:
        return Judged(target, None, "not measured")
    ratios = _ratios(target, result) if result is not None else []
    spread = middle_half(ratios) if ratios else None
    if target.hoped is not None and _reaches(measured, target.hoped, target):
        return Judged(target, measured, "hoped met", spread)
    return Judged(target, measured, "met" if _reaches(measured, target.required, target) else "UNMET", spread)


def _figure(target: Target, result: SectionResult) -> float | None:
    ours = result.median(target.ours)
    if target.other is None or ours is None:
        return ours
    other = result.median(target.other)
    if other is None:
        return None
    ratios = _ratios(target, result)
    if ratios:
        return statistics.median(ratios)
    return ours / other if target.limit else other / ours


def _ratios(target: Target, result: SectionResult) -> list[float]:
    """Those within each round; none if the section is not `paired`."""
    if not result.section.paired or target.other is None:
        return []
    ours, other = (target.ours, target.other) if target.limit else (target.other, target.ours)
    return ratios_within_rounds(result, ours, other)


def ratios_within_rounds(result: SectionResult, key: str, other: str) -> list[float]:
    """How many times `other` a case is, in each round; none if not both were measured."""
    rounds = {measured.case.key: measured.rounds for measured in result.measured if measured.crash is None}
    if key not in rounds or other not in rounds:
        return []
    return [ours / theirs for ours, theirs in zip(rounds[key], rounds[other], strict=True)]


def middle_half(values: list[float]) -> tuple[float, float]:
    """The first and the third quartile."""
    if len(values) == 1:
        return values[0], values[0]
    first, _, third = statistics.quantiles(values, n=4, method="inclusive")
    return first, third


def _reaches(measured: float, wanted: float, target: Target) -> bool:
    if target.strict and measured == wanted:
        return False
    return measured <= wanted if target.limit else measured >= wanted

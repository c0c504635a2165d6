"""What came out: tables for people, JSON for programs."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

from benchmarks.measure import (
    Column,
    Judged,
    Measured,
    SectionResult,
    Suite,
    Target,
    middle_half,
    ratios_within_rounds,
)

Row = list[str]

_TURNS = "No thread pushes another one off the core (SCHED_BATCH), so that they take turns in one way."
_NO_TURNS = "This system lets threads push each other off the core: rows that cross threads vary by how they do."


def table(header: Row, rows: list[Row], left: int) -> str:
    """Columns as wide as they need to be; the first `left` of them aligned to the left, figures to the right."""
    widths = [max(len(row[column]) for row in [header, *rows]) for column in range(len(header))]

    def line(row: Row) -> str:
        cells = [
            cell.ljust(width) if column < left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        return "  " + "  ".join(cells).rstrip()

    return "\n".join([line(header), line(["-" * width for width in widths]), *map(line, rows)])


def environment_lines(environment: dict[str, Any], missing: dict[str, str], one_core: bool) -> str:
    """On what, with what, without what. `one_core`: whether everything was to be kept on one."""
    versions = ", ".join(f"{name} {version}" for name, version in environment["versions"].items())
    core = environment["core"]
    if not one_core:
        pinned = f"not pinned: {environment['cores']} cores, because processes run side by side"
    elif core is None:
        pinned = "not pinned: this system cannot keep a process on one core, so expect more noise"
    else:
        pinned = (
            f"pinned to core {core}, everything, the sleeping workers too: the GIL lets one thread run at a time anyway"
        )
    lines = [
        f"{environment['implementation']} {environment['python']}, {environment['system']}; {versions}",
        f"{pinned}.",
        f"Medians of at most {environment['rounds']} rounds; in each round all cases of a section take their turn.",
    ]
    if environment["turns"] is not None:
        lines.insert(2, _TURNS if environment["turns"] else _NO_TURNS)
    lines += [f"{name} is not installed and left out: {command}" for name, command in missing.items()]
    return "\n".join(lines)


def section_table(result: SectionResult) -> str:
    """One section; `/ bridge` is how many times bridge's figure on its own loop, `/ floor` likewise."""
    section = result.section
    header = ["", "on", "median", "least", "most", "/ bridge"]
    if section.floor is not None:
        header.append("/ floor")
    rows = [_row(measured, result) for measured in result.measured]
    crashes = [f"  {measured.case.key} crashed:\n{measured.crash}" for measured in result.measured if measured.crash]
    return "\n".join([f"\n{section.title} ({section.unit})", table(header, rows, left=2), *crashes])


def _row(measured: Measured, result: SectionResult) -> Row:
    section, case, median = result.section, measured.case, measured.median
    if median is None:
        figures = ["crashed", "", "", ""]
    else:
        figures = [_figure(median), _figure(min(measured.rounds)), _figure(max(measured.rounds))]
        figures.append(_ratio(median, result.median(section.reference)))
    if section.floor is not None:
        figures.append("" if median is None else _ratio(median, result.median(section.floor)))
    return [case.name, case.on, *figures]


def columns_table(columns: list[Column], results: list[SectionResult]) -> str:
    """A row for each section: medians, with the least; or medians of the ratios, with where their middle half lies."""
    rows = [[result.section.title, *(_cell(column, result) for column in columns)] for result in results]
    return "\n" + table(["", *(column.header for column in columns)], rows, left=1)


def _cell(column: Column, result: SectionResult) -> str:
    if column.other is not None:
        ratios = ratios_within_rounds(result, column.case, column.other)
        return f"{statistics.median(ratios):.2f}x {_between(middle_half(ratios))}" if ratios else ""
    median = result.median(column.case)
    if median is None:
        return ""
    rounds = next(measured.rounds for measured in result.measured if measured.case.key == column.case)
    return f"{_figure(median)} ({_figure(min(rounds))})"


def _between(spread: tuple[float, float]) -> str:
    return f"({spread[0]:.2f} to {spread[1]:.2f})"


def _figure(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _ratio(value: float, reference: float | None) -> str:
    return f"{value / reference:.2f}" if reference else "?"


def targets_table(judged: list[Judged], notes: list[str]) -> str:
    """What was required, what was hoped for, what it is."""
    rows = [
        [
            one.target.name,
            _wanted(one.target.required, one.target),
            "" if one.target.hoped is None else _wanted(one.target.hoped, one.target),
            _measured(one),
            one.status,
        ]
        for one in judged
    ]
    lines = ["\nTargets", table(["", "required", "hoped for", "measured", "verdict"], rows, left=1)]
    return "\n".join([*lines, "", *notes])


def _measured(one: Judged) -> str:
    if one.measured is None:
        return ""
    spread = "" if one.spread is None else f" {_between(one.spread)}"
    return f"{one.measured:.2f}{one.target.unit}{spread}"


def _wanted(figure: float, target: Target) -> str:
    relation = ("<" if target.strict else "<=") if target.limit else (">" if target.strict else ">=")
    return f"{relation} {figure:g}{target.unit}"


def write_json(
    path: Path, suite: Suite, environment: dict[str, Any], results: list[SectionResult], judged: list[Judged]
) -> None:
    """Everything, every round included."""
    document = {
        "suite": suite.name,
        "environment": environment,
        "sections": [_section_as_json(result) for result in results],
        "targets": [_judged_as_json(one) for one in judged],
        "notes": suite.notes,
    }
    path.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


def _section_as_json(result: SectionResult) -> dict[str, Any]:
    section = result.section
    reference, floor = result.median(section.reference), result.median(section.floor)
    return {
        "title": section.title,
        "unit": section.unit,
        "reference": section.reference,
        "cases": [
            {
                "name": measured.case.name,
                "on": measured.case.on,
                "median": measured.median,
                "rounds": measured.rounds,
                "ratio_to_bridge": _quotient(measured.median, reference),
                "ratio_to_floor": _quotient(measured.median, floor),
                "crash": measured.crash,
            }
            for measured in result.measured
        ],
    }


def _quotient(value: float | None, by: float | None) -> float | None:
    return value / by if value is not None and by else None


def _judged_as_json(one: Judged) -> dict[str, Any]:
    return {
        "name": one.target.name,
        "relation": "at most" if one.target.limit else "at least",
        "strict": one.target.strict,
        "required": one.target.required,
        "hoped_for": one.target.hoped,
        "measured": one.measured,
        "spread": one.spread,
        "unit": one.target.unit.strip(),
        "verdict": one.status,
    }

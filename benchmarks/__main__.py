"""The command: `python -m benchmarks threads|processes|diagnostics [--quick] [--rounds N] [--only TEXT] [--json FILE]`.

Ends with 0 whatever the figures are, and with 1 if a case crashed: figures depend on the machine, crashes do not.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from benchmarks import diagnostics, processes, report, threads
from benchmarks.measure import Suite, judge, run_section
from benchmarks.peers import environment, missing
from benchmarks.scheduling import pin_to_one_core, take_turns

SUITES: dict[str, Callable[..., Suite]] = {
    "diagnostics": diagnostics.suite,
    "processes": processes.suite,
    "threads": threads.suite,
}
QUICK_ROUNDS = 3


def main(arguments: list[str]) -> int:
    """Measure a suite, print it, write it down."""
    options = _parse(arguments)
    suite = SUITES[options.suite](quick=options.quick)
    core = pin_to_one_core() if suite.one_core else None
    turns = take_turns() if suite.turns else None
    rounds = options.rounds or (QUICK_ROUNDS if options.quick else suite.rounds)
    circumstances = environment(core, turns, rounds, suite.optional)
    print(report.environment_lines(circumstances, missing(suite.optional), suite.one_core), flush=True)
    results = []
    for section in suite.sections:
        if options.only.lower() in section.title.lower():
            results.append(run_section(section, rounds, _show_progress))
            print(report.section_table(results[-1]), flush=True)
    if suite.columns:
        print(report.columns_table(suite.columns, results))
    judged = [judge(target, results) for target in suite.targets]
    print(report.targets_table(judged, suite.notes))
    if options.json is not None:
        report.write_json(options.json, suite, circumstances, results, judged)
    return 1 if any(measured.crash for result in results for measured in result.measured) else 0


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="bridge beside its peers, case by case.")
    parser.add_argument("suite", choices=sorted(SUITES))
    parser.add_argument("--quick", action="store_true", help="smaller and fewer rounds: a smoke test, not a measurement")
    parser.add_argument("--rounds", type=_rounds, metavar="N", help="rounds per section (default: the suite's)")
    parser.add_argument("--only", default="", metavar="TEXT", help="only sections whose title contains TEXT")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results there as JSON, too")
    return parser.parse_args(arguments)


def _rounds(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"a whole number from 1 on, not {text!r}")
    return int(text)


def _show_progress(text: str) -> None:
    """One line on a terminal, overwritten again and again; nothing where nobody looks."""
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

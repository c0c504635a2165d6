"""`python -m tests.diagnostics_docs [--anew] [CODE ...]`: docs/diagnostics.md is made of the pages of bridge's codes.

bridge/diagnostics/pages/*.md, tests/diagnostics_introduction.md, README.md ── run each program that has an output, put
down what it prints ──> the same
the introduction, a table of the codes, the pages ──> docs/diagnostics.md

An output that still is what the program prints stays as it is, so that a `...` may stand in it wherever it varies; with
`--anew` all are put down as they come. Without CODEs every page is looked at.
"""

from __future__ import annotations

import argparse
import logging
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from bridge.diagnostics.catalogue import CATALOGUE, Code
from tests.test_docs import BLOCK, ROOT, as_pattern, run_program

PAGES = ROOT / "bridge" / "diagnostics" / "pages"
INTRODUCTION = ROOT / "tests" / "diagnostics_introduction.md"
README = ROOT / "README.md"
GENERATED = ROOT / "docs" / "diagnostics.md"
#: Programs, outputs and headings, and code within a line: what holds no links.
CODE = re.compile(r"(^```.*?^```\n|^#[^\n]*\n|`[^`\n]+`)", re.MULTILINE | re.DOTALL)
TABLE = "<!-- the codes -->\n"

#: What is another one each time, and how it is put down.
VARYING = (
    (re.compile(r"(?:/[\w.+-]+)+/program\.py"), ".../program.py"),
    (re.compile(r"\b0x[0-9a-f]{6,}\b"), "0x..."),
    (re.compile(r"(passed|failed) in \d+\.\d+s$", re.MULTILINE), r"\1 in ...s"),
    (re.compile(r"\b(process|pid) \d+"), r"\1 ..."),
    (re.compile(r"\S*/(?:lib/python3\.\d+|site-packages)/"), ".../"),
)


def put_down(output: str) -> str:
    """An output as it stands in a page."""
    for varying, stable in VARYING:
        output = varying.sub(stable, output)
    return output


def with_outputs(text: str, *, anew: bool) -> str:
    """A page, each of its text blocks being what the program above it prints."""

    def renewed(block: re.Match[str]) -> str:
        expected = block["output"]
        if expected is None:
            return block[0]
        with tempfile.TemporaryDirectory() as folder:
            output = run_program(block["code"], Path(folder), warnings=None, hurried=True)
        if not anew and re.fullmatch(as_pattern(expected, measured=True), output, re.DOTALL):
            return block[0]
        return f"```python\n{block['code']}```\n\n```text\n{put_down(output)}```\n"

    return BLOCK.sub(renewed, text)


# -- the document ------------------------------------------------------------------------------------------------------


def anchor(heading: str) -> str:
    """What a Markdown viewer makes of a heading, for links to it."""
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


def heading_of(code: Code) -> str:
    return f"{code.code}: {code.title}"


def table() -> str:
    """Every code, its logger and its level."""
    rows = [
        f"| [{each.code}](#{anchor(heading_of(each))}) | {each.title} | `{each.logger.name}` |"
        f" {logging.getLevelName(each.level)} | `{each.name}` |"
        for each in CATALOGUE.values()
    ]
    return "\n".join(["| Code | | Logger | Level | Name |", "|---|---|---|---|---|", *rows, ""])


def chapter(page: str) -> str:
    """A page as a part of the document: its headings one deeper, the codes that it names made links."""
    own = page[2 : page.index(":")]
    unlinked = {each.code: each for each in CATALOGUE.values() if each.code != own}

    def link(mention: re.Match[str]) -> str:  # the first one of each
        code = unlinked.pop(mention[0], None)
        return mention[0] if code is None else f"[{code.code}](#{anchor(heading_of(code))})"

    def converted(part: str) -> str:
        if part.startswith("#"):
            return f"#{part}"
        return part if part.startswith("`") else re.sub(r"\bBRG\d{3}\b", link, part)

    return "".join(map(converted, CODE.split(page)))


def document() -> str:
    """docs/diagnostics.md, of the pages as they are."""
    pages = [chapter((PAGES / f"{code}.md").read_text(encoding="utf-8")) for code in CATALOGUE]
    introduction = INTRODUCTION.read_text(encoding="utf-8").replace(TABLE, table())
    return "\n".join([introduction, *pages])


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.diagnostics_docs", description=__doc__)
    parser.add_argument("--anew", action="store_true")
    parser.add_argument("codes", nargs="*", metavar="CODE")
    options = parser.parse_args()
    sources = [PAGES / f"{code}.md" for code in options.codes] or [README, INTRODUCTION, *sorted(PAGES.glob("*.md"))]
    failed = False
    for source in sources:
        text = source.read_text(encoding="utf-8")
        try:
            new = with_outputs(text, anew=options.anew)
        except (AssertionError, subprocess.TimeoutExpired) as error:
            print(f"{source.name}: a program fails: {error}", file=sys.stderr)
            failed = True
            continue
        if new != text:
            print(f"{source.name}: written anew")
            source.write_text(new, encoding="utf-8")
    GENERATED.write_text(document(), encoding="utf-8")
    sys.exit(failed)


if __name__ == "__main__":
    main()

"""docs/diagnostics.md is what its sources make, and each code has its page. (tests/test_docs.py runs the programs.)"""

from __future__ import annotations

import re

import pytest

from bridge.diagnostics.catalogue import CATALOGUE
from tests import diagnostics_docs
from tests.diagnostics_docs import GENERATED, INTRODUCTION, PAGES, TABLE, chapter, document, put_down
from tests.test_docs import BLOCK, as_pattern


def page(code: str) -> str:
    return (PAGES / f"{code}.md").read_text(encoding="utf-8")


def test_the_document_is_up_to_date() -> None:
    assert GENERATED.read_text(encoding="utf-8") == document(), "run `python -m tests.diagnostics_docs`"


def test_each_code_has_a_page_and_each_page_a_code() -> None:
    assert {path.stem for path in PAGES.iterdir()} == set(CATALOGUE)


@pytest.mark.parametrize("code", CATALOGUE.values(), ids=lambda code: code.code)
def test_each_page_has_its_parts_and_names_its_own_logger(code) -> None:
    text = page(code.code)
    assert text.startswith(f"# {code.code}: {code.title}\n")
    headings = re.findall(r"^## (\w+)", text, re.MULTILINE)
    assert headings[0] == "Wrong"
    assert headings[-1] == "Tune"
    assert headings.count("Wrong") == headings.count("Right") >= 1
    assert f'logging.getLogger("{code.logger.name}").setLevel(logging.CRITICAL)' in text


@pytest.mark.parametrize("code", CATALOGUE)
def test_each_wrong_program_prints_its_code(code: str) -> None:
    for part in re.split(r"^## ", page(code), flags=re.MULTILINE)[1:]:
        if part.startswith("Wrong"):
            outputs = [block["output"] for block in BLOCK.finditer(part)]
            assert outputs
            assert any(re.search(code, output or "") for output in outputs), part
        if part.startswith("Right"):
            assert "BRG" not in "".join(block["output"] or "" for block in BLOCK.finditer(part)), part


def test_the_introduction_has_room_for_the_table_and_every_code_is_in_it() -> None:
    assert INTRODUCTION.read_text(encoding="utf-8").count(TABLE) == 1
    assert set(re.findall(r"^\| \[(BRG\d+)\]", document(), re.MULTILINE)) == set(CATALOGUE)


def test_codes_become_links_once_and_not_in_code() -> None:
    text = "# BRG101: a\n\nBRG101, BRG102 and BRG102; `BRG103`.\n\n```text\nBRG104\n```\n"
    assert chapter(text) == (
        "## BRG101: a\n\nBRG101, [BRG102](#brg102-the-loop-was-blocked-and-goes-on) and BRG102; `BRG103`.\n\n"
        "```text\nBRG104\n```\n"
    )


def test_comments_in_programs_are_no_headings() -> None:
    text = "# BRG101: a\n\n```python\n# a comment\n```\n"
    assert chapter(text) == f"#{text}"


def test_an_output_is_put_down_such_that_it_matches_itself_and_its_like() -> None:
    output = "at /tmp/a1/program.py:3 in <Task 0x7f00aa11bb22> of process 4711\n"
    assert put_down(output) == "at .../program.py:3 in <Task 0x...> of process ...\n"
    assert re.fullmatch(as_pattern(put_down(output)), output)


def test_an_output_that_still_holds_is_kept_and_another_one_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "```python\nx\n```\n\n```text\n{}```\n"
    monkeypatch.setattr(diagnostics_docs, "run_program", lambda *args, **kwargs: "took 5 ms\n")
    assert diagnostics_docs.with_outputs(text.format("took ...\n"), anew=False) == text.format("took ...\n")
    assert diagnostics_docs.with_outputs(text.format("took ...\n"), anew=True) == text.format("took 5 ms\n")
    assert diagnostics_docs.with_outputs(text.format("went\n"), anew=False) == text.format("took 5 ms\n")

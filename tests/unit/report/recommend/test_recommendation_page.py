"""The recommendation as a page: everything that the Markdown says, nothing that a browser would run or fetch."""

from __future__ import annotations

import re

from copies import replace
from made_model import FP8, ONE, PAPER, ROW_WISE, advise, cell, source
from parsed_page import ParsedPage

from w8a8_bench.problem.kernel_name import BASELINE
from w8a8_bench.report.recommend import page
from w8a8_bench.report.recommend.render import sections


def test_the_page_says_all_that_the_other_formats_say_and_runs_and_fetches_nothing() -> None:
    advice = advise(*PAPER)
    made = page.render(advice)
    parsed = ParsedPage(made)
    for section in sections(advice):
        said = [section.heading, *section.says, *section.points]
        cells = [cell for row in section.table.rows for cell in row] if section.table else []
        for text in [*said, *cells]:
            assert text in parsed.text
    assert not {"script", "img", "link", "iframe", "form"} & set(parsed.seen)
    assert not re.search(r"https?:|url\(|@import", made)
    assert "default-src 'none'" in made


def test_a_long_table_is_folded_and_a_short_one_is_open() -> None:
    assert "details" not in ParsedPage(page.render(advise(*PAPER))).seen
    sizes = range(1, page.FOLDED_ROWS + 2)
    many = [cell(ONE, m, kernel, micros) for m in sizes for kernel, micros in ((BASELINE, 10), (FP8, 5))]
    made = page.render(advise(*many, layers=[ONE]))
    assert f'<summary class="fold">{len(sizes)} rows</summary>' in made


def test_names_out_of_a_file_are_text() -> None:
    evil = '<script>alert("1")</script>'
    records = [cell(ONE, 16, BASELINE, 10), replace(cell(ONE, 16, FP8, 5, ROW_WISE), provider=evil)]
    made = page.render(advise(layers=[ONE], sources=[source(*records, name=f"{evil}.jsonl")]))
    parsed = ParsedPage(made)
    assert "script" not in parsed.seen
    assert evil in parsed.text

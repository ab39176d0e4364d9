"""Reports: each is a function from sets of results to text, named in `REPORTS`. They need nothing but the records."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from w8a8_bench.report import csv_table, html, markdown, table
from w8a8_bench.report.comparable_runs import ResultSet

Report = Callable[[Sequence[ResultSet]], str]

REPORTS: Mapping[str, Report] = {
    "html": html.render,
    "markdown": markdown.render,
    "csv": csv_table.render,
    "table": table.render_sets,
}

"""Reports: each is a function from records to text, named in `REPORTS`. They need nothing but the records."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from w8a8_bench.record import Record
from w8a8_bench.report.table import render as render_table
from w8a8_bench.report.table import render_schemes

REPORTS: dict[str, Callable[[Sequence[Record]], str]] = {"table": render_table, "schemes": render_schemes}

"""Reports: each a file with `render(records) -> str`, which reads records only and needs no torch."""

from collections.abc import Callable, Sequence

from w8a8_bench.record import Record
from w8a8_bench.report import table

REPORTS: dict[str, Callable[[Sequence[Record]], str]] = {"table": table.render}

"""`report RESULTS... -o FILE`: results as a page for people, Markdown for a comment, or CSV for other programs."""

from __future__ import annotations

import argparse
from pathlib import Path

from w8a8_bench.cli import output
from w8a8_bench.cli.errors import EXIT_COMPLETE, UsageError
from w8a8_bench.cli.results import Inputs
from w8a8_bench.report import REPORTS
from w8a8_bench.report.comparable_runs import make_sets

SUFFIXES = {".html": "html", ".htm": "html", ".md": "markdown", ".csv": "csv", ".txt": "table"}
"""The format that a name of an output stands for, unless `--format` says another."""

MOST_CELLS_OF_A_PAGE = 100_000
"""20,000 make 6 MB, which a browser opens in a second."""


def run(args: argparse.Namespace) -> int:
    inputs = Inputs(args.results)
    out = args.out
    suffix = Path(out or "").suffix.lower()
    format_ = args.format or SUFFIXES.get(suffix, "html")
    if out is None:
        out = "report.html" if format_ == "html" else output.STDOUT
    output.check(out, inputs.paths)
    if suffix and suffix not in SUFFIXES and not args.format:
        expected = ", ".join(SUFFIXES)
        raise UsageError(f"-o {out}: no format goes with {suffix}: expected one of {expected}, or add --format")
    results = inputs.read()
    if not any(one.records for one in results):
        raise UsageError(f"{', '.join(args.results)}: no comparison is complete, so there is nothing to report")
    sets = make_sets(results, pool_gpus=args.pool_gpus)
    cells = sum(len(comparison.records) for one in sets for comparison in one.comparisons)
    if format_ == "html" and cells > MOST_CELLS_OF_A_PAGE:
        raise UsageError(
            f"{cells} cells: a page with more than {MOST_CELLS_OF_A_PAGE} is too slow to read; "
            "name fewer results, or write --format csv"
        )
    apart = f" in {len(sets)} sets, which are kept apart" if len(sets) > 1 else ""
    output.put(out, REPORTS[format_](sets), f"{cells} cells{apart}")
    return EXIT_COMPLETE

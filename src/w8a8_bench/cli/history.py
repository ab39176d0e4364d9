"""`history RESULTS...`: every cell over all runs, where its time changed, and what else did. Needs no torch."""

from __future__ import annotations

import argparse
import glob
import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from w8a8_bench.cli import output
from w8a8_bench.cli.errors import EXIT_COMPLETE, EXIT_SLOWER, UsageError
from w8a8_bench.cli.results import Inputs, read
from w8a8_bench.report.history.export import render_json, render_junit
from w8a8_bench.report.history.page import render_html
from w8a8_bench.report.history.render import render_markdown, render_text, summary, verdict
from w8a8_bench.report.history.series import make_history
from w8a8_bench.results.history_index import Times, read_times
from w8a8_bench.results.json_lines import without_collector
from w8a8_bench.text import one_line

FORMATS = {
    "text": render_text,
    "markdown": render_markdown,
    "json": render_json,
    "junit": render_junit,
    "html": render_html,
}
SUFFIXES = {".html": "html", ".htm": "html", ".md": "markdown", ".json": "json", ".xml": "junit", ".txt": "text"}
"""The format that a name of an output stands for, unless `--format` says another."""


@without_collector()
def run(args: argparse.Namespace) -> int:
    if not 0 <= args.threshold < math.inf:
        raise UsageError(f"--threshold {args.threshold:g}: expected a percentage of 0 or more")
    inputs = Inputs(list(_expanded(args.results)))
    out = args.out or output.STDOUT
    suffix = Path(out).suffix.lower()
    output.check(out, inputs.paths)
    if suffix and suffix not in SUFFIXES and not args.format:
        expected = ", ".join(SUFFIXES)
        raise UsageError(f"-o {out}: no format goes with {suffix}: expected one of {expected}, or add --format")
    render = FORMATS[args.format or SUFFIXES.get(suffix, "text")]
    times: list[Times] = []
    for of_file, warnings, was_kept in read_times(inputs.sweeps(), read, use_index=not args.no_index):
        times += of_file
        for warning in warnings if was_kept else ():  # as they were when it was read
            print(f"warning: {one_line(warning)}", file=sys.stderr)
    try:
        history = make_history(times)
    except ValueError as error:
        raise UsageError(str(error)) from None
    if not history.series:
        raise UsageError(f"{', '.join(args.results)}: nothing was timed, so there is no history")
    threshold = args.threshold / 100
    text = render(history, threshold, everything=args.all)
    output.put(out, text if text.endswith("\n") else text + "\n", f"{summary(history)}; {verdict(history, threshold)}")
    return EXIT_SLOWER if history.worse(threshold) or history.broken(threshold) else EXIT_COMPLETE


def _expanded(names: Sequence[str]) -> Sequence[str]:
    """Names, with the patterns among them replaced by the files that they fit. Raises UsageError if one fits none."""
    found: list[str] = []
    for name in names:
        fitting = (
            sorted(glob.glob(name, recursive=True)) if glob.has_magic(name) and not os.path.exists(name) else [name]
        )
        if not fitting:
            raise UsageError(f"{name}: no file fits this pattern")
        found += fitting
    return found

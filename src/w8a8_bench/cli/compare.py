"""`compare BASE... NEW`: what runs of two states of the code say of each other. Needs no torch."""

from __future__ import annotations

import argparse
import math
import os
from dataclasses import replace
from pathlib import Path

from w8a8_bench.analysis.pairing import pair_several
from w8a8_bench.cli.errors import EXIT_COMPLETE, EXIT_SLOWER, UsageError
from w8a8_bench.cli.results import read
from w8a8_bench.report.compare import conditions
from w8a8_bench.report.compare.compare import compare
from w8a8_bench.report.compare.export import render_json, render_junit
from w8a8_bench.report.compare.render import Compared, render_markdown, render_text
from w8a8_bench.results.json_lines import without_collector
from w8a8_bench.text import one_line

FORMATS = {"text": render_text, "markdown": render_markdown, "json": render_json, "junit": render_junit}


@without_collector()
def run(args: argparse.Namespace) -> int:
    if not 0 <= args.threshold < math.inf:
        raise UsageError(f"--threshold {args.threshold:g}: expected a percentage of 0 or more")
    names, files = ", ".join(args.base), [*args.base, args.new]
    try:
        if len(files) > 2 and len(set(map(os.path.realpath, files))) < len(files):
            raise UsageError(f"{names} and {args.new}: a file is named twice")
        bases, new = [read(Path(base)) for base in args.base], read(Path(args.new))
        pairing = pair_several(bases, new)
        every = replace(bases[0], headers=tuple(header for one in bases for header in one.headers))
        found = conditions.differences(every, new, pairing)
        refused = [str(one) for one in found if one.refused]
        if refused and not args.force:
            why = one_line("; ".join(refused))
            raise UsageError(f"{names} and {args.new} are not comparable: {why}; --force compares them anyway")
        outcome = compare(pairing, anchored=conditions.anchored(found), threshold=args.threshold / 100)
    except ValueError as error:
        raise UsageError(str(error)) from None
    if not (outcome.timed or outcome.changes or outcome.untimed):
        raise UsageError(f"{names} and {args.new}: no cell was timed in both, so there is nothing to compare")
    if outcome.machine and not args.force:
        raise UsageError(
            f"{names} and {args.new} are not comparable: the 16-bit baselines took {outcome.machine:.4g}x as long, "
            "so the machine changed; measure both again, one after the other, or compare them anyway with --force"
        )
    more = tuple(zip(args.base[1:], bases[1:], strict=True))
    compared = Compared(args.base[0], args.new, bases[0], new, found, outcome, more, args.require_all)
    print(FORMATS[args.format](compared, everything=args.all))
    lost = args.require_all and outcome.only_base
    slower = outcome.beyond() or outcome.slower_kernels()
    return EXIT_SLOWER if slower or outcome.worse() or lost else EXIT_COMPLETE

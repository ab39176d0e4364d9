"""`merge RESULTS... -o FILE`: the files of all shards of a sweep, joined to one. Needs no torch."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from w8a8_bench.cli.errors import EXIT_COMPLETE, UsageError
from w8a8_bench.cli.results import Inputs
from w8a8_bench.results.json_lines import StoreError, without_collector, write_new
from w8a8_bench.results.shards import join
from w8a8_bench.text import counted


@without_collector()
def run(args: argparse.Namespace) -> int:
    out = Path(args.out)
    _check(args.out, out)
    files = Inputs(args.results).read()
    try:
        joined = join(files, partial=args.partial)
        write_new(out, joined.header, joined.comparisons)
    except StoreError as error:
        raise UsageError(str(error)) from None
    cells = sum(len(one.records) for one in joined.comparisons)
    shapes = counted(len(joined.comparisons), "shape")
    print(f"{out}: {counted(cells, 'cell')}, {shapes}, {counted(len(files), 'shard')}")
    if joined.missing:
        left = counted(joined.missing, "shape")
        print(f"missing: {left}; the sweep's command with --out {out} --resume and no --shard measures what is missing")
    return EXIT_COMPLETE


def _check(text: str, out: Path) -> None:
    """Refuse before anything is read what can't or must not be written."""
    if out.suffix != ".jsonl" or not text.endswith(".jsonl"):
        raise UsageError(f"--out {text!r}: expected a name that ends in .jsonl")
    if os.path.lexists(out):
        raise UsageError(f"--out {text} exists: choose another name")
    if not out.parent.is_dir():
        raise UsageError(f"--out {text} can't be written: there is no directory {out.parent}; create it first")

"""Results files as the commands that read them take them."""

from __future__ import annotations

import sys
from pathlib import Path

from w8a8_bench import store
from w8a8_bench.cli.errors import UsageError
from w8a8_bench.text import one_line

LARGE_BYTES = 100_000_000
"""From here on reading takes ten seconds and more."""


def read(path: Path) -> store.Results:
    """The results in `path`; warns of what was left out of them. Raises UsageError where it holds none."""
    if path.is_file() and (size := path.stat().st_size) > LARGE_BYTES:
        print(f"reading {one_line(str(path))}: {size / 1e6:.0f} MB", file=sys.stderr, flush=True)
    try:
        results = store.read(path)
    except store.StoreError as error:
        raise UsageError(str(error)) from None
    for warning in results.warnings:
        print(f"warning: {one_line(warning)}", file=sys.stderr)
    return results

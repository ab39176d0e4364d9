"""`report RESULTS... -o FILE`: results as a page for people, Markdown for a comment, or CSV for other programs."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from w8a8_bench.cli.errors import EXIT_COMPLETE, UsageError
from w8a8_bench.cli.results import read
from w8a8_bench.report import REPORTS
from w8a8_bench.report.sets import ResultSet, make_sets

SUFFIXES = {".html": "html", ".htm": "html", ".md": "markdown", ".csv": "csv", ".txt": "table"}
"""The format that a name of an output stands for, unless `--format` says another."""

STDOUT = "-"

MEASURED = (".jsonl", ".jsonl.gz", ".pkl")
"""How names of what was measured end. It can't be made again, so that no typing mistake may cost it."""


MOST_CELLS_OF_A_PAGE = 100_000
"""20,000 make 6 MB, which a browser opens in a second."""


def run(args: argparse.Namespace) -> int:
    inputs = _inputs(args.results)
    out = args.out
    format_ = args.format or SUFFIXES.get(Path(out or "").suffix.lower(), "html")
    if out is None:
        out = "report.html" if format_ == "html" else STDOUT
    if out != STDOUT:
        _check_output(out, inputs)
    sets = _read(inputs, pool_gpus=args.pool_gpus)
    cells = sum(len(comparison.records) for one in sets for comparison in one.comparisons)
    if format_ == "html" and cells > MOST_CELLS_OF_A_PAGE:
        raise UsageError(
            f"{cells} cells: a page with more than {MOST_CELLS_OF_A_PAGE} is too slow to read; "
            "name fewer results, or write --format csv"
        )
    text = REPORTS[format_](sets)
    if out == STDOUT:
        sys.stdout.write(text)
        return EXIT_COMPLETE
    write_whole(Path(out), text)
    apart = f" in {len(sets)} sets, which are kept apart" if len(sets) > 1 else ""
    print(f"{out}: {cells} cells{apart}")
    return EXIT_COMPLETE


def _inputs(names: Sequence[str]) -> list[Path]:
    """The files, each once."""
    paths: dict[str, Path] = {}
    for name in names:
        paths.setdefault(os.path.realpath(name), Path(name))
    return list(paths.values())


def _read(paths: Sequence[Path], *, pool_gpus: bool) -> tuple[ResultSet, ...]:
    results = [read(path) for path in paths]
    records = [record for one in results for record in one.records]
    names = ", ".join(str(path) for path in paths)
    if not records:
        raise UsageError(f"{names}: no comparison is complete, so there is nothing to report")
    return make_sets(results, pool_gpus=pool_gpus)


def _check_output(out: str, inputs: Sequence[Path]) -> None:
    """Say before the work is done that it could not be kept."""
    path = Path(out)
    if not out or path.is_dir():
        raise UsageError(f"--out {out!r}: expected the name of a file to write" + (", not a directory" if out else ""))
    if path.name.endswith(MEASURED):
        raise UsageError(f"--out {out}: that is a name of results, which no report may overwrite; name another")
    if any(path.exists() and one.exists() and path.samefile(one) for one in inputs):
        raise UsageError(f"--out {out} is one of the results: name another")
    if not path.parent.is_dir():
        raise UsageError(f"--out {out} can't be written: there is no directory {path.parent}; create it first")


def write_whole(path: Path, text: str) -> None:
    """Write a report whole or not at all, also over an older one. Raises UsageError if it can't be written."""
    try:
        if path.exists() and not path.is_file():  # a pipe or a device has no older content to lose
            path.write_text(text, encoding="utf-8")
            return
        path = path.resolve()  # a link goes on pointing where it did
        descriptor, partial = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with open(descriptor, "w", encoding="utf-8", newline="") as file:
                file.write(text)
            mode = path.stat().st_mode & 0o777 if path.exists() else 0o666 & ~_umask()
            os.chmod(partial, mode)
            os.replace(partial, path)
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(partial)
    except OSError as error:
        raise UsageError(f"--out {path} can't be written: {error.strerror}") from None


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask

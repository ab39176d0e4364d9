"""The file that a command writes at the end of its work (`-o`): never over results, and whole or not at all."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from w8a8_bench.cli.errors import UsageError

STDOUT = "-"

MEASURED = (".jsonl", ".jsonl.gz", ".pkl")
"""How names of what was measured end. It can't be made again, so that no typing mistake may cost it."""


def check(out: str, inputs: Sequence[Path]) -> None:
    """Raise UsageError if `out` can't or must not be written. `inputs` are the files that the command reads.

    Asked before the work is done.
    """
    if out == STDOUT:
        return
    path = Path(out)
    if not out or path.is_dir():
        raise UsageError(f"--out {out!r}: expected the name of a file to write" + (", not a directory" if out else ""))
    for suffix in MEASURED:
        if path.name.endswith(suffix):
            raise UsageError(f"--out {out}: names that end in {suffix} are for measured results; choose another name")
    if any(path.exists() and one.exists() and path.samefile(one) for one in inputs):
        raise UsageError(f"--out {out} is one of the files that are read: choose another name")
    if not path.parent.is_dir():
        raise UsageError(f"--out {out} can't be written: there is no directory {path.parent}; create it first")


def put(out: str, text: str, summary: str) -> None:
    """Print `text` if `out` is standard output; else write it to that file and print the `summary` of it."""
    if out == STDOUT:
        sys.stdout.write(text)
    else:
        write(Path(out), text)
        print(f"{out}: {summary}")


def write(path: Path, text: str) -> None:
    """Write `text`, over an older file too: afterwards the file is the new one, or the old one and a UsageError."""
    try:
        if path.exists() and not path.is_file():  # a pipe or a device has no older content to lose
            path.write_text(text, encoding="utf-8")
            return
        path = path.resolve()  # a link goes on pointing where it did
        partial = path.with_name(f".{path.name}.partial")
        try:
            partial.write_text(text, encoding="utf-8")
            if path.exists():
                shutil.copymode(path, partial)
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        raise UsageError(f"--out {path} can't be written: {error.strerror}") from None

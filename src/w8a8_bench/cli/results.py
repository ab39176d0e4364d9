"""Results files as the commands that read them take them: named one by one, or as the directory that holds them."""

from __future__ import annotations

import gzip
import json
import os
import sys
import zlib
from collections.abc import Sequence
from pathlib import Path

from w8a8_bench.cli.errors import UsageError
from w8a8_bench.results import json_lines
from w8a8_bench.results.record import CELL, COMPARISON, RUN
from w8a8_bench.text import one_line

SUFFIXES = (".jsonl", ".jsonl.gz")
"""How the names of results files end, by which they are found in a directory."""

LARGE_BYTES = 100_000_000
"""From here on reading takes ten seconds and more."""


class Inputs:
    """The results files that `names` stand for: files, and directories of files (not those below, in order of name).

    Raises UsageError if a directory can't be read or has no file whose name is that of results.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._directories: dict[Path, list[Path]] = {}
        named: dict[str, Path] = {}
        found: dict[str, Path] = {}
        for name in names:
            if not os.path.isdir(name):
                named.setdefault(os.path.realpath(name), Path(name))
                continue
            self._directories[Path(name)] = files = _results_in(Path(name))
            for file in files:
                found.setdefault(os.path.realpath(file), file)
        self._found = [path for real, path in found.items() if real not in named]
        self._named = list(named.values())

    @property
    def paths(self) -> list[Path]:
        """Every file, once."""
        return [*self._named, *self._found]

    @property
    def directories(self) -> list[Path]:
        return list(self._directories)

    def is_found(self, path: Path) -> bool:
        """Whether it was found in a directory and not named by the user."""
        return path in self._found

    def read(self) -> list[json_lines.Results]:
        """The results in the files of `sweeps`. Raises UsageError for a file that can't be read."""
        return [read(path) for path in self.sweeps()]

    def sweeps(self) -> list[Path]:
        """The files, without what was found in a directory and is not a sweep's: that is left out, in one warning.

        Raises UsageError for a directory without any results.
        """
        left_out = {path for path in self._found if not _is_of_a_sweep(path)}
        others = {directory: [p for p in files if p in left_out] for directory, files in self._directories.items()}
        for directory, files in self._directories.items():
            if others[directory] == files:
                raise UsageError(
                    f"{directory} has no results of a sweep; its files hold something else: {_names(files)}"
                )
        if left_out:
            said = "; ".join(f"{_names(files)} in {directory}" for directory, files in others.items() if files)
            print(one_line(f"warning: left out, not results of a sweep: {said}"), file=sys.stderr)
        return [path for path in self.paths if path not in left_out]


def _results_in(directory: Path) -> list[Path]:
    try:
        files = sorted(path for path in directory.iterdir() if path.name.endswith(SUFFIXES) and path.is_file())
    except OSError as error:
        raise UsageError(f"{directory} can't be read: {error.strerror}") from None
    if not files:
        names = ", ".join(f"*{suffix}" for suffix in SUFFIXES)
        raise UsageError(f"{directory} has no results files ({names}); directories inside it are not searched")
    return files


def _is_of_a_sweep(path: Path) -> bool:
    """Whether a file begins as a sweep's results do: with a header, and then cells if there is more.

    Tables of scripts and the verdicts of `doctor` begin otherwise. A file that can't be read counts as a sweep's: the
    error of reading it is to be seen.
    """
    try:
        with open(path, "rb") as raw:
            packed = raw.peek(len(json_lines.GZIP_MAGIC)).startswith(json_lines.GZIP_MAGIC)
            file = gzip.GzipFile(fileobj=raw) if packed else raw
            lines = [file.readline(json_lines.MAX_LINE_BYTES) for _ in range(2)]
    except (OSError, EOFError, zlib.error):
        return True
    header, second = map(_object, lines)
    if header is None or header.get("kind") != RUN or "schema" not in header:
        return False
    return second is None or second.get("kind") in (CELL, COMPARISON, RUN)


def _object(line: bytes) -> dict[str, object] | None:
    """The object in a line of JSON; None if the line is torn or holds anything else."""
    try:
        data = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return data if isinstance(data, dict) else None


def _names(paths: Sequence[Path]) -> str:
    return ", ".join(path.name for path in paths)


def read(path: Path) -> json_lines.Results:
    """The results in `path`; warns of what was left out of them. Raises UsageError if it holds none."""
    if path.is_file() and (size := path.stat().st_size) > LARGE_BYTES:
        print(f"reading {one_line(str(path))}: {size / 1e6:.0f} MB", file=sys.stderr, flush=True)
    try:
        results = json_lines.read(path)
    except json_lines.StoreError as error:
        raise UsageError(str(error)) from None
    for warning in results.warnings:
        print(f"warning: {one_line(warning)}", file=sys.stderr)
    return results

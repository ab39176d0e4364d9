"""Results files: append-only JSON Lines, one writer a file, whole comparisons at a time."""

from __future__ import annotations

import errno
import fcntl
import gzip
import json
import os
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from w8a8_bench.record import ComparisonEnd, Record, RunHeader


class StoreError(ValueError):
    """A results file can't be read or written: the path, the reason and the remedy in one line."""


@dataclass
class Results:
    """What a file holds: complete comparisons only, and in `warnings` what was left out."""

    headers: list[RunHeader] = field(default_factory=list)
    records: list[Record] = field(default_factory=list)
    ends: list[ComparisonEnd] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    whole_bytes: int = 0
    """Length of the file up to the last complete comparison or header; what follows is of a comparison in hand."""


class Writer:
    """Appends comparisons to one file. Use as a context manager.

    With `resume` an existing file is gone on with, after whatever follows its last complete comparison is cut off; a
    missing one starts fresh. A new file is made when the header is written, so that a run that never starts leaves none.
    """

    def __init__(self, path: Path, *, resume: bool) -> None:
        self.path = path
        self._descriptor: int | None = None
        self._found = Results()
        if path.exists():
            if not resume:
                raise StoreError(f"{path} exists: add --resume to go on with it, or name another")
            self._descriptor = self._open(os.O_RDWR)
            try:
                self._found = _read_bytes(path, _contents(path))
            except StoreError:
                self._close()
                raise
        elif not path.parent.is_dir():
            raise StoreError(f"{path} can't be written: there is no directory {path.parent}")
        elif not os.access(path.parent, os.W_OK):
            raise StoreError(f"{path} can't be written: no permission in {path.parent}")

    @property
    def headers(self) -> Sequence[RunHeader]:
        """Of the runs that wrote the file before this one."""
        return self._found.headers

    @property
    def records(self) -> Sequence[Record]:
        """Of the comparisons that the file held before this run."""
        return self._found.records

    @property
    def done(self) -> frozenset[int]:
        """Indices of the comparisons that the file held before this run."""
        return frozenset(end.index for end in self._found.ends)

    def __enter__(self) -> Writer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def write_header(self, header: RunHeader) -> None:
        if self._descriptor is None:
            self._descriptor = self._open(os.O_RDWR | os.O_CREAT | os.O_EXCL)
        else:
            os.ftruncate(self._descriptor, self._found.whole_bytes)
        self._append([header.to_json()])

    def append(self, records: Sequence[Record], end: ComparisonEnd) -> None:
        """Write one comparison: its cells and its end, in one go, and wait until the disk has them."""
        self._append([record.to_json() for record in records] + [end.to_json()])

    def _open(self, flags: int) -> int:
        try:
            descriptor = os.open(self.path, flags | os.O_APPEND | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise StoreError(f"{self.path} can't be written: {error.strerror}") from None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(descriptor)
            raise StoreError(f"{self.path} is being written by another run: wait for it, or name another") from None
        return descriptor

    def _append(self, lines: Sequence[Mapping[str, object]]) -> None:
        assert self._descriptor is not None, "the header comes first"
        data = "".join(json.dumps(line) + "\n" for line in lines).encode()
        before = os.fstat(self._descriptor).st_size
        try:
            written = 0
            while written < len(data):
                written += os.write(self._descriptor, data[written:])
            os.fsync(self._descriptor)
        except OSError as error:
            os.ftruncate(self._descriptor, before)
            if before == 0:
                self.path.unlink()
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            why = "the disk is full" if full else str(error.strerror)
            raise StoreError(f"{self.path}: {why}; what was recorded before is safe: go on with --resume") from None

    def _close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def read(path: Path) -> Results:
    """All complete comparisons of a file, gzipped or not; raises StoreError where it is no results file.

    A torn last line and a comparison without its end are left out, and said in `warnings`.
    """
    data = _contents(path)
    if data[:2] == b"\x1f\x8b":
        try:
            data = gzip.decompress(data)
        except (OSError, EOFError, zlib.error) as error:
            raise StoreError(f"{path} is no readable gzip file: {error}") from None
    return _read_bytes(path, data)


def _contents(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise StoreError(f"{path} can't be read: {error.strerror}") from None


def _read_bytes(path: Path, data: bytes) -> Results:
    results, in_hand = Results(), []
    for number, start, raw in _lines(data):
        end = start + len(raw)
        torn = end == len(data) and not raw.endswith(b"\n")
        try:
            line = json.loads(raw)
            if not isinstance(line, dict):
                raise ValueError("expected an object")
            kind = line.get("kind")
            if number == 1 and kind != "run":
                raise ValueError("the first line is no run header")
            if torn:
                raise ValueError("the line has no end")
            if kind == "run":
                results.headers.append(RunHeader.from_json(line))
            elif kind == "cell":
                in_hand.append(Record.from_json(line))
            elif kind == "comparison":
                results.ends.append(ComparisonEnd.from_json(line))
                results.records.extend(in_hand)
            else:
                raise ValueError(f"kind {kind!r} is unknown")
        except (ValueError, RecursionError) as error:  # json's and unicode's errors are ValueErrors
            if torn and number > 1:
                results.warnings.append(f"line {number} is torn and was left out")
                break
            if number == 1:
                raise StoreError(f"{path} is no results file of w8a8-bench: line 1: {_short(error)}") from None
            raise StoreError(f"{path}: line {number} can't be read: {_short(error)}") from None
        if kind != "cell":
            if kind == "run" and in_hand:
                results.warnings.append(f"{len(in_hand)} cells before line {number} are of an unfinished comparison")
            in_hand = []
            results.whole_bytes = end
    if in_hand:
        results.warnings.append(f"the last {len(in_hand)} cells are of an unfinished comparison and were left out")
    if not results.headers:
        raise StoreError(f"{path} is no results file of w8a8-bench: it is empty")
    return results


def _lines(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Number, offset and bytes of each line, its newline included."""
    start, number = 0, 0
    while start < len(data):
        newline = data.find(b"\n", start)
        end = len(data) if newline < 0 else newline + 1
        number += 1
        yield number, start, data[start:end]
        start = end


def _short(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= 200 else text[:200] + "..."

"""Results files: JSON Lines, written once and only ever added to, so that a killed run loses the comparison in hand.

A file is a run header, then for each comparison its records and the line that closes it; a run that was resumed adds
another header. Only what is closed counts. Reading executes nothing: no pickle, and no path out of a record is opened.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import gc
import gzip
import itertools
import json
import os
import re
import stat
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, cast

import msgspec

from w8a8_bench.results.decoding import decode, share
from w8a8_bench.results.measured_comparison import MeasuredComparison
from w8a8_bench.results.record import COMPARISON, RUN, SCHEMA, ComparisonEnd, Item, Record, RunHeader, to_json
from w8a8_bench.text import counted, one_line

GZIP_MAGIC = b"\x1f\x8b"
PICKLE_MAGIC = b"\x80"
HEADER_START = b'{"kind": "run", '
"""How a header begins: tells one that was torn from somebody else's file."""

MAX_LINE_BYTES = 1 << 26
"""The longest line that is read: some hundred times the record of 1,000 blocks with every measure."""

MAX_TEXT_BYTES = 1 << 31
"""The most text that is read, unpacked: a million cells. A few megabytes of gzip can hold more than any memory."""

MAX_ERROR_LENGTH = 400

DISK_FULL = (errno.ENOSPC, errno.EDQUOT)


class StoreError(ValueError):
    """A results file can't be written or read; one line says why and what to do."""


@dataclass(frozen=True)
class Results:
    """What a file holds: its closed comparisons; `warnings` say what was left out."""

    headers: tuple[RunHeader, ...]
    comparisons: tuple[MeasuredComparison, ...]
    warnings: tuple[str, ...]
    path: Path = field(compare=False)

    @property
    def records(self) -> tuple[Record, ...]:
        return tuple(record for comparison in self.comparisons for record in comparison.records)

    @property
    def ends(self) -> tuple[ComparisonEnd, ...]:
        return tuple(comparison.end for comparison in self.comparisons)


def read(path: Path | str) -> Results:
    """Read a results file, gzipped or not, line by line: memory holds its records and never its text.

    Left out, each with a warning: a torn last line, records of a comparison that was never closed, and what a gzip
    file lacks that ends early. Raises StoreError, with the number of a line that is at fault, for a file that is
    missing, empty, foreign, of a newer schema, corrupt before its end or over `MAX_TEXT_BYTES`.
    """
    path = Path(path)
    try:
        with open(path, "rb") as raw:
            kind = os.fstat(raw.fileno()).st_mode
            if stat.S_ISCHR(kind) or stat.S_ISBLK(kind):
                raise StoreError(f"{path} is a device: name a file")
            packed = raw.peek(len(GZIP_MAGIC)).startswith(GZIP_MAGIC)
            file = cast("BinaryIO", gzip.GzipFile(fileobj=raw)) if packed else raw
            with without_collector():
                parsed = _parse(path, file, resuming=False)
    except (gzip.BadGzipFile, zlib.error) as error:
        raise StoreError(f"{path} is a corrupt gzip file: {one_line(str(error))}") from None
    except OSError as error:
        raise StoreError(f"{path} can't be read: {error.strerror}") from None
    if not parsed.headers:
        why = parsed.warnings[0] if parsed.warnings else f"{path} is empty"
        raise StoreError(f"{why}: nothing was recorded")
    records = iter(parsed.records)
    comparisons = tuple(
        MeasuredComparison(tuple(itertools.islice(records, end.cells)), end, parsed.headers[run])
        for end, run in zip(parsed.ends, parsed.runs, strict=True)
    )
    return Results(tuple(parsed.headers), comparisons, tuple(parsed.warnings), path)


def write_new(path: Path, header: RunHeader, comparisons: Iterable[MeasuredComparison]) -> None:
    """Write a whole file under a name that is free: afterwards all of it is there, or none of it and a StoreError."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with open(partial, "x", encoding="ascii") as file:
            try:
                file.write(_line(header))
                for comparison in comparisons:
                    file.writelines(_line(record) for record in comparison.records)
                    file.write(_line(comparison.end))
                file.flush()
                os.fsync(file.fileno())
                os.link(partial, path)  # unlike renaming, it replaces no file that appeared meanwhile
            finally:
                partial.unlink()
    except FileExistsError as error:
        raise StoreError(f"{error.filename2 or error.filename} exists: name another file") from None
    except OSError as error:
        raise StoreError(f"{path} can't be written: {error.strerror}") from None


@contextlib.contextmanager
def without_collector() -> Iterator[None]:
    """Records hold no cycles: looking for some among a million of them, again and again, is a sixth of the time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


class Writer:
    """The one writer of a results file. Use as a context manager: leaving it lets the file go.

    `headers` are those that were in the file when it was opened, `done` the indices of its closed comparisons,
    `records` theirs; all are empty if it is new.

    Nothing is created or changed before `write_header`, so a run that is refused meanwhile leaves no trace. The file is
    locked (advisory, `flock`) from then on, and from the beginning if it exists.

    Raises StoreError if the file exists and `resume` is not set, its directory is missing or not writable, it is
    foreign, or another run is writing it.
    """

    def __init__(self, path: Path | str, *, resume: bool) -> None:
        self.path = Path(path)
        self.headers: tuple[RunHeader, ...] = ()
        self.done: tuple[int, ...] = ()
        self.records: tuple[Record, ...] = ()
        self._descriptor: int | None = None
        self._size = 0
        self._safe = 0
        self._header_written = False
        parent = self.path.parent
        if not os.path.lexists(self.path):
            if not parent.is_dir():
                raise StoreError(f"{self.path} can't be written: there is no directory {parent}; create it first")
            if not os.access(parent, os.W_OK | os.X_OK):
                raise StoreError(f"{self.path} can't be written: the directory {parent} is not writable")
        elif not self.path.is_file():
            what = "a directory" if self.path.is_dir() else "no regular file"
            raise StoreError(f"{self.path} is {what}: name another")
        elif not resume:
            raise StoreError(f"{self.path} exists: add --resume to go on with it, or name another")
        else:
            self._open_existing()

    def write_header(self, header: RunHeader) -> None:
        """Create the file, or cut off what a killed run left behind, and write `header`."""
        fresh = self._descriptor is None
        if fresh:
            self._create()
        assert self._descriptor is not None
        try:
            os.ftruncate(self._descriptor, self._size)
            self._write(header)
        except BaseException:
            if fresh:  # no comparison is in it, and an empty file would only be in the way
                self.path.unlink(missing_ok=True)
            raise
        self._header_written = True

    def append(self, records: Sequence[Record], end: ComparisonEnd) -> None:
        """Add one whole comparison: all of it is on the disk when this returns, and none of it after a StoreError."""
        if not self._header_written:
            raise RuntimeError("append before write_header")
        self._check_is_there()
        if len(records) != end.cells or any(record.comparison != end.index for record in records):
            raise ValueError(f"comparison {end.index} closes with {end.cells} cells: these records are not its own")
        self._write(*records, end)
        self._safe += 1

    def _check_is_there(self) -> None:
        """Raise StoreError if the name is gone, or that of another file: what is written would be lost."""
        assert self._descriptor is not None
        ours = os.fstat(self._descriptor)
        try:
            if not os.path.samestat(ours, os.stat(self.path)):
                raise StoreError(f"{self.path} was replaced while the sweep wrote it")
        except OSError:
            raise StoreError(f"{self.path} was removed while the sweep wrote it") from None
        if ours.st_size != self._size:
            raise StoreError(f"{self.path} was changed by another program while the sweep wrote it")

    def cut(self) -> None:
        """Cut off what a killed run left behind, if nothing is to be added."""
        if self._descriptor is not None:
            os.ftruncate(self._descriptor, self._size)

    def close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)  # and with it the lock
            self._descriptor = None
            self._header_written = False

    def __enter__(self) -> Writer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _open_existing(self) -> None:
        try:
            # O_NONBLOCK: a pipe of that name must be refused below, not waited for.
            self._descriptor = os.open(self.path, os.O_RDWR | os.O_NONBLOCK)
        except OSError as error:
            raise StoreError(f"{self.path} can't be written: {error.strerror}") from None
        try:
            if not stat.S_ISREG(os.fstat(self._descriptor).st_mode):
                raise StoreError(f"{self.path} is no regular file: name another")
            self._lock()
            with open(self._descriptor, "rb", closefd=False) as file:
                parsed = _parse(self.path, file, resuming=True)
        except BaseException:
            self.close()
            raise
        self.headers, self.records = tuple(parsed.headers), tuple(parsed.records)
        self.done = tuple(end.index for end in parsed.ends)
        self._size, self._safe = parsed.whole_bytes, len(self.done)

    def _create(self) -> None:
        try:
            self._descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        except FileExistsError:
            raise StoreError(f"{self.path} is being written by another run: it appeared meanwhile") from None
        except OSError as error:
            raise StoreError(f"{self.path} can't be written: {error.strerror}") from None
        self._lock()

    def _lock(self) -> None:
        assert self._descriptor is not None
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StoreError(f"{self.path} is being written by another run: wait for it, or name another") from None
        except OSError:
            pass  # some network file systems have no locks: better to measure without than not at all

    def _write(self, *items: Item) -> None:
        """Add a line each in one go and wait for the disk. Whatever interrupts it, all are in the file or none."""
        assert self._descriptor is not None
        left = memoryview("".join(map(_line, items)).encode())
        size = self._size + len(left)
        try:
            os.lseek(self._descriptor, self._size, os.SEEK_SET)
            while left:
                left = left[os.write(self._descriptor, left) :]
            os.fsync(self._descriptor)
        except OSError as error:
            self._undo()
            safe = f"{self._safe} comparison{' is' if self._safe == 1 else 's are'} safe"
            if error.errno in DISK_FULL:
                raise StoreError(f"the disk of {self.path} is full: {safe}; free space and add --resume") from None
            raise StoreError(f"{self.path} can't be written: {error.strerror}: {safe}; add --resume to go on") from None
        except BaseException:
            # An interrupt while the disk is waited for: the lines are there, and others may have read them already.
            if os.fstat(self._descriptor).st_size == size:
                self._size = size
            else:
                self._undo()
            raise
        self._size = size

    def _undo(self) -> None:
        assert self._descriptor is not None
        # Should this fail too, the first error is the one to report: readers and `--resume` leave a torn end out.
        with contextlib.suppress(OSError):
            os.ftruncate(self._descriptor, self._size)


def _line(item: Item) -> str:
    return json.dumps(to_json(item), allow_nan=False) + "\n"


@dataclass
class _Parsed:
    headers: list[RunHeader] = field(default_factory=list)
    records: list[Record] = field(default_factory=list)
    ends: list[ComparisonEnd] = field(default_factory=list)
    runs: list[int] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    whole_bytes: int = 0


def _parse(path: Path, file: BinaryIO, *, resuming: bool) -> _Parsed:
    """Go through the lines of a file. A last line without its newline is torn, even if it happens to parse."""
    parsed, in_hand = _Parsed(), list[Record]()
    previous: Record | None = None
    unclosed, end, torn = 0, 0, False
    lines = _lines(path, file, parsed.warnings)
    for number, line in enumerate(lines, 1):
        if number == 1:
            _refuse_foreign(path, line)
        torn = not line.endswith(b"\n") and len(line) <= MAX_LINE_BYTES
        if torn:
            break
        end += len(line)
        try:
            if len(line) > MAX_LINE_BYTES:
                raise ValueError(f"longer than {MAX_LINE_BYTES >> 20} MiB")
            item = decode(line, parsed.headers[-1].schema if parsed.headers else SCHEMA)
            if not parsed.headers and not isinstance(item, RunHeader):
                raise ValueError("expected a run header before anything else")
            if isinstance(item, ComparisonEnd):
                own = sum(record.comparison == item.index for record in in_hand)
                if own != item.cells:
                    raise ValueError(f"comparison {item.index} closes with {item.cells} cells, but has {own} before it")
        except ValueError as error:
            if resuming and parsed.headers and not any(map(_CLOSES.search, itertools.chain([line], lines))):
                break  # a crash of the machine may leave garbage where the comparison in hand was
            why = one_line(str(error))
            why = why if len(why) <= MAX_ERROR_LENGTH else why[: MAX_ERROR_LENGTH - 3] + "..."
            raise StoreError(f"{path}, line {number}: {why}") from None
        if isinstance(item, Record):
            share(item, previous)
            previous = item
            if in_hand and item.comparison != in_hand[0].comparison:
                unclosed += len(in_hand)
                in_hand = []
            in_hand.append(item)
        else:
            if isinstance(item, ComparisonEnd):
                parsed.records += in_hand
                parsed.ends.append(item)
                parsed.runs.append(len(parsed.headers) - 1)
            else:
                parsed.headers.append(item)
                unclosed += len(in_hand)
            in_hand = []
            parsed.whole_bytes = end
    unclosed += len(in_hand)
    if torn:
        parsed.warnings.append(f"{path}: the last line is torn and left out")
    if unclosed:
        parsed.warnings.append(f"{path}: {counted(unclosed, 'record')} of comparisons that were not finished left out")
    return parsed


def _lines(path: Path, file: BinaryIO, warnings: list[str]) -> Iterator[bytes]:
    """Lines with their newline; of one that is too long, pieces of one byte more than `MAX_LINE_BYTES`."""
    size = 0
    try:
        while line := file.readline(MAX_LINE_BYTES + 1):
            size += len(line)
            if size > MAX_TEXT_BYTES:
                limit = f"{MAX_TEXT_BYTES / 2**30:g} GiB"
                raise StoreError(f"{path} holds more than {limit} of text: split the sweep over several files")
            yield line
    except EOFError:
        warnings.append(f"{path} is no whole gzip file: it ends early, and what is missing is left out")


def _refuse_foreign(path: Path, first: bytes) -> None:
    """Raise StoreError unless the `first` line is that of a results file, or the beginning of one."""
    if first.endswith(b"\n"):
        with contextlib.suppress(msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            header = msgspec.json.decode(first)
            if isinstance(header, dict) and header.get("kind") == RUN:
                return
    elif first.startswith(HEADER_START) or HEADER_START.startswith(first):
        return
    why = "its first line is no run header"
    if first.startswith(PICKLE_MAGIC):
        why = "a pickle is never loaded; give the .jsonl file that was written beside it"
    elif first.startswith(GZIP_MAGIC):
        why = "it is compressed; unpack it first"
    raise StoreError(f"{path} is no results file of w8a8-bench: {why}")


_CLOSES = re.compile(rf'"kind"\s*:\s*"(?:{RUN}|{COMPARISON})"'.encode())
"""However another program may have spaced it."""

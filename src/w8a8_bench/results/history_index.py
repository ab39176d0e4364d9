"""The times of many results files, run by run, from the files or from an index of them that lies beside.

The index is a SQLite file in the directory of the results. It holds of each file its size, when it was written, its
runs and a line for each cell. A file that has changed is read anew. Without the index everything is only slower, so it
can be deleted at any time, and where it can't be written there is none.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from w8a8_bench import stats
from w8a8_bench.results.json_lines import Results
from w8a8_bench.results.record import Record, RunHeader, plain
from w8a8_bench.timing.measures import headline

NAME = ".w8a8-bench-history.sqlite"
VERSION = 1
"""Of the tables. An index of another version is made anew."""

TABLES = """
CREATE TABLE files (name TEXT PRIMARY KEY, size INTEGER, written INTEGER, runs TEXT, warnings TEXT);
CREATE TABLE cells (id INTEGER PRIMARY KEY, key TEXT UNIQUE);
CREATE TABLE times (file TEXT, run INTEGER, cell INTEGER, seconds REAL, variance REAL, status TEXT, reason TEXT);
CREATE INDEX times_of_file ON times (file);
"""

OPERATING_POINT = ("data", "duty")
"""Of the settings, what moves times: other runs of a cell are another series. The timer is told by the measure."""


@dataclass(frozen=True)
class RunFacts:
    """A run: the file and the place of its header in it, when it began (UTC), its environment flat, and its GPUs."""

    file: str
    place: int
    time: str
    facts: Mapping[str, object]
    device: str
    cards: tuple[str, ...]


@dataclass(frozen=True)
class Times:
    """What a run says of a cell. `seconds` is None unless it was timed, `variance` is that of its logarithm."""

    run: RunFacts
    cell: str
    seconds: float | None
    variance: float
    status: str
    reason: str


def read_times(
    paths: Sequence[Path], read: Callable[[Path], Results], *, use_index: bool = True
) -> Iterator[tuple[list[Times], tuple[str, ...], bool]]:
    """The times of each file in turn, what was left out of it, and whether the index had it. `read` reads one. A cell
    is named by a JSON array: device, measure, operating point, kernel and problem."""
    directories = dict.fromkeys(path.parent for path in paths)
    for directory in directories:
        files = [path for path in paths if path.parent == directory]
        with contextlib.ExitStack() as stack:
            kept = use_index and any(path.is_file() for path in files)
            index = stack.enter_context(_opened(directory)) if kept else None
            for path in files:
                times, warnings, was_kept = _times_of(path, read, index)
                yield (times if len(directories) == 1 else _placed(times, directory)), warnings, was_kept


def _placed(times: Sequence[Times], directory: Path) -> list[Times]:
    """The same of files that the directory's name tells from those of another directory."""
    runs = {id(one.run): replace(one.run, file=f"{directory.name}/{one.run.file}") for one in times}
    return [replace(one, run=runs[id(one.run)]) for one in times]


def _times_of(
    path: Path, read: Callable[[Path], Results], index: sqlite3.Connection | None
) -> tuple[list[Times], tuple[str, ...], bool]:
    state = path.stat() if index is not None and path.is_file() else None
    if index is not None and state and (kept := _kept(index, _plain_name(path), state)):
        return *kept, True
    results = read(path)
    times = list(_times(results))
    if index is not None and state:
        with contextlib.suppress(sqlite3.Error):  # a disk that is full: the next reader does without
            _keep(index, _plain_name(path), state, times, results.warnings)
    return times, results.warnings, False


@contextlib.contextmanager
def _opened(directory: Path) -> Iterator[sqlite3.Connection | None]:
    """The index of a directory, made if it is missing or of no use; None if it can't be."""
    path = directory / NAME
    connection = None
    for _ in range(2):
        try:
            connection = sqlite3.connect(path, timeout=1.0)
            if connection.execute("PRAGMA user_version").fetchone()[0] != VERSION:
                if connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
                    raise sqlite3.DatabaseError("of another version")
                connection.executescript(f"BEGIN; {TABLES} PRAGMA user_version = {VERSION}; COMMIT;")
            break
        except sqlite3.DatabaseError as error:
            if connection is not None:
                connection.close()
                connection = None
            if isinstance(error, sqlite3.OperationalError):  # no place to write, or somebody else writes
                break
            with contextlib.suppress(OSError):  # damaged, or of another version
                path.unlink()
    try:
        yield connection
    finally:
        if connection is not None:
            connection.close()


def _kept(index: sqlite3.Connection, name: str, state: os.stat_result) -> tuple[list[Times], tuple[str, ...]] | None:
    """What the index has of a file; None if it has nothing, or of another state of it."""
    try:
        row = index.execute("SELECT size, written, runs, warnings FROM files WHERE name = ?", (name,)).fetchone()
        if row is None or row[:2] != (state.st_size, state.st_mtime_ns):
            return None
        runs = [_run_of(facts) for facts in json.loads(row[2])]
        lines = index.execute(
            "SELECT run, key, seconds, variance, status, reason FROM times JOIN cells ON cell = id WHERE file = ?",
            (name,),
        )
        return [Times(runs[run], *rest) for run, *rest in lines], tuple(json.loads(row[3]))
    except (sqlite3.Error, ValueError, TypeError, KeyError, IndexError):
        return None


def _keep(
    index: sqlite3.Connection, name: str, state: os.stat_result, times: Iterable[Times], warnings: Sequence[str]
) -> None:
    times = list(times)
    runs = list(dict.fromkeys(id(one.run) for one in times))
    facts = {id(one.run): one.run for one in times}
    with index:
        index.execute("DELETE FROM times WHERE file = ?", (name,))
        index.executemany("INSERT OR IGNORE INTO cells (key) VALUES (?)", ((one.cell,) for one in times))
        numbers = dict(index.execute("SELECT key, id FROM cells"))
        index.executemany(
            "INSERT INTO times VALUES (?, ?, ?, ?, ?, ?, ?)",
            (
                (name, runs.index(id(one.run)), numbers[one.cell], one.seconds, one.variance, one.status, one.reason)
                for one in times
            ),
        )
        described = json.dumps([plain(vars(facts[run])) for run in runs])
        index.execute(
            "INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?, ?)",
            (name, state.st_size, state.st_mtime_ns, described, json.dumps(list(warnings))),
        )


def _plain_name(path: Path) -> str:
    """The name of a file in characters that any file and database can hold."""
    return os.fsencode(path.name).decode("utf-8", "backslashreplace")


def _run_of(facts: Mapping[str, Any]) -> RunFacts:
    return RunFacts(**{**facts, "cards": tuple(facts["cards"])})


def _times(results: Results) -> Iterator[Times]:
    """Of every cell in a file."""
    cards: dict[int, set[str]] = {}
    for comparison in results.comparisons:
        cards.setdefault(id(comparison.run), set()).add(comparison.card)
    runs = {
        id(header): _facts(_plain_name(results.path), place, header, cards.get(id(header), set()))
        for place, header in enumerate(results.headers)
    }
    for comparison in results.comparisons:
        run, point = runs[id(comparison.run)], [comparison.run.settings.get(name) for name in OPERATING_POINT]
        for record in comparison.records:
            measure = headline(record.samples) or _asked(comparison.run)
            cell = json.dumps([run.device, measure, point, record.kernel, plain(record.problem)])
            yield Times(run, cell, *_time(record, measure), record.status.value, record.reason)


def _asked(header: RunHeader) -> str:
    """The measure that a run was to take: that of cells that were not timed."""
    measures = header.settings.get("measures") or header.plan.get("measures")
    return str(measures[0]) if isinstance(measures, list | tuple) and measures else ""


def _time(record: Record, measure: str) -> tuple[float | None, float]:
    samples = record.samples.get(measure)
    if not samples:
        return None, 0.0
    groups = record.groups(measure) if record.processes else None
    variance = stats.relative_variance(samples, groups)
    return stats.estimate(samples, groups), variance.value if variance else 0.0


def _facts(file: str, place: int, header: RunHeader, cards: set[str]) -> RunFacts:
    device = str(header.device.get("name") or header.device.get("kind") or "unknown device")
    return RunFacts(file, place, header.time, plain(header.facts), device, tuple(sorted(cards)))

"""A history as text for a terminal and as Markdown: what is worse than it was, and each run at which times changed."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TypeVar

from w8a8_bench import stats
from w8a8_bench.report.history.series import LASTING, Change, History, Series, Verdict, percent
from w8a8_bench.report.table import terminal_width, wrapped
from w8a8_bench.results.history_index import RunFacts
from w8a8_bench.text import aligned, counted, few, format_time, markdown, markdown_table, one_line

MOST_ROWS = 20
"""Of a table, unless all are asked for."""

WORSE = ("cell", "shape", "best", "now", "slower", "since")
BROKEN = ("cell", "shape", "run", "status", "reason")
CHANGES = ("cell", "shape", "before", "after", "change")

Row = TypeVar("Row")


def render_text(history: History, threshold: float, *, everything: bool = False) -> str:
    def shown(text: str) -> str:
        return "\n".join(wrapped(one_line(text), terminal_width()))

    return "\n".join([*_lines(history, threshold, everything, lambda title: [title], _aligned, shown), ""])


def render_markdown(history: History, threshold: float, *, everything: bool = False) -> str:
    def title(text: str) -> list[str]:
        return [f"## {markdown(text[:1].upper() + text[1:])}", ""]

    return "\n".join([*_lines(history, threshold, everything, title, _tabled, markdown), ""])


def _aligned(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return aligned([header, *([one_line(text) for text in row] for row in rows)], (0, 1))


def _tabled(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return markdown_table(header, [[markdown(text) for text in row] for row in rows], (0, 1))


def _lines(
    history: History,
    threshold: float,
    everything: bool,
    title: Callable[[str], list[str]],
    table: Callable[[Sequence[str], Sequence[Sequence[str]]], list[str]],
    shown: Callable[[str], str],
) -> list[str]:
    lines = [shown(summary(history)), "", shown(verdict(history, threshold)), *map(shown, remarks(history))]
    worse, broken = history.worse(threshold), history.broken(threshold)
    if worse:
        lines += ["", *title("slower than the best level that lasted")]
        lines += [*table(WORSE, [_worse(one) for one in _some(worse, everything)]), *_more(worse, everything)]
    if broken:
        lines += ["", *title("timed before, and no longer in the last run that had it")]
        faults = [(one.text, place(one), name(one.last), one.status, one.reason) for one in _some(broken, everything)]
        lines += [*table(BROKEN, faults), *_more(broken, everything)]
    for run, changes in history.by_run():
        lines += ["", *title(f"changed with the run of {name(run)}"), shown(what_changed(run, changes))]
        ordered = sorted(changes, key=lambda pair: -abs(pair[1].log))
        rows = [_changed(one, change) for one, change in _some(ordered, everything)]
        lines += [*table(CHANGES, rows), *_more(ordered, everything)]
    return lines


def summary(history: History) -> str:
    """How many runs, over how long, of what."""
    first, last = history.runs[0].time[:10], history.runs[-1].time[:10]
    devices = few(run.device for run in history.runs)
    return (
        f"{counted(len(history.runs), 'run')} from {first} to {last}, {devices}: {len(history.series)} series, "
        f"{sum(len(one.points) for one in history.series)} times"
    )


def verdict(history: History, threshold: float) -> str:
    """What a gate would say."""
    worse, broken = history.worse(threshold), history.broken(threshold)
    said = [f"{len(worse)} slower than their best lasting level by more than {100 * threshold:g}%"] if worse else []
    said += [f"{len(broken)} that can't be timed any more"] if broken else []
    if said:
        return f"worse: of {len(history.series)} series {' and '.join(said)}"
    if all(one.verdict(threshold) is Verdict.FEW for one in history.series):
        return f"too few runs to judge: a series needs more than {LASTING}"
    return f"no series is slower than its best lasting level by more than {100 * threshold:g}%"


def remarks(history: History) -> list[str]:
    """What the machine did, and which series the newest run lacks."""
    said = [
        f"the machine: all baselines of {device} {change.percent} from the run of {name(change.after)} on"
        for device, change in reversed(history.machine_changes)
    ]
    if history.machines:
        said.append("times below are without the machine's part, so that they may never have been measured")
    if history.gone:
        said.append(f"{history.gone} series of earlier runs are not in the newest run")
    return said


def what_changed(run: RunFacts, changes: Sequence[tuple[Series, Change]]) -> str:
    """In one line: how many series became slower and faster, by how much, and what else was different."""
    parts = []
    for word, logs in (
        ("slower", [change.log for _, change in changes if change.log > 0]),
        ("faster", [change.log for _, change in changes if change.log <= 0]),
    ):
        if logs:
            parts.append(f"{len(logs)} series {word} by {_size(logs)}")
    # Series whose last run before it is another have seen other things change: what most have seen is shown.
    ((moved, _),) = Counter(change.moved for _, change in changes).most_common(1)
    return f"{'; '.join(parts)}. Also different: {', '.join(moved) if moved else 'nothing that the records hold'}"


def _size(logs: Sequence[float]) -> str:
    middle = percent(stats.median(logs)).lstrip("+-")
    return middle if len(logs) == 1 else f"{middle} (median)"


def name(run: RunFacts) -> str:
    """When it began, and its file."""
    return f"{run.time[:16].replace('T', ' ')} ({run.file})"


def place(series: Series) -> str:
    return str(series.problem.shape)


def seconds_of(series: Series, log: float) -> str:
    """A level as a time. Levels are without the machine's part."""
    return format_time(math.exp(log))


def _worse(one: Series) -> tuple[str, ...]:
    _, low, high = one.worse_by
    by = f"{percent(one.worse_by[0])} ({percent(low)} to {percent(high)})"
    since = one.points[one.newest.first].run
    return one.text, place(one), seconds_of(one, one.best.value), seconds_of(one, one.newest.value), by, name(since)


def _changed(one: Series, change: Change) -> tuple[str, ...]:
    number = one.changes.index(change)
    before, after = one.fit.levels[number : number + 2]
    return one.text, place(one), seconds_of(one, before.value), seconds_of(one, after.value), change.percent


def _some(rows: Sequence[Row], everything: bool) -> Sequence[Row]:
    return rows if everything else rows[:MOST_ROWS]


def _more(rows: Sequence[object], everything: bool) -> list[str]:
    left = 0 if everything else len(rows) - MOST_ROWS
    return ["", f"and {left} more, which --all shows"] if left > 0 else []

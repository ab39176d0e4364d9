"""What two runs say of each other, as text for a terminal and as Markdown for a pull request."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from w8a8_bench import stats
from w8a8_bench.problem.comparison import LabelledShape
from w8a8_bench.report.compare.compare import ERROR_RATE, JudgedCell, Judgement, Outcome, Shape
from w8a8_bench.report.compare.conditions import ChangedCondition, anchored
from w8a8_bench.results.json_lines import Results
from w8a8_bench.results.record import Record
from w8a8_bench.stats import Interval
from w8a8_bench.text import GAP, aligned, counted, format_time, markdown, markdown_table, one_line

CHANGED = (Judgement.SLOWER, Judgement.FASTER)
NOTHING = "-"
NO_INTERVAL = "no interval"
NAME = re.compile(r"[\w.,\[\]-]+", re.ASCII)
"""What may stand in a span of code. A kernel of another maker may be called anything."""
TITLED = ("model", "layer", "tp", "count")
"""Labels of models: a title has the first three, and how often a layer occurs tells none apart."""

CLOCK_MARGIN = 0.01
"""Two sweeps of the same code on an H200 differ by a tenth of it (root mean square over the cells)."""


@dataclass(frozen=True)
class Compared:
    """Two files, by the names that they were given, and what came of them. `more` are further base files."""

    base_name: str
    new_name: str
    base: Results
    new: Results
    differences: tuple[ChangedCondition, ...]
    outcome: Outcome
    more: tuple[tuple[str, Results], ...] = ()
    require_all: bool = False

    @property
    def files(self) -> Iterator[tuple[str, str, Results]]:
        """Each file with its side and its name."""
        yield "base", self.base_name, self.base
        yield from (("base", name, results) for name, results in self.more)
        yield "new", self.new_name, self.new


@dataclass(frozen=True)
class Table:
    """`left` are the columns that stand flush left, `code` those whose text is a name and not words."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    left: tuple[int, ...]
    code: tuple[int, ...] = ()


def render_text(compared: Compared, *, everything: bool = False) -> str:
    """Summary, runs, means by kernel, a table a shape of what is not the same (of `everything`, if asked), notes."""
    outcome = compared.outcome
    lines = [summary(outcome), "", *aligned(_runs(compared), (0, 1, 2, 3)), *_conditions(compared), ""]
    tables = [_kernels(outcome)]
    for shape in outcome.shapes:
        rows = [timed for timed in shape.timed if everything or timed.verdict is not Judgement.SAME]
        tables.append(_cells(titled(shape.pair.where), [(shape, timed) for timed in rows], with_shape=False))
    for table in [*tables, _statuses(outcome)]:
        if table.rows:
            lines += [
                one_line(table.title),
                *aligned([table.header, *([*map(one_line, row)] for row in table.rows)], table.left),
                "",
            ]
    return "\n".join([*lines, *map(one_line, [*_lists(outcome), *_notes(compared)])])


def render_markdown(compared: Compared, *, everything: bool = False) -> str:
    """The same for a pull request: the summary on top, what changed in sight and the rest folded away."""
    outcome = compared.outcome
    pairs = [(shape, timed) for shape in outcome.shapes for timed in shape.timed]
    changed = [pair for pair in pairs if pair[1].verdict in CHANGED]
    unclear = [pair for pair in pairs if pair[1].verdict is Judgement.INCONCLUSIVE]
    same = [pair for pair in pairs if pair[1].verdict is Judgement.SAME] if everything else []
    lines = [f"**{markdown(summary(outcome))}**", ""]
    for table in (_cells("Changed", changed), _statuses(outcome), _kernels(outcome)):
        lines += _markdown(table)
    lines += _folded(_cells("Inconclusive", unclear)) + _folded(_cells("Same", same))
    lines += [f"- {markdown(GAP.join(row))}" for row in _runs(compared)]
    lines += [f"- {markdown(line)}" for line in [*_conditions(compared), *_lists(outcome), *_notes(compared)]]
    return "\n".join(lines)


def summary(outcome: Outcome) -> str:
    """One line: how many cells are what, their mean, and what is worse for another reason than time."""
    counts = Counter(timed.verdict for timed in outcome.timed)
    parts = [f"{counts[verdict]} {verdict.value}" for verdict in Judgement]
    text = f"{', '.join(parts)} of {counted(len(outcome.timed), 'cell')}"
    if outcome.mean:
        text += f" by {outcome.measure}; new/base {_ratio(outcome.mean.ratio)} ({_interval(outcome.mean.interval)})"
    if beyond := outcome.beyond():
        worst = max(timed.ratio for timed in beyond)
        text += f"; {len(beyond)} slower by more than {_percent(outcome.threshold)}, the worst {_ratio(worst)}"
    if worse := outcome.worse():
        text += f"; {counted(len(worse), 'cell')} worse in status"
    if lost := len(outcome.only_base):
        text += f"; {counted(lost, 'cell')} of base {_are(lost)} not in new"
    if slower := outcome.slower_kernels():
        text += f"; {counted(len(slower), 'kernel')} slower over all cells"
    if outcome.machine:
        text += f"; the 16-bit baselines took {_ratio(outcome.machine)} as long: the machine changed"
    elif 2 * counts[Judgement.INCONCLUSIVE] > len(outcome.timed):
        text += f"; most can't be judged{_reach(outcome.timed)}"
        added = len(outcome.only_new)
        if added and not all(shape.pair.alike for shape in outcome.shapes):
            text += (
                f"; {counted(added, 'cell')} of new {_are(added)} not in base: time the same cells in both "
                "(--kernels), and the added ones in a run of their own"
            )
    return text


def _reach(timed: Sequence[JudgedCell]) -> str:
    """How wide the intervals of cells that could not be judged are."""
    unclear = [one for one in timed if one.verdict is Judgement.INCONCLUSIVE]
    widths = [100 * (one.interval[1] - one.interval[0]) / 2 for one in unclear if one.interval]
    if not widths:
        return ": too few samples"
    return f": half of their 95% intervals are wider than ±{stats.median(widths):.1f}%"


def _are(number: int) -> str:
    return "is" if number == 1 else "are"


def titled(where: LabelledShape) -> str:
    """A shape with all labels that tell it apart: those of a model, then others as `name=value`."""
    others = [f"{name}={value}" for name, value in where.labels.items() if name not in TITLED]
    return GAP.join([where.title, *others])


def _runs(compared: Compared) -> list[tuple[str, ...]]:
    rows = []
    for side, name, results in compared.files:
        header, *further = results.headers
        facts = [str(header.device.get("name") or header.device.get("kind"))]
        facts += [f"torch {header.environment['torch']}"] if "torch" in header.environment else []
        facts += [f"git {str(header.environment['git_revision'])[:12]}"] if "git_revision" in header.environment else []
        resumed = f", resumed {len(further)}x" if further else ""
        rows.append(tuple(map(one_line, (side, name, header.time + resumed, ", ".join(facts)))))
    return rows


def _conditions(compared: Compared) -> list[str]:
    lines = [f"warning: {side}: {warning}" for side, _, results in compared.files for warning in results.warnings]
    refused = [str(one) for one in compared.differences if one.refused]
    others = [str(one) for one in compared.differences if not one.refused]
    if refused:
        lines.append(f"warning: --force compares what is not alike: {'; '.join(refused)}")
    if others:
        lines.append(f"not the same: {'; '.join(others)}")
    return [one_line(line) for line in lines]


def notes(compared: Compared) -> list[str]:
    """All that is said beside the tables, a line each."""
    return [one_line(line) for line in [*_conditions(compared), *_lists(compared.outcome), *_notes(compared)]]


def _kernels(outcome: Outcome) -> Table:
    counts: dict[str, Counter[Judgement]] = {}
    for timed in outcome.timed:
        counts.setdefault(timed.cell, Counter())[timed.verdict] += 1
    rows = []
    for cell, verdicts in counts.items():
        mean = outcome.by_cell.get(cell)
        rows.append(
            (
                cell,
                str(verdicts.total()),
                *(str(verdicts[verdict]) for verdict in Judgement),
                _ratio(mean.ratio) if mean else NOTHING,
                _interval(mean.interval) if mean else NOTHING,
                mean.verdict.value if mean else NOTHING,
            )
        )
    header = ("kernel", "cells", *(verdict.value for verdict in Judgement), "new/base", "95% interval", "over all")
    return Table("Geometric means by kernel", header, tuple(rows), left=(0, 8), code=(0,))


def _cells(title: str, pairs: Sequence[tuple[Shape, JudgedCell]], *, with_shape: bool = True) -> Table:
    rows = []
    for shape, timed in pairs:
        shift = timed.shift
        where = (titled(shape.pair.where),) if with_shape else ()
        times = (format_time(shift.base_s), format_time(shift.new_s), _ratio(timed.ratio), _interval(timed.interval))
        rows.append((*where, timed.cell, *times, timed.verdict.value, _flags(shift.base, shift.new)))
    header = ("kernel", "base", "new", "new/base", "95% interval", "verdict", "flags")
    if not with_shape:
        return Table(title, header, tuple(rows), left=(0, 5, 6))
    return Table(title, ("shape", *header), tuple(rows), left=(0, 1, 6, 7), code=(1,))


def _flags(base: Record, new: Record) -> str:
    flags = dict.fromkeys([*base.flags, *new.flags])
    sides = {flag: [side for side, record in (("base", base), ("new", new)) if flag in record.flags] for flag in flags}
    return ", ".join(f"{flag} ({', '.join(where)})" for flag, where in sides.items())


def _statuses(outcome: Outcome) -> Table:
    rows = []
    for change in outcome.changes:
        record = change.new
        where = titled(LabelledShape(record.problem.shape, record.labels))
        verdict = "worse" if change.worse else NOTHING
        reason = record.reason or change.base.reason
        rows.append((where, record.text, change.base.status.value, record.status.value, verdict, reason))
    header = ("shape", "kernel", "base", "new", "verdict", "reason")
    return Table("Statuses that changed", header, tuple(rows), left=tuple(range(6)), code=(1,))


def _lists(outcome: Outcome) -> Iterator[str]:
    """Cells that are in one file alone, by kernel."""
    for side, records in (("base", outcome.only_base), ("new", outcome.only_new)):
        kernels = Counter(record.text for record in records)
        names = ", ".join(f"{cell} at {n} shape{'s' * (n > 1)}" for cell, n in kernels.items())
        if records:
            yield f"only in {side}: {counted(len(records), 'cell')}: {names}"
    if outcome.labels:
        yield f"labels that one file alone has part no cells: {', '.join(outcome.labels)}"
    if paired := outcome.relabelled:
        yield f"{counted(paired, 'cell')} {_are(paired)} paired by kernel, shape and scheme although labels differ"
    if outcome.untimed:
        yield f"timed in neither, with the same status: {counted(outcome.untimed, 'cell')}"


def _notes(compared: Compared) -> Iterator[str]:
    """What a reader has to know of these runs and of the verdicts."""
    outcome = compared.outcome
    shapes = outcome.shapes
    moved = [shape.moved for shape in shapes if shape.moved is not None]
    by_machine = [ratio for ratio in moved if max(ratio, 1 / ratio) > 1 + outcome.threshold]
    if not anchored(compared.differences):
        yield "the 16-bit baselines are other work in both runs: nothing tells a change of the machine from one of code"
    elif by_machine:
        yield (
            f"the 16-bit baselines are the same work in both runs, and took {_ratio(min(by_machine))} to "
            f"{_ratio(max(by_machine))} as long at {len(by_machine)} of {len(shapes)} shapes: the machine changed "
            "there, and intervals are wider by that"
        )
    if lacking := sum(shape.moved is None for shape in shapes) if anchored(compared.differences) else 0:
        yield f"{lacking} of {len(shapes)} shapes have no 16-bit baseline, which would show a change of the machine"
    if unlike := sum(not shape.pair.alike for shape in shapes):
        yield (
            f"at {unlike} of {len(shapes)} shapes other cells were timed beside or before these, which moved the same "
            "code by up to 5% on an H200: intervals are wider for it"
        )
    elsewhere = sum(not shape.pair.same_card for shape in shapes)
    if 0 < elsewhere < len(shapes):
        yield f"{elsewhere} of {len(shapes)} shapes were on another card, and are not judged"
    bases, news = [(s.pair.base, *s.pair.more) for s in shapes], [(s.pair.new,) for s in shapes]
    for side, runs in (("base", bases), ("new", news)):
        if strangers := sum(any(run.end.machine.get("other_processes") for run in of_shape) for of_shape in runs):
            yield f"warning: other processes were on the GPU at {strangers} of {len(shapes)} shapes of {side}"
    pairs = ((timed.shift.base, timed.shift.new) for timed in outcome.timed)
    clocks = [_clock(records, outcome.measure) for records in zip(*pairs, strict=True)]
    if len(clocks) == 2 and all(clocks) and abs(clocks[1] / clocks[0] - 1) > CLOCK_MARGIN:
        yield f"SM clock: {clocks[0]:.0f} MHz in base, {clocks[1]:.0f} MHz in new (median)"
    if outcome.timed:
        yield (
            f"same: a change of less than {_percent(outcome.threshold)} is shown. Intervals hold the differences "
            "between two runs of the same code; of the cells called slower or faster, and of those called same, at "
            f"most {_percent(ERROR_RATE)} are expected to be wrong"
        )


def _clock(records: Iterable[Record], measure: str | None) -> float:
    clocks = [clock for record in records for clock in record.clock_mhz.get(measure or "", ())]
    return stats.median(clocks) if clocks else 0.0


def _markdown(table: Table) -> list[str]:
    if not table.rows:
        return []
    rows = [
        [
            f"`{text}`" if place in table.code and NAME.fullmatch(text) else markdown(text)
            for place, text in enumerate(row)
        ]
        for row in table.rows
    ]
    return [f"### {table.title}", "", *markdown_table(table.header, rows, table.left), ""]


def _folded(table: Table) -> list[str]:
    if not table.rows:
        return []
    head = f"<details><summary>{table.title}: {counted(len(table.rows), 'cell')}</summary>"
    return [head, "", *_markdown(table)[2:], "</details>", ""]


def _ratio(ratio: float) -> str:
    return f"{ratio:.4f}x" if ratio < 1000 else f"{ratio:.3g}x"


def _interval(interval: Interval | None) -> str:
    return f"{interval[0]:.4f} to {interval[1]:.4f}" if interval else NO_INTERVAL


def _percent(share: float) -> str:
    return f"{100 * share:g}%"

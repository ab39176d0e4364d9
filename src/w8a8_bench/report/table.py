"""Records as plain text: a block a shape, a line a kernel, as wide as the terminal, nothing cut off."""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from w8a8_bench import stats, text
from w8a8_bench.analysis import metrics
from w8a8_bench.environment.device import Device
from w8a8_bench.kernel import Status
from w8a8_bench.problem import SCHEMES, Activations, Azp, Problem
from w8a8_bench.problem.comparison import LabelledShape, is_grid
from w8a8_bench.problem.formats import Format
from w8a8_bench.problem.kernel_name import BASELINE
from w8a8_bench.report.comparable_runs import ResultSet, is_measure
from w8a8_bench.report.rows import CellRow, rows_of
from w8a8_bench.results.record import ComparisonEnd, Record, RunHeader
from w8a8_bench.text import GAP, aligned, one_line
from w8a8_bench.timing.measures import HOST_LAUNCH, TIME_EVENT, TIME_HOST, TIME_HOT, TIME_KERNEL, headline, part

EMULATED = "emulated"
UNSETTLED = "unsettled"
EMULATED_NOTE = "emulated: this CPU has no FP8 arithmetic; the time is that of the emulation, not of FP8"

TITLE_LABELS = ("model", "layer", "tp", "count")
"""Labels that `LabelledShape.title` shows, and how often the layer occurs; the others follow the title."""

Row = tuple[str, ...]

NOTHING = "-"
FURTHER = {TIME_HOT: "hot", TIME_EVENT: "event", TIME_HOST: "host", TIME_KERNEL: "kernel", HOST_LAUNCH: "enqueue"}
"""Titles of measures that stand beside the headline."""
QUANTIZING = "quantizing"
"""Title of what quantizing inside the timed region costs."""
SQNR = {"normal": "SQNR", "outliers": "outliers"}
"""Titles of the accuracy of the scheme by data."""
LEFT_ALIGNED = ("kernel", "±95%", "status", "activations", "scheme", "format", "zero point")

DROPPED_FIRST = ("error", "MHz", "TFLOP/s", "outliers", "SQNR", "limit", "zero point", "activations")
"""Columns that go, in this order, if a line would be wider than the terminal. Measures that were asked for stay."""

OF_TIMES = ("median", "±95%", QUANTIZING, "MHz", "TFLOP/s", "limit", "vs bf16")
COMBINATION = ("activations", "scheme", "format", "zero point")

USUAL = {
    "status": Status.OK.value,
    "activations": Activations.PREQUANTIZED.value,
    "zero point": Azp.NONE.value,
    **dict.fromkeys(("quant", "gemm", *FURTHER.values(), QUANTIZING, "MHz", "limit", *SQNR.values()), NOTHING),
}
"""What these columns usually say: a column is left out if every row says it."""

WIDTH = 120
"""Characters of a line if there is no terminal."""

INDENT = "    "
"""Of a reason, which stands below its row."""

MOST_REFUSALS = 3
"""Reasons below a table for which kernels did not run; `--show-unsupported` lists all."""

FAR_FROM_SETTLED = 10
"""Times the target: a ratio of a cell whose interval is wider is shown as "about"."""

BUSY = 0.10
"""If the baseline timed twice differs by more, the machine is too busy for any of the numbers beside it."""


@dataclass(frozen=True)
class View:
    """How much of the records a table shows.

    width             characters that a line may have; None: as many as it takes
    target            half width of the 95% interval, over the median, at which the run called a cell settled
    show_unsupported  a row for every kernel that could not run, instead of a line a reason
    told              reasons of libraries that ran nothing at a shape, if each is to be told once: the user named what
                      to run
    """

    width: int | None = None
    target: float | None = None
    show_unsupported: bool = False
    told: set[str] | None = None


def render(
    records: Sequence[Record],
    ends: Sequence[ComparisonEnd] = (),
    device: Device | None = None,
    view: View = View(),
) -> str:
    """A table of `records`, grouped by shape and labels in the order of their first record.

    Columns: median of the headline measure, which stands beside the shape, and half width of its 95% interval; medians
    of other measures and of quantization and GEMM alone, and what quantizing costs, if any record has them; SM clock if
    it was read; TFLOP/s; if the limits of `device` are known, the larger of percent of compute peak (`c`) and of the
    read-only floor (`m`); speed-up over the bf16 baseline of the same comparison, from the same blocks; relative error
    of the check; accuracy of the scheme by data, if schemes or formats differ; status and flags, if any is not `ok`.
    Reasons stand below their row. Columns of `DROPPED_FIRST` go until a line fits `view.width`; if that is not enough,
    the kernel's name stands on a line of its own. Below, from `ends`: the noise floor, and what disturbed the machine.

    If kernels stand under several schemes, rows are sorted by scheme and format.
    """
    measure = headline(name for record in records for name in record.samples) or TIME_HOST
    further = (title for name, title in _further(measure).items() if name != measure)
    data = (title for name, title in SQNR.items() if _compares_schemes(records, name))
    titles = ("median", "±95%", *further, QUANTIZING, "MHz", "TFLOP/s", "limit", "vs bf16", "error", *data, "status")
    grouped = _groups(records)
    groups: list[tuple[str, list[Row | str]]] = []
    for title, group in grouped:
        texts = _texts(group, measure, device, view.target)
        rows: list[Row | str] = []
        for heading, alike in _sections(group, show_unsupported=view.show_unsupported):
            rows += [heading] if heading else []
            for of in alike:
                kernel = of[0].text if len(of) == 1 else f"{of[0].kernel}[{len(of)} cells]"
                rows.append((one_line(kernel), *_row(of, texts, titles)))
                rows += wrapped(one_line(of[0].reason), view.width, INDENT) if of[0].reason else []
        groups.append((_headed(title, group, measure), rows))
    below = [[] if view.show_unsupported else _refusals(group, view.told) for _, group in grouped]
    tables = _with_notes(_lines(("kernel", *titles), groups, view.width), grouped, ends, measure, view.width, below)
    if any(EMULATED in record.flags and record.status is Status.OK for record in records):
        tables.append("\n".join(wrapped(EMULATED_NOTE, view.width)))
    return "\n\n".join(tables)


def _with_notes(
    tables: Iterable[tuple[str, Sequence[str]]],
    grouped: Sequence[tuple[str, Sequence[Record]]],
    ends: Iterable[ComparisonEnd],
    measure: str,
    width: int | None,
    refusals: Iterable[Sequence[str]],
) -> list[str]:
    """Each table between its title and notes, from the comparison that it is of."""
    by_index = {end.index: end for end in ends}
    texts = []
    for (title, table), (_, group), refused in zip(tables, grouped, refusals, strict=True):
        above, below = _notes(by_index.get(group[0].comparison), group, measure)
        head, foot = (
            [line for text in said for line in wrapped(text, width)] for said in ([title, *above], [*refused, *below])
        )
        texts.append("\n".join([*head, *table, *foot]))
    return texts


def render_sets(sets: Sequence[ResultSet]) -> str:
    """The table of every set, below its label if there are several."""
    tables = [
        render(
            list(one.records),
            [c.end for c in one.comparisons],
            one.device,
            View(terminal_width(), target_of(one.headers[0]), show_unsupported=True),
        )
        for one in sets
    ]
    if len(sets) > 1:
        tables = [f"== {one_line(one.label)} ====\n\n{text}" for one, text in zip(sets, tables, strict=True)]
    return "\n\n".join(tables) + "\n"


def target_of(header: RunHeader) -> float | None:
    """The half width at which the run called a cell settled; None if its header does not say."""
    stop = header.settings.get("stop")
    target = stop.get("target") if isinstance(stop, Mapping) else None
    return float(target) if is_measure(target) else None


def render_schemes(records: Sequence[Record], view: View = View(), ends: Sequence[ComparisonEnd] = ()) -> str:
    """Which scheme to take: of each combination of scheme, format and zero point the fastest kernel, a line each.

    By shape, and in it by where activations are quantized, so that what competes stands together. Kernels with a bias
    compete only if all have one. Above them the bf16 baseline. Columns and notes from `ends` as in `render`, but
    `kernel` is last.
    """
    measure = headline(name for record in records for name in record.samples) or TIME_HOST
    titles = ("median", "±95%", "vs bf16", QUANTIZING, *SQNR.values())
    grouped = _groups(records)
    tables: list[tuple[str, list[Row | str]]] = []
    for title, group in grouped:
        texts = _texts(group, measure, None, view.target)
        rows = [(*_combination(one), *_row([one], texts, titles), _named(one)) for one in _fastest(group, measure)]
        tables.append((_headed(f"fastest by scheme  {title}", group, measure), [*rows]))
    lines = _lines((*COMBINATION, *titles, "kernel"), tables, view.width)
    return "\n\n".join(_with_notes(lines, grouped, ends, measure, view.width, [[]] * len(grouped)))


def _lines(
    header: Row, groups: Sequence[tuple[str, Sequence[Row | str]]], width: int | None
) -> Iterator[tuple[str, list[str]]]:
    """Each group as its title and the lines of its table. One width a column over all, so that the eye can go down.

    A row that is one text is a line as it stands, which no column holds.
    """
    further_rows = [row for _, rows in groups for row in rows if not isinstance(row, str)]
    rows = [header, *further_rows]
    telling = [
        place
        for place, title in enumerate(header)
        if title not in USUAL or any(row[place] not in (USUAL[title], NOTHING) for row in further_rows)
    ]
    kept, own = _fitting(rows, telling, width), None
    if width is not None and _width(rows, kept) > width:
        own = header.index("kernel")
        kept = _fitting(rows, [place for place in telling if place != own], width - len(GAP))
    left = [number for number, place in enumerate(kept) if header[place] in LEFT_ALIGNED]
    body = aligned([[row[place] for place in kept] for row in rows], left)
    if own is not None:
        body = [f"{row[own]}\n{GAP}{line}" for row, line in zip(rows, body, strict=True)]
    head, *further = (lines.split("\n") for lines in body)
    following = iter(further)
    for title, group in groups:
        table = list(head) if any(not isinstance(row, str) for row in group) else []
        for row in group:
            table += [row] if isinstance(row, str) else next(following)
        yield title, table


def _fitting(rows: Sequence[Row], places: Sequence[int], width: int | None) -> list[int]:
    """The columns at `places` less those of `DROPPED_FIRST` that a line of `width` has no room for."""
    kept = list(places)
    for title in DROPPED_FIRST:
        if width is None or _width(rows, kept) <= width:
            break
        kept = [place for place in kept if rows[0][place] != title]
    return kept


def _width(rows: Sequence[Row], kept: Sequence[int]) -> int:
    return sum(max(len(row[place]) for row in rows) for place in kept) + len(GAP) * (len(kept) - 1)


def terminal_width() -> int:
    """Characters of a line of standard output: the terminal's width, or 120 if it is not a terminal."""
    return shutil.get_terminal_size((WIDTH, 24)).columns if sys.stdout.isatty() else WIDTH


def wrapped(text: str, width: int | None, indent: str = "") -> list[str]:
    """A text as lines that are no wider than `width`."""
    if width is None:
        return [indent + text]
    return textwrap.wrap(
        text, max(width, 40), initial_indent=indent, subsequent_indent=indent or INDENT, break_on_hyphens=False
    )


def _fastest(group: Sequence[Record], measure: str) -> list[Record]:
    """The baseline, then of each combination, in order, the fastest that was measured; without any, the first."""
    combinations: dict[tuple[int, int, int, int], list[Record]] = {}
    for record in group:
        problem = record.problem
        if problem.scaling is not None and problem.why_illegal() is None:
            activations, azp = list(Activations).index(problem.activations), list(Azp).index(problem.azp)
            key = activations, *_scheme_order(problem), azp
            combinations.setdefault(key, []).append(record)
    shown = [record for record in group if record.kernel == BASELINE][:1]
    for _, records in sorted(combinations.items()):
        timed = [record for record in records if record.status is Status.OK and measure in record.samples]
        like = [record for record in timed if not record.problem.bias] or timed
        shown.append(min(like, key=lambda r: stats.estimate(r.samples[measure], r.groups(measure)), default=records[0]))
    return shown


def _named(record: Record) -> str:
    if record.status is not Status.OK:
        return f"none: {record.status.value}"
    return one_line(f"{record.kernel} ({EMULATED})" if EMULATED in record.flags else record.kernel)


def _combination(record: Record) -> Row:
    problem = record.problem
    if problem.scaling is None:
        return NOTHING, NOTHING, problem.format.value, NOTHING
    return problem.activations.value, problem.scaling.name, problem.format.value, problem.azp.value


def _groups(records: Iterable[Record]) -> list[tuple[str, list[Record]]]:
    """Records by comparison and by what it is called, each with its title."""
    groups: dict[tuple[int, str], list[Record]] = {}
    for record in records:
        others = [f"{name}={value}" for name, value in record.labels.items() if name not in TITLE_LABELS]
        title = one_line(GAP.join([LabelledShape(record.problem.shape, record.labels).title, *others]))
        groups.setdefault((record.comparison, title), []).append(record)
    return [(title, group) for (_, title), group in groups.items()]


def _headed(title: str, group: Iterable[Record], measure: str) -> str:
    """The title of a group, and the measure that its medians are of."""
    return f"{title}{GAP}{measure}" if any(measure in record.samples for record in group) else title


def _notes(end: ComparisonEnd | None, group: Sequence[Record], measure: str) -> tuple[list[str], list[str]]:
    """Lines above a group's table (whether its numbers are worth reading) and below (how well identical code compares
    as identical, and what disturbed the blocks)."""
    if end is None:
        return [], []
    above, below = [], []
    floor = metrics.noise_floor(end, group, measure)
    if floor:
        within = f" ({floor.interval[0]:.4f} to {floor.interval[1]:.4f})" if floor.interval else ""
        kernel = one_line(str(end.duplicate["cell"]))
        below.append(f"noise floor: {kernel} against itself {floor.median:.4f}x{within}, {end.blocks} blocks")
        busy = "this machine is too busy for these numbers: the same kernel timed twice"
        if abs(floor.median - 1) > BUSY:
            above.append(f"{busy} differs by {100 * abs(floor.median - 1):.0f}%")
        elif floor.interval and floor.interval[1] - floor.interval[0] > 2 * BUSY:
            above.append(f"{busy} may differ by {100 * max(abs(end - 1) for end in floor.interval):.0f}%")
    machine = end.machine
    if machine.get("voided_blocks"):
        below.append(f"{machine['voided_blocks']} blocks were void (thermal or hardware slowdown) and taken again")
    if machine.get("other_processes"):
        below.append(
            f"warning: {machine['other_processes']} other processes were on this GPU; their work is in the times"
        )
    return above, [one_line(line) for line in below]


def _refusals(group: Sequence[Record], told: set[str] | None = None) -> list[str]:
    """Why kernels did not run at this shape although their library did, a line a reason.

    A library none of whose kernels ran is not told of at each shape: `why_not_here` has it once. Those of its reasons
    that are not `told` yet are, if there is such a set; and all reasons if nothing ran at this shape.
    """
    ran = {record.provider for record in group if record.status is not Status.UNSUPPORTED}
    by_reason: dict[str, list[Record]] = {}
    for record in group:
        if record.status is Status.UNSUPPORTED:
            is_new = told is not None and record.reason not in told
            if record.provider in ran or not ran or is_new:
                by_reason.setdefault(record.reason, []).append(record)
    if told is not None:
        told.update(by_reason)
    lines = []
    for reason, records in by_reason.items():
        more = f" and {len(records) - 1} more" if len(records) > 1 else ""
        lines.append(f"did not run: {one_line(records[0].text)}{more}: {one_line(reason)}")
    if len(lines) > MOST_REFUSALS:
        others = sum(len(records) for records in list(by_reason.values())[MOST_REFUSALS:])
        lines[MOST_REFUSALS:] = [f"did not run: {others} more, for other reasons; --show-unsupported lists all"]
    return lines


def why_not_here(records: Iterable[Record]) -> str | None:
    """Which libraries ran nothing at any shape, and how many kernels that are: `14 kernels of cutlass and triton`."""
    ran: set[str] = set()
    refused: dict[str, set[str]] = {}
    for record in records:
        if record.status is Status.UNSUPPORTED:
            refused.setdefault(record.provider, set()).add(record.kernel)
        else:
            ran.add(record.provider)
    here = {provider: kernels for provider, kernels in refused.items() if provider not in ran}
    if not here:
        return None
    *first, last = map(one_line, here)
    kernels = text.counted(sum(map(len, here.values())), "kernel")
    return f"{kernels} of {', '.join(first)}{' and ' if first else ''}{last}"


def _sections(group: Sequence[Record], *, show_unsupported: bool) -> list[tuple[str, list[list[Record]]]]:
    """Records in rows, under headings: one of nothing, but in a grid one a scheme, and one of what was refused."""
    shown = [record for record in group if show_unsupported or record.status is not Status.UNSUPPORTED]
    if not is_grid(group):
        return [("", [[record] for record in shown])]
    sections: dict[str, list[list[Record]]] = {"": []}
    refused: dict[tuple[str, str], list[Record]] = {}
    for record in sorted(shown, key=lambda record: _scheme_order(record.problem)):
        if record.status is Status.UNSUPPORTED:
            refused.setdefault((record.kernel, record.reason), []).append(record)
        else:
            scaling = record.problem.scaling
            sections.setdefault(scaling.name if scaling else "", []).append([record])
    sections[Status.UNSUPPORTED.value] = list(refused.values())
    return [(f"-- {heading}" if heading else "", rows) for heading, rows in sections.items() if rows]


def _scheme_order(problem: Problem) -> tuple[int, int]:
    """Baselines first, then by scheme, and in a scheme by format."""
    if problem.scaling is None:
        return -1, 0
    return SCHEMES.index(problem.scaling), list(Format).index(problem.format)


def _compares_schemes(records: Iterable[Record], data: str) -> bool:
    """Whether accuracies tell schemes apart here: of one scheme, the number says nothing about a choice."""
    known = [record.problem for record in records if data in record.scheme_sqnr_db and record.status is Status.OK]
    return len({(problem.format, problem.scaling) for problem in known}) > 1


Texts = Mapping[str, str]
"""What columns say of a record, by their titles."""


def _row(of: Sequence[Record], texts: Mapping[int, Texts], titles: Row) -> Row:
    """What `titles` say of a record, or of several that were refused for one reason: no accuracy that differs."""
    differing = {SQNR[data] for data in SQNR if len({record.scheme_sqnr_db.get(data) for record in of}) > 1}
    return tuple(NOTHING if title in differing else texts[id(of[0])][title] for title in titles)


def _texts(group: Sequence[Record], measure: str, device: Device | None, target: float | None) -> dict[int, Texts]:
    """The texts of every record of a comparison, by its `id`."""
    rows = list(rows_of(group, device))
    baseline = next((row for row in rows if row.record.kernel == BASELINE), None)
    about = {id(row) for row in rows for one in (row, baseline) if one and _is_far_from_settled(one, measure, target)}
    return {id(row.record): _texts_of(row, measure, about=id(row) in about) for row in rows}


def _texts_of(row: CellRow, measure: str, *, about: bool) -> Texts:
    record, times = row.record, row.times.get(measure)
    texts = {
        "error": f"{record.error['relative']:.1e}" if record.error else NOTHING,
        "status": one_line(", ".join([record.status.value, *(record.flags if record.status is Status.OK else ())])),
        **dict.fromkeys((*_further(measure).values(), *OF_TIMES), NOTHING),
        **{
            title: f"{record.scheme_sqnr_db[name]:.1f} dB" if name in record.scheme_sqnr_db else NOTHING
            for name, title in SQNR.items()
        },
    }
    if times is None:
        return texts
    further = {title: row.times[name] for name, title in _further(measure).items() if name in row.times}
    known: dict[str, str | None] = {
        **{title: text.format_time(one.seconds) for title, one in further.items()},
        "median": text.format_time(times.seconds),
        "±95%": None if times.half_width is None else f"±{100 * times.half_width:.2f}%",
        QUANTIZING: text.format_difference(times.cost) if times.cost else None,
        "MHz": None if times.clock_mhz is None else f"{times.clock_mhz:.0f}",
        "TFLOP/s": None if times.tflops is None else f"{times.tflops:.4g}",
        "limit": f"{times.limit.limit[0]:.0f}% {times.limit.limit[1][0]}" if times.limit.limit else None,
        "vs bf16": _speedup(times.speedup.median, about=about) if times.speedup else None,
    }
    return {**texts, **{title: said for title, said in known.items() if said is not None}}


def _further(measure: str) -> dict[str, str]:
    """Titles of the times that may stand beside those of `measure`."""
    return {part(measure, "quant"): "quant", part(measure, "gemm"): "gemm", **FURTHER}


def _speedup(ratio: float, *, about: bool) -> str:
    """Over bf16; "about" if either time is far from settled."""
    if about:
        return f"about {ratio:{'.1f' if ratio >= 1 else '.1g'}}x"
    return f"{ratio:{'.2f' if ratio >= 0.1 else '.1g'}}x"


def _is_far_from_settled(row: CellRow, measure: str, target: float | None) -> bool:
    if target is None or UNSETTLED not in row.record.flags:
        return False
    times = row.times.get(measure)
    return times is None or times.half_width is None or times.half_width > FAR_FROM_SETTLED * target

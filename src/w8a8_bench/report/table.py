"""Records as plain text: a block a shape, a line a kernel, nothing cut off."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from w8a8_bench import metrics, stats
from w8a8_bench.comparison import LabelledShape, is_grid
from w8a8_bench.device import Device
from w8a8_bench.formats import Format
from w8a8_bench.kernel import Status
from w8a8_bench.measures import HOST_LAUNCH, TIME_EVENT, TIME_HOST, TIME_HOT, TIME_KERNEL, headline, part
from w8a8_bench.peaks import roofline
from w8a8_bench.problem import SCHEMES, Activations, Azp, Problem
from w8a8_bench.record import ComparisonEnd, Record
from w8a8_bench.report.sets import ResultSet
from w8a8_bench.text import GAP, aligned, one_line

EMULATED = "emulated"
UNSETTLED = "unsettled"
EMULATED_NOTE = "emulated: this CPU has no FP8 arithmetic; the time is that of the emulation, not of FP8"

TITLE_LABELS = ("model", "layer", "tp")
"""Labels that `LabelledShape.title` shows; the others follow it."""

Row = tuple[str, ...]

NOTHING = "-"
FURTHER = {TIME_HOT: "hot", TIME_EVENT: "event", TIME_HOST: "host", TIME_KERNEL: "kernel", HOST_LAUNCH: "enqueue"}
"""Titles of measures that stand beside the headline."""
QUANTIZING = "quantizing"
"""Title of what quantizing inside the timed region costs."""
SQNR = {"normal": "SQNR", "outliers": "outliers"}
"""Titles of the accuracy of the scheme by data."""
LEFT_ALIGNED = ("kernel", "±95%", "status", "reason", "activations", "scheme", "format", "zero point")


def render(records: Sequence[Record], ends: Sequence[ComparisonEnd] = (), device: Device | None = None) -> str:
    """A table of `records`, grouped by shape and labels in the order of their first record.

    Columns: median of the headline measure, which stands beside the shape, and half width of its 95% interval; medians
    of other measures and of quantization and GEMM alone, and what quantizing costs, where any record has them; SM clock
    where it was read; TFLOP/s; where `device` is given and its limits are known, the larger of percent of compute peak
    (`c`) and of the read-only floor (`m`); speed-up over the bf16 baseline of the same comparison, from the same
    blocks; relative error of the check; accuracy of the scheme by data, where schemes or formats differ; status; reason
    and flags.
    `unsettled` stands beside the interval that missed its target. Below, from `ends`: the noise floor, and what was
    wrong with the machine.

    Where kernels stand under several schemes, rows are sorted by scheme and format, and what a kernel refuses for one
    reason is one row at the end.
    """
    measure = headline(name for record in records for name in record.samples) or TIME_HOST
    titles = {part(measure, "quant"): "quant", part(measure, "gemm"): "gemm", **FURTHER}
    shown = {name: titles[name] for name in titles if name != measure and any(name in r.samples for r in records)}
    clock = any(measure in record.clock_mhz for record in records)
    by_index = {end.index: end for end in ends}
    grouped = _groups(records)
    cost = any(_cost(record, group, measure) != NOTHING for _, group in grouped for record in group)
    data = tuple(name for name in SQNR if _compares_schemes(records, name))
    if device and all(roofline(record, measure, device).limit is None for record in records):
        device = None
    header = ("kernel", "median", "±95%", *shown.values(), *([QUANTIZING] if cost else []), *(["MHz"] if clock else []))
    header += ("TFLOP/s", *(["limit"] if device else []), "vs bf16", "error", *(SQNR[name] for name in data))
    header += ("status", "reason")
    groups: list[tuple[str, list[Row | str]]] = []
    for title, group in grouped:
        rows: list[Row | str] = []
        for heading, alike in _sections(group):
            rows += [heading] if heading else []
            rows += [_row(of, group, measure, tuple(shown), data, device, cost=cost, clock=clock) for of in alike]
        groups.append((_headed(title, group, measure), rows))
    notes = [_notes(by_index.get(group[0].comparison), group, measure) for _, group in grouped]
    lines = []
    for (title, table), below in zip(_lines(header, groups), notes, strict=True):
        lines += [title, *table, *below, ""]
    if any(EMULATED in record.flags and record.status is Status.OK for record in records):
        lines += [EMULATED_NOTE, ""]
    return "\n".join(lines[:-1])


def render_sets(sets: Sequence[ResultSet]) -> str:
    """The table of every set, below its label where there are several."""
    tables = [render(list(one.records), [c.end for c in one.comparisons], one.device) for one in sets]
    if len(sets) > 1:
        tables = [f"== {one_line(one.label)} ====\n\n{text}" for one, text in zip(sets, tables, strict=True)]
    return "\n\n".join(tables) + "\n"


def render_schemes(records: Sequence[Record]) -> str:
    """Which scheme to take: of each combination of scheme, format and zero point the fastest kernel, a line each.

    By shape, and in it by where activations are quantized, so that what competes stands together. Kernels with a bias
    compete only where all have one. Above them the bf16 baseline. Columns as in `render`, but that `kernel` is last.
    """
    measure = headline(name for record in records for name in record.samples) or TIME_HOST
    grouped = [(title, group, _fastest(group, measure)) for title, group in _groups(records)]
    every = [record for _, _, best in grouped for record in best]
    data = tuple(name for name in SQNR if any(name in record.scheme_sqnr_db for record in every))
    cost = any(_cost(record, group, measure) != NOTHING for _, group, best in grouped for record in best)
    header: Row = ("activations", "scheme", "format", "zero point", "median", "±95%", "vs bf16")
    header += (*([QUANTIZING] if cost else []), *(SQNR[name] for name in data), "kernel")
    tables = [
        (
            _headed(f"fastest by scheme  {title}", group, measure),
            [
                (
                    *_combination(record.problem),
                    _median(record.samples.get(measure) if record.status is Status.OK else None, record, measure),
                    _interval(record, measure),
                    _speedup(record, group, measure),
                    *([_cost(record, group, measure)] if cost else []),
                    *(_sqnr([record], name) for name in data),
                    _named(record),
                )
                for record in best
            ],
        )
        for title, group, best in grouped
    ]
    return "\n\n".join("\n".join([title, *table]) for title, table in _lines(header, tables))


def _lines(header: Row, groups: Iterable[tuple[str, Sequence[Row | str]]]) -> Iterator[tuple[str, list[str]]]:
    """Each group as its title and the lines of its table. One width a column over all, so that the eye can go down.

    A row that is one text is a heading, which no column holds.
    """
    groups = list(groups)
    left = [place for place, column in enumerate(header) if column in LEFT_ALIGNED]
    head, *body = aligned([header, *(row for _, rows in groups for row in rows if not isinstance(row, str))], left)
    further = iter(body)
    for title, rows in groups:
        yield title, [head, *(row if isinstance(row, str) else next(further) for row in rows)]


def _fastest(group: Sequence[Record], measure: str) -> list[Record]:
    """The baseline, then the record to show of each combination, in order."""
    combinations: dict[tuple[int, int, int, int], list[Record]] = {}
    for record in group:
        problem = record.problem
        if problem.scaling is not None and problem.why_illegal() is None:
            key = _place(Activations, problem.activations), *_scheme_order(problem), _place(Azp, problem.azp)
            combinations.setdefault(key, []).append(record)
    baseline = _baseline(group)
    fastest = [_one_of(records, measure) for _, records in sorted(combinations.items())]
    return [*([baseline] if baseline else []), *fastest]


def _one_of(records: Sequence[Record], measure: str) -> Record:
    """The fastest that was measured, without a bias where there is one; else the first."""
    timed = [record for record in records if record.status is Status.OK and measure in record.samples]
    like = [record for record in timed if not record.problem.bias] or timed
    return min(like, key=lambda r: stats.estimate(r.samples[measure], r.groups(measure)), default=records[0])


def _named(record: Record) -> str:
    if record.status is not Status.OK:
        return f"none: {record.status.value}"
    return one_line(f"{record.kernel} ({EMULATED})" if EMULATED in record.flags else record.kernel)


def _place(choices: Iterable[object], one: object) -> int:
    return list(choices).index(one)


def _combination(problem: Problem) -> Row:
    if problem.scaling is None:
        return NOTHING, NOTHING, problem.format.value, NOTHING
    return problem.activations.value, problem.scaling.name, problem.format.value, problem.azp.value


def _groups(records: Iterable[Record]) -> list[tuple[str, list[Record]]]:
    """Records by comparison and by what it is called, each with its title."""
    groups: dict[tuple[int, str], list[Record]] = {}
    for record in records:
        groups.setdefault((record.comparison, _title(record)), []).append(record)
    return [(title, group) for (_, title), group in groups.items()]


def _title(record: Record) -> str:
    others = [f"{name}={value}" for name, value in record.labels.items() if name not in TITLE_LABELS]
    return one_line(GAP.join([LabelledShape(record.problem.shape, record.labels).title, *others]))


def _baseline(group: Iterable[Record]) -> Record | None:
    return next((record for record in group if record.kernel == metrics.BASELINE), None)


def _headed(title: str, group: Iterable[Record], measure: str) -> str:
    """The title of a group, and the measure that its medians are of."""
    return f"{title}{GAP}{measure}" if any(measure in record.samples for record in group) else title


def _notes(end: ComparisonEnd | None, group: Sequence[Record], measure: str) -> list[str]:
    """Lines below a group: how well identical code compares as identical, and what disturbed the blocks."""
    if end is None:
        return []
    lines = []
    floor = metrics.noise_floor(end, group, measure)
    if floor:
        within = f" ({floor.interval[0]:.4f} to {floor.interval[1]:.4f})" if floor.interval else ""
        kernel = one_line(str(end.duplicate["cell"]))
        lines.append(f"noise floor: {kernel} against itself {floor.median:.4f}x{within}, {end.blocks} blocks")
    machine = end.machine
    if machine.get("voided_blocks"):
        lines.append(f"{machine['voided_blocks']} blocks were void (thermal or hardware slowdown) and taken again")
    if machine.get("other_processes"):
        lines.append(
            f"warning: {machine['other_processes']} other processes were on this GPU; their work is in the times"
        )
    return [one_line(line) for line in lines]


def _sections(group: Sequence[Record]) -> list[tuple[str, list[list[Record]]]]:
    """Records in rows, under headings: one of nothing, but in a grid one a scheme, and one of what was refused."""
    if not is_grid(group):
        return [("", [[record] for record in group])]
    sections: dict[str, list[list[Record]]] = {"": []}
    refused: dict[tuple[str, str], list[Record]] = {}
    for record in sorted(group, key=lambda record: _scheme_order(record.problem)):
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
    return SCHEMES.index(problem.scaling), _place(Format, problem.format)


def _compares_schemes(records: Iterable[Record], data: str) -> bool:
    """Whether accuracies tell schemes apart here: of one scheme, the number says nothing about a choice."""
    known = [record.problem for record in records if data in record.scheme_sqnr_db and record.status is Status.OK]
    return len({(problem.format, problem.scaling) for problem in known}) > 1


def _row(
    of: Sequence[Record],
    group: Sequence[Record],
    measure: str,
    further: Iterable[str],
    data: Iterable[str],
    device: Device | None,
    *,
    cost: bool,
    clock: bool,
) -> Row:
    """The row of a record, or of several that were refused for one reason."""
    record = of[0]
    samples = record.samples.get(measure) if record.status is Status.OK else None
    return (
        _kernel(of),
        _median(samples, record, measure),
        _interval(record, measure),
        *(_median(record.samples.get(name) if samples else None, record, name) for name in further),
        *([_cost(record, group, measure)] if cost else []),
        *([_clock(record, measure)] if clock else []),
        f"{metrics.tflops(record.problem, stats.estimate(samples, record.groups(measure))):.4g}"
        if samples
        else NOTHING,
        *([_limit(record, measure, device)] if device else []),
        _speedup(record, group, measure),
        f"{record.error['relative']:.1e}" if record.error else NOTHING,
        *(_sqnr(of, name) for name in data),
        record.status.value,
        _reason(record),
    )


def _kernel(of: Sequence[Record]) -> str:
    if len(of) > 1:
        return one_line(f"{of[0].kernel}[{len(of)} cells]")
    return one_line(of[0].text)


def _speedup(record: Record, group: Iterable[Record], measure: str) -> str:
    baseline = _baseline(group)
    ratio = metrics.speedup(record, baseline, measure) if baseline else None
    return f"{ratio.median:.2f}x" if ratio else NOTHING


def _cost(record: Record, group: Iterable[Record], measure: str) -> str:
    """What quantizing inside costs over the same kernel on prequantized activations."""
    twin = metrics.prequantized_twin(record, group)
    cost = metrics.quantization_cost(record, twin, measure) if twin else None
    return metrics.format_difference(cost) if cost else NOTHING


def _sqnr(of: Iterable[Record], data: str) -> str:
    """Of records that share it; of several schemes there is none."""
    ratios = {record.scheme_sqnr_db.get(data) for record in of}
    ratio = ratios.pop() if len(ratios) == 1 else None
    return NOTHING if ratio is None else f"{ratio:.1f} dB"


def _median(samples: Sequence[float] | None, record: Record, measure: str) -> str:
    return metrics.format_time(stats.estimate(samples, record.groups(measure))) if samples else NOTHING


def _interval(record: Record, measure: str) -> str:
    samples = record.samples.get(measure) if record.status is Status.OK else None
    width = stats.half_width(samples, record.groups(measure)) if samples else None
    text = NOTHING if width is None else f"±{100 * width:.2f}%"
    return f"{text} {UNSETTLED}" if UNSETTLED in record.flags else text


def _clock(record: Record, measure: str) -> str:
    clocks = record.clock_mhz.get(measure)
    return f"{stats.median(clocks):.0f}" if clocks and record.status is Status.OK else NOTHING


def _limit(record: Record, measure: str, device: Device) -> str:
    limit = roofline(record, measure, device).limit
    return f"{limit[0]:.0f}% {limit[1][0]}" if limit else NOTHING


def _reason(record: Record) -> str:
    """Why a cell is not `ok`, or the flags of one that is; `_interval` shows `unsettled`."""
    flags = [flag for flag in record.flags if flag != UNSETTLED] if record.status is Status.OK else []
    return one_line(": ".join(filter(None, [", ".join(flags), record.reason])))

"""Records as plain text: a block a shape, a line a kernel, nothing cut off."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence

from w8a8_bench import metrics, stats
from w8a8_bench.comparison import LabelledShape
from w8a8_bench.device import Device
from w8a8_bench.kernel import Status
from w8a8_bench.measures import HOST_LAUNCH, TIME_EVENT, TIME_HOST, TIME_HOT, TIME_KERNEL, headline, part
from w8a8_bench.peaks import roofline
from w8a8_bench.record import ComparisonEnd, Record
from w8a8_bench.report.sets import ResultSet
from w8a8_bench.text import GAP, aligned, one_line

EMULATED = "emulated"
UNSETTLED = "unsettled"
EMULATED_NOTE = "emulated: this CPU has no FP8 arithmetic; the time is that of the emulation, not of FP8"

TITLE_LABELS = ("model", "layer", "tp")
"""Labels that `LabelledShape.title` shows; the others follow it."""

NOTHING = "-"
FURTHER = {TIME_HOT: "hot", TIME_EVENT: "event", TIME_HOST: "host", TIME_KERNEL: "kernel", HOST_LAUNCH: "enqueue"}
"""Titles of measures that stand beside the headline."""
LEFT_ALIGNED = ("kernel", "±95%", "status", "reason")


def render(records: Sequence[Record], ends: Sequence[ComparisonEnd] = (), device: Device | None = None) -> str:
    """A table of `records`, grouped by shape and labels in the order of their first record.

    Columns: median of the headline measure, which stands beside the shape, and half width of its 95% interval; medians
    of other measures and of quantization and GEMM alone, where any record has them; SM clock where it was read;
    TFLOP/s; where `device` is given and its limits are known, the larger of percent of compute peak (`c`) and of the
    read-only floor (`m`); speed-up over the bf16 baseline of the same comparison, from the same blocks; relative error
    of the check; status; reason and flags. `unsettled` stands beside the interval that missed its target. Below, from
    `ends`: the noise floor, and what was wrong with the machine.
    """
    measure = headline(name for record in records for name in record.samples) or TIME_HOST
    titles = {part(measure, "quant"): "quant", part(measure, "gemm"): "gemm", **FURTHER}
    shown = {name: titles[name] for name in titles if name != measure and any(name in r.samples for r in records)}
    clock = any(measure in record.clock_mhz for record in records)
    if device and all(roofline(record, measure, device).limit is None for record in records):
        device = None
    header = ("kernel", "median", "±95%", *shown.values(), *(["MHz"] if clock else []), "TFLOP/s")
    header += (*(["limit"] if device else []), "vs bf16", "error", "status", "reason")
    by_index = {end.index: end for end in ends}
    grouped = _groups(records)
    groups = [
        (
            _headed(title, group, measure),
            [_row(record, _baseline(group), measure, tuple(shown), device, clock=clock) for record in group],
        )
        for title, group in grouped
    ]
    notes = [_notes(by_index.get(group[0].comparison), group, measure) for _, group in grouped]
    # One width a column over all groups, so that the eye can go down the page.
    left = [place for place, column in enumerate(header) if column in LEFT_ALIGNED]
    head, *body = aligned([header, *(row for _, rows in groups for row in rows)], left)
    further = iter(body)
    lines = []
    for (title, rows), below in zip(groups, notes, strict=True):
        lines += [title, head, *itertools.islice(further, len(rows)), *below, ""]
    if any(EMULATED in record.flags and record.status is Status.OK for record in records):
        lines += [EMULATED_NOTE, ""]
    return "\n".join(lines[:-1])


def render_sets(sets: Sequence[ResultSet]) -> str:
    """The table of every set, below its label where there are several."""
    tables = [render(list(one.records), [c.end for c in one.comparisons], one.device) for one in sets]
    if len(sets) > 1:
        tables = [f"== {one_line(one.label)} ====\n\n{text}" for one, text in zip(sets, tables, strict=True)]
    return "\n\n".join(tables) + "\n"


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


def _row(
    record: Record,
    baseline: Record | None,
    measure: str,
    further: Iterable[str],
    device: Device | None,
    *,
    clock: bool,
) -> tuple[str, ...]:
    samples = record.samples.get(measure) if record.status is Status.OK else None
    speedup = metrics.speedup(record, baseline, measure) if baseline else None
    return (
        one_line(record.text),
        _median(samples, record, measure),
        _interval(record, measure),
        *(_median(record.samples.get(name) if samples else None, record, name) for name in further),
        *([_clock(record, measure)] if clock else []),
        f"{metrics.tflops(record.problem, stats.estimate(samples, record.groups(measure))):.4g}"
        if samples
        else NOTHING,
        *([_limit(record, measure, device)] if device else []),
        f"{speedup.median:.2f}x" if speedup else NOTHING,
        f"{record.error['relative']:.1e}" if record.error else NOTHING,
        record.status.value,
        _reason(record),
    )


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

"""Records as plain text: a block a shape, a line a kernel, nothing cut off."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from w8a8_bench import metrics, stats
from w8a8_bench.comparison import LabelledShape
from w8a8_bench.kernel import Status
from w8a8_bench.names import KernelName
from w8a8_bench.record import Record

EMULATED = "emulated"
UNSETTLED = "unsettled"
EMULATED_NOTE = "emulated: this CPU has no FP8 arithmetic; the time is that of the emulation, not of FP8"

TITLE_LABELS = ("model", "layer", "tp")
"""Labels that `LabelledShape.title` shows; the others follow it."""

NOTHING = "-"
GAP = "  "
LEFT_ALIGNED = ("kernel", "±95%", "status", "reason")


def render(records: Sequence[Record], *, measure: str = "time_host") -> str:
    """A table of `records`, grouped by shape and labels in the order of their first record.

    Columns: median and half width of its 95% interval of `measure`; where any record has them, the medians of
    quantization and GEMM alone; TFLOP/s; speed-up over the bf16 baseline of the same comparison, from the same blocks;
    relative error of the check; status; reason and flags. `unsettled` stands beside the interval that missed its
    target.
    """
    parts = {f"{measure}_quant": "quant", f"{measure}_gemm": "gemm"}
    shown_parts = {part: title for part, title in parts.items() if any(part in record.samples for record in records)}
    header = ("kernel", "median", "±95%", *shown_parts.values(), "TFLOP/s", "vs bf16", "error", "status", "reason")
    groups = [
        (title, [_row(record, _baseline(group), measure, tuple(shown_parts)) for record in group])
        for title, group in _groups(records)
    ]
    # One width a column over all groups, so that the eye can go down the page.
    widths = [
        max(map(len, column)) for column in zip(header, *(row for _, rows in groups for row in rows), strict=True)
    ]
    lines = []
    for title, rows in groups:
        lines += [title, *(_line(row, header, widths) for row in (header, *rows)), ""]
    if any(EMULATED in record.flags and record.status is Status.OK for record in records):
        lines += [EMULATED_NOTE, ""]
    return "\n".join(lines[:-1])


def _groups(records: Iterable[Record]) -> list[tuple[str, list[Record]]]:
    """Records by comparison and by what it is called, each with its title."""
    groups: dict[tuple[int, str], list[Record]] = {}
    for record in records:
        groups.setdefault((record.comparison, _title(record)), []).append(record)
    return [(title, group) for (_, title), group in groups.items()]


def _title(record: Record) -> str:
    others = [f"{name}={value}" for name, value in record.labels.items() if name not in TITLE_LABELS]
    return _one_line(GAP.join([LabelledShape(record.problem.shape, record.labels).title, *others]))


def _baseline(group: Iterable[Record]) -> Record | None:
    return next((record for record in group if record.kernel == metrics.BASELINE), None)


def _row(record: Record, baseline: Record | None, measure: str, parts: Iterable[str]) -> tuple[str, ...]:
    samples = record.samples.get(measure) if record.status is Status.OK else None
    speedup = metrics.speedup(record, baseline, measure) if baseline else None
    return (
        KernelName.parse(record.kernel).text_for(record.problem),
        _median(samples),
        _interval(samples, record.flags),
        *(_median(record.samples.get(part)) for part in parts),
        f"{metrics.tflops(record.problem, stats.median(samples)):.4g}" if samples else NOTHING,
        f"{speedup.median:.2f}x" if speedup else NOTHING,
        f"{record.error['relative']:.1e}" if record.error else NOTHING,
        record.status.value,
        _reason(record),
    )


def _median(samples: Sequence[float] | None) -> str:
    return metrics.format_time(stats.median(samples)) if samples else NOTHING


def _interval(samples: Sequence[float] | None, flags: Sequence[str]) -> str:
    width = stats.half_width(samples) if samples else None
    text = NOTHING if width is None else f"±{100 * width:.1f}%"
    return f"{text} {UNSETTLED}" if UNSETTLED in flags else text


def _reason(record: Record) -> str:
    """Why a cell is not `ok`, or the flags of one that is; `_interval` shows `unsettled`."""
    flags = [flag for flag in record.flags if flag != UNSETTLED] if record.status is Status.OK else []
    return _one_line(": ".join(filter(None, [", ".join(flags), record.reason])))


def _one_line(text: str) -> str:
    """Text out of a file, which may hold line breaks or what a terminal would obey, as one harmless line."""
    return "".join(char if char.isprintable() else " " for char in text).strip()


def _line(row: Iterable[str], header: Iterable[str], widths: Iterable[int]) -> str:
    cells = (
        text.ljust(width) if title in LEFT_ALIGNED else text.rjust(width)
        for text, title, width in zip(row, header, widths, strict=True)
    )
    return GAP.join(cells).rstrip()

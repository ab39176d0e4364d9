"""The plain table: one line a kernel under each shape. No colours, and nothing cut off, so that it can be searched."""

from __future__ import annotations

from collections.abc import Sequence

from w8a8_bench import metrics, stats
from w8a8_bench.comparison import LabelledShape
from w8a8_bench.kernel import Status
from w8a8_bench.names import KernelName
from w8a8_bench.record import Record

TIME_HOST = "time_host"
EMULATED = "emulated"
EMULATED_NOTE = "emulated: this CPU has no FP8 arithmetic; the time is that of the emulation, not of FP8"
NONE = "-"


def render(records: Sequence[Record], measure: str = TIME_HOST) -> str:
    """A block of lines for each comparison, in order: medians of `measure`, what follows from them, and statuses."""
    groups: dict[int, list[Record]] = {}
    for record in records:
        groups.setdefault(record.comparison, []).append(record)
    parts = [_comparison(group, measure) for group in groups.values()]
    if any(EMULATED in record.flags for record in records):
        parts.append(EMULATED_NOTE)
    return "\n\n".join(parts)


def _comparison(records: Sequence[Record], measure: str) -> str:
    baseline = next((record for record in records if record.kernel == metrics.BASELINE), None)
    split = any(f"{measure}_quant" in record.samples for record in records)
    header = [
        "kernel",
        "time",
        "interval",
        *(["quant", "gemm"] if split else []),
        "TFLOP/s",
        "vs bf16",
        "error",
        "status",
    ]
    rows = [header, *(_row(record, baseline, measure, split) for record in records)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(header) - 1)]
    title = LabelledShape(records[0].problem.shape, records[0].labels).title
    return "\n".join([title, *(_aligned(row, widths) for row in rows)])


def _row(record: Record, baseline: Record | None, measure: str, split: bool) -> list[str]:
    text = KernelName.parse(record.kernel).text_for(record.problem)
    samples = record.samples.get(measure, ())
    row = [text, *_time(samples)]
    if split:
        row += [_time(record.samples.get(f"{measure}_{part}", ()))[0] for part in ("quant", "gemm")]
    row.append(f"{metrics.tflops(record.problem, stats.median(samples)):.4g}" if samples else NONE)
    ratio = metrics.speedup(record, baseline, measure) if baseline else None
    row.append(f"{ratio.median:.2f}x" if ratio else NONE)
    row.append(f"{record.error['relative']:.1e}" if record.error and "relative" in record.error else NONE)
    return [*row, _status(record)]


def _time(samples: Sequence[float]) -> list[str]:
    """Median and interval; none of either without samples, and no interval with too few."""
    if not samples:
        return [NONE, NONE]
    width = stats.half_width(samples)
    return [metrics.format_time(stats.median(samples)), NONE if width is None else f"±{100 * width:.1f}%"]


def _status(record: Record) -> str:
    words = [record.status.value, *record.flags] if record.status is Status.OK else [record.status.value]
    return ", ".join(words) + (f": {record.reason}" if record.reason else "")


def _aligned(row: Sequence[str], widths: Sequence[int]) -> str:
    """Names to the left, figures to the right, the status as long as it is."""
    name, *figures = [field.ljust(w) if i == 0 else field.rjust(w) for i, (field, w) in enumerate(zip(row, widths))]
    return "  ".join(["", name, *figures, row[-1]]).rstrip()

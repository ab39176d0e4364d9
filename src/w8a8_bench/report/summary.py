"""What a reader decides by: how fast each kernel is over bf16, and which is the fastest at each layer and size.

`page/data.js` and `page/page.js` say the same of what is selected on the page.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from w8a8_bench.problem.formats import W8A8_FORMATS, Format
from w8a8_bench.problem.kernel_name import BASELINE, KernelName
from w8a8_bench.report.cliffs import Cliff, find_cliffs
from w8a8_bench.report.comparable_runs import ResultSet
from w8a8_bench.report.curves import Curve, Place, place
from w8a8_bench.report.rows import CellRow, Times, make_rows, measures_of
from w8a8_bench.report.run_facts import noise_floors
from w8a8_bench.results.record import Record

Key = tuple[str, Format]

AS_FAST = 0.99
"""Kernels with this share of the best one's speed are as fast: two sweeps of the same cells differ by as much."""
AS_FAST_TEXT = f"within {1 - AS_FAST:.0%}"


@dataclass
class KernelStanding:
    """One kernel: its speeds by size, over all layers; over bf16, or over the fastest of each shape without bf16."""

    text: str
    record: Record
    letter: str = ""
    speeds: dict[int, list[float]] = field(default_factory=dict)

    @property
    def every(self) -> list[float]:
        return [speed for speeds in self.speeds.values() for speed in speeds]

    @property
    def is_baseline(self) -> bool:
        return self.record.kernel == BASELINE

    @property
    def is_8_bit(self) -> bool:
        return is_8_bit(self.record)


@dataclass(frozen=True)
class Best:
    """The kernel with the least time at a shape, or of those within 1% whose intervals meet its own the one with the
    best mean over all shapes; `ties` are all whose intervals meet."""

    row: CellRow
    ties: tuple[CellRow, ...]


@dataclass(frozen=True)
class Summary:
    """`standings` begin with the best: kernels with a time at most shapes (`shapes`), by the mean of their speeds."""

    measure: str | None
    has_baseline: bool
    axis: str
    sizes: tuple[int, ...]
    layers: tuple[Curve, ...]
    places: tuple[Place, ...]
    shapes: int
    standings: tuple[KernelStanding, ...]
    best: Mapping[tuple[int, int], Best]
    rows: tuple[tuple[CellRow, ...], ...]

    def title(self, layer: Curve) -> str:
        """The layer, with its model if there are several."""
        several = len({one.model for one in self.layers}) > 1
        return f"{layer.model} {layer.title}".strip() if several else layer.title

    def letter(self, row: CellRow) -> str:
        """The letter of a row's kernel; empty if it has no speed, for want of a baseline beside it."""
        letters = (one.letter for one in self.standings if kernel_key(one.record) == kernel_key(row.record))
        return next(letters, "")


def summarize(results: ResultSet) -> Summary:
    """The summary of a set, by its headline measure."""
    rows = make_rows(results)
    layers, places = place([comparison.end for comparison in results.comparisons])
    measures = measures_of(list(results.records))
    measure = measures[0] if measures else None
    axes = {layer.axis for layer in layers}
    timed = [[(row, row.times[measure]) for row in group if measure in row.times] if measure else [] for group in rows]
    has_baseline = any(times.speedup for group in timed for _, times in group)
    standings: dict[Key, KernelStanding] = {}
    for group, where in zip(timed, places, strict=True):
        for row, times in group:
            speed = _speed(times, [one for _, one in group], has_baseline)
            if speed is not None:
                standing = standings.setdefault(kernel_key(row.record), KernelStanding(row.record.text, row.record))
                standing.speeds.setdefault(where.x, []).append(speed)
    shapes = max((len(one.every) for one in standings.values()), default=0)
    ranked = sorted(standings.values(), key=lambda one: (len(one.every) < shapes, -geometric_mean(one.every)))
    rank = 0
    for one in ranked:
        one.letter = "16" if one.is_baseline else _letters(rank)
        rank += not one.is_baseline
    several = any(len(group) > 1 for group in timed)
    order = {kernel_key(one.record): number for number, one in enumerate(ranked)}
    best = {
        (where.layer, where.x): _best(group, order)
        for group, where in zip(timed, places, strict=True)
        if group and several
    }
    return Summary(
        measure=measure,
        has_baseline=has_baseline,
        axis=axes.pop() if len(axes) == 1 else "m",
        sizes=tuple(sorted({where.x for group, where in zip(timed, places, strict=True) if group})),
        layers=layers,
        places=places,
        shapes=shapes,
        standings=tuple(ranked),
        best=best,
        rows=rows,
    )


def kernel_key(record: Record) -> Key:
    """What makes two records of one kernel: its text, and the operands, which the twin that casts does not name."""
    return record.text, record.problem.format


def cliffs_of(results: ResultSet, measure: str | None) -> list[Cliff]:
    """Cliffs of every GPU: two GPUs may differ by more than a cliff is."""
    by_gpu: dict[str, list[Record]] = {}
    noise: dict[int, float] = {}
    for comparison, floor in zip(results.comparisons, noise_floors(results, measure), strict=True):
        by_gpu.setdefault(comparison.uuid, []).extend(comparison.records)
        if floor:
            noise |= {id(record): abs(floor.median - 1) for record in comparison.records}
    return [cliff for records in by_gpu.values() for cliff in find_cliffs(records, measure, noise)]


def geometric_mean(values: Sequence[float]) -> float:
    return math.exp(math.fsum(map(math.log, values)) / len(values))


def is_16_bit(kernel: str) -> bool:
    """Whether the kernel is a plain product, which every run can be compared with. A name of another maker is none."""
    try:
        return KernelName.parse(kernel).is_baseline
    except ValueError:
        return False


def is_8_bit(record: Record) -> bool:
    """Whether 8-bit operands are multiplied as such: by neither a baseline nor the twin that casts."""
    return record.problem.format in W8A8_FORMATS and not is_16_bit(record.kernel)


def _speed(times: Times, of_shape: Sequence[Times], has_baseline: bool) -> float | None:
    if has_baseline:
        return times.speedup.median if times.speedup else None
    return min(one.seconds for one in of_shape) / times.seconds


def _best(group: Sequence[tuple[CellRow, Times]], order: Mapping[Key, int]) -> Best:
    fastest, *others = sorted(group, key=lambda one: one[1].seconds)
    seconds, reach = fastest[1].seconds, fastest[1].interval
    meeting = [(r, t) for r, t in others if reach and t.interval and t.interval[0] <= reach[1]]
    as_fast = [fastest[0], *(row for row, times in meeting if AS_FAST * times.seconds <= seconds)]
    best = min(as_fast, key=lambda row: order.get(kernel_key(row.record), len(order)))
    return Best(best, tuple(row for row, _ in [fastest, *meeting] if row is not best))


def _letters(number: int) -> str:
    return (_letters(number // 26 - 1) if number >= 26 else "") + chr(ord("A") + number % 26)

"""Cliffs: sizes m at which padding the tokens up to a larger m that was measured would have been faster.

A kernel's time should not fall as m grows. If it does, a tile, a dispatch bucket or a heuristic of the library is to
blame, and whoever calls the kernel can pad. What the padding itself costs is not in it: engines that replay graphs of
fixed sizes pay nothing, others copy A.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from msgspec.structs import replace

from w8a8_bench import stats
from w8a8_bench.kernel import Status
from w8a8_bench.problem import Problem
from w8a8_bench.results.record import Record
from w8a8_bench.timing.measures import headline

REPEATABILITY = 0.01
"""Two m are two comparisons, with addresses and clocks of their own, which no interval of samples covers.

The committed sweeps of 280 cells that were taken twice on an H200 agree within 1% in every cell: a smaller difference
is no cliff.
"""


@dataclass(frozen=True)
class Cliff:
    """Padding `record`'s m up to that of `padded`, of the same kernel and problem but for m, is faster.

    `ratio` is the time at m over the time at the larger m: how many times faster padding is. Even the lower end of its
    interval is above 1 by more than `REPEATABILITY`, or by more than the noise if that is larger.
    """

    record: Record
    padded: Record
    ratio: stats.Estimate

    @property
    def padded_m(self) -> int:
        return self.padded.problem.shape.m


@dataclass(frozen=True)
class _Point:
    """A record, its time, the degrees of freedom of the time's interval, and the difference that is none."""

    record: Record
    time: stats.Estimate
    degrees: int
    margin: float

    @property
    def m(self) -> int:
        return self.record.problem.shape.m


def find_cliffs(
    records: Iterable[Record], measure: str | None = None, noise: Mapping[int, float] | None = None
) -> tuple[Cliff, ...]:
    """Every m of `records` at which padding up to a larger m is faster beyond noise, with the best m to pad to.

    A curve is all records of one kernel and one problem but for m, whatever their labels; cells that are not `ok`, lack
    `measure` (default: the headline of the records) or have too few samples for an interval are no points of it. If
    an m comes more than once, its first record counts. Cliffs come in the order of the curves, m rising.

    Points were not taken in the same blocks, so their ratio is `stats.quotient` of independent times. Any of C pairs of
    a curve might look like a cliff by chance, so intervals are widened to 1 - 0.05 / C, by the ratio of Student's
    quantiles: a curve without a cliff shows one in at most 5 of 100 cases. Records are to be of one device.

    `noise` has, by the `id` of a record, how far its comparison's baseline was from its own duplicate (0.02: 2%). If
    that is more than `REPEATABILITY`, it takes its place.
    """
    records = list(records)
    measure = measure or headline(name for record in records for name in record.samples)
    if measure is None:
        return ()
    curves: dict[tuple[str, Problem], dict[int, _Point]] = {}
    for record in records:
        curve = replace(record.problem, m=1)
        point = _point(record, measure, max(REPEATABILITY, (noise or {}).get(id(record), 0.0)))
        if point:
            curves.setdefault((record.kernel, curve), {}).setdefault(point.m, point)
    return tuple(
        cliff for by_m in curves.values() for cliff in _of_curve(sorted(by_m.values(), key=lambda point: point.m))
    )


def _of_curve(points: Sequence[_Point]) -> list[Cliff]:
    pairs = len(points) * (len(points) - 1) // 2
    cliffs = []
    for index, point in enumerate(points):
        # Only what takes less time by more than the margin can be a cliff; intervals are worked out for those alone.
        faster = [
            (Cliff(point.record, other.record, _ratio(point, other, pairs)), margin)
            for other in points[index + 1 :]
            if (margin := max(point.margin, other.margin)) < point.time.median / other.time.median - 1
        ]
        sure = [c for c, margin in faster if c.ratio.interval and c.ratio.interval[0] > 1 + margin]
        if sure:
            cliffs.append(max(sure, key=lambda cliff: (cliff.ratio.median, -cliff.padded_m)))
    return cliffs


def _point(record: Record, measure: str, margin: float) -> _Point | None:
    samples = record.samples.get(measure) if record.status is Status.OK else None
    if not samples:
        return None
    groups = record.groups(measure)
    ends = stats.interval(samples, groups)
    if ends is None:
        return None
    processes = len(set(groups))
    degrees = (processes if processes > 1 else len(samples)) - 1
    return _Point(record, stats.Estimate(stats.estimate(samples, groups), ends), degrees, margin)


def _ratio(point: _Point, other: _Point, pairs: int) -> stats.Estimate:
    """Time of `point` over that of `other`, with an interval that holds for all `pairs` of the curve at once."""
    degrees = min(point.degrees, other.degrees)
    one, all_pairs = (stats.t_quantile(1 - (1 - stats.CONFIDENCE) / 2 / count, degrees) for count in (1, pairs))
    return stats.quotient(point.time, other.time, widened=all_pairs / one)

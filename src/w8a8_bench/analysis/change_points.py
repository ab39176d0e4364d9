"""Where a series of runs changed its level: a weighted fit by pieces that are constant.

    y_i = level of its piece + e_i,   e_i with variance v_i + s^2

y is the logarithm of a time, v_i its variance from the samples of run i, and s^2 that between runs of unchanged code,
found from the differences of neighbours. The fit is the one with the least

    sum_i (y_i - level)^2 / (v_i + s^2)  +  PENALTY * changes

over all ways to cut the series into pieces of at least `SHORTEST` runs. A single run that lies far from its neighbours
is odd, and decides nothing.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from w8a8_bench import stats
from w8a8_bench.stats import Variance

PENALTY = 18.0
"""What a change must gain: twice the logarithm of how much likelier it makes the data. With it, of 1,000 unchanged
times fewer than one is called a change (tests/unit/analysis/test_change_points.py)."""

SHORTEST = 2
"""Runs of a piece. One run alone may be odd."""

ODD = 4.5
"""Standard deviations from the medians of its neighbours on both sides by which a run is odd."""

LEAST_SD = 0.0011
"""The least that two runs of unchanged code differ by, of ln(time): `run_variance` on an H200."""

DEGREES = 10
"""Of the variance between runs that is assumed: so many runs count as much as what was measured before."""

UNSURE = 6.0
"""A median of few differences may be far too low, and then noise looks like changes. So what is found of n differences
is multiplied by 1 + UNSURE / n."""

FEW_GAIN = 6.0
"""Gain from which a place is a candidate. A half of a bump gains less than the bump."""

SIDE = 3


@dataclass(frozen=True)
class Level:
    """A piece: runs `first` to `last`, both included, and the mean of y over those that are not odd."""

    first: int
    last: int
    value: float
    variance: Variance
    runs: int


@dataclass(frozen=True)
class Fit:
    """The pieces in order, the runs that are odd, and the standard deviation between runs."""

    levels: tuple[Level, ...]
    odd: frozenset[int]
    run_sd: float


def fit(values: Sequence[float], variances: Sequence[float], usual: float = LEAST_SD) -> Fit:
    """The pieces of a series of one value or more; `variances` are those from samples, one a value. `usual` is the
    standard deviation between runs of such series (`usual_sd`). It counts for more than a short series' own."""
    sd = _run_sd(values, variances, usual)
    odd = frozenset(_odd(values, [math.sqrt(variance + sd**2) for variance in variances]))
    kept = [index for index in range(len(values)) if index not in odd]
    series = _Series([values[i] for i in kept], [1 / (variances[i] + sd**2) for i in kept])
    cuts = [0, *series.cut(), len(kept)]
    degrees = DEGREES + max(len(kept) - len(cuts) + 1, 1)
    levels = []
    for begin, end in itertools.pairwise(cuts):
        value, weight = series.mean(begin, end)
        first = 0 if begin == 0 else kept[begin]
        last = len(values) - 1 if end == len(kept) else kept[end] - 1
        levels.append(Level(first, last, value, Variance(1 / weight, degrees), end - begin))
    return Fit(tuple(levels), odd, sd)


def difference(before: Level, after: Level) -> tuple[float, float, float]:
    """ln(after / before), and its 95% interval."""
    log = after.value - before.value
    reach = stats.t_reach(stats.total_variance([before.variance, after.variance]))
    return log, log - reach, log + reach


def usual_sd(series: Iterable[tuple[Sequence[float], Sequence[float]]]) -> float:
    """Between neighbouring runs of all series together, each its values and their variances, beyond what samples
    explain. Changes are few among the differences, so that their median does not see them."""
    apart: list[float] = []
    variances: list[float] = []
    for values, of_samples in series:
        apart += [abs(b - a) for a, b in itertools.pairwise(values)]
        variances += of_samples
    if not apart:
        return LEAST_SD
    found = (stats.median(apart) / 0.6745) ** 2 / 2 - stats.median(variances)
    return math.sqrt(max(found, LEAST_SD**2)) * (1 + UNSURE / len(apart))


def _run_sd(values: Sequence[float], variances: Sequence[float], usual: float) -> float:
    """Standard deviation between runs of one series: its own and the usual one, weighted by degrees of freedom."""
    count = len(values) - 1
    found = usual_sd([(values, variances)]) ** 2 if count else usual**2
    return math.sqrt((DEGREES * usual**2 + count * found) / (DEGREES + count))


def _odd(values: Sequence[float], sds: Sequence[float]) -> list[int]:
    """Runs beyond both of their sides, in one direction. The first and the last have one side, and its nearest run must
    be as far off: the second run after a change has it for company."""
    found: list[int] = []
    if len(values) <= SIDE:
        return found
    for index, value in enumerate(values):
        before = [values[i] for i in range(max(0, index - SIDE), index) if i not in found]
        after = values[index + 1 : index + 1 + SIDE]
        others = [stats.median(side) for side in (before, after) if side]
        if len(others) < 2:
            others.append(after[0] if after else values[index - 1])
        apart = [value - other for other in others]
        if min(map(abs, apart)) > ODD * sds[index] and len({one > 0 for one in apart}) == 1:
            found.append(index)
    return found


class _Series:
    """Values with weights, and the costs of pieces of them from running sums."""

    def __init__(self, values: Sequence[float], weights: Sequence[float]) -> None:
        self._weights, self._sums = [0.0], [0.0]
        middle = stats.median(values)  # so that sums of values that are nearly alike keep their digits
        self._middle = middle
        for value, weight in zip(values, weights, strict=True):
            self._weights.append(self._weights[-1] + weight)
            self._sums.append(self._sums[-1] + weight * (value - middle))

    def mean(self, begin: int, end: int) -> tuple[float, float]:
        """Of the values from `begin` to before `end`, and their weight."""
        weight = self._weights[end] - self._weights[begin]
        return self._middle + (self._sums[end] - self._sums[begin]) / weight, weight

    def _explained(self, begin: int, end: int) -> float:
        """By how much a level of its own lowers the sum of squares of a piece."""
        return (self._sums[end] - self._sums[begin]) ** 2 / (self._weights[end] - self._weights[begin])

    def cut(self) -> list[int]:
        """Where pieces begin, but for the first: of all sets of candidates the one with the least cost."""
        length = len(self._weights) - 1
        places = [0, *sorted(self._candidates(0, length)), length]
        best, came_from = [0.0], [0]
        for end in range(1, len(places)):
            options = [
                (best[begin] + self._explained(places[begin], places[end]) - (PENALTY if begin else 0.0), begin)
                for begin in range(end)
                if places[end] - places[begin] >= SHORTEST or (begin == 0 and end == len(places) - 1)
            ]
            gain, begin = max(options, default=(-math.inf, 0))
            best.append(gain)
            came_from.append(begin)
        cuts, place = [], came_from[-1]
        while place:
            cuts.append(places[place])
            place = came_from[place]
        return cuts[::-1]

    def _candidates(self, begin: int, end: int) -> set[int]:
        """The best place to cut, and those of both parts, as long as a cut gains something; and their neighbours, since
        the best cut of the whole is not always one of the best set."""
        found: set[int] = set()
        parts = [(begin, end)]
        while parts:
            begin, end = parts.pop()
            if end - begin < 2 * SHORTEST:
                continue
            whole = self._explained(begin, end)
            gain, place = max(
                (self._explained(begin, place) + self._explained(place, end), place)
                for place in range(begin + SHORTEST, end - SHORTEST + 1)
            )
            if gain - whole >= FEW_GAIN:
                found |= {near for near in (place - 1, place, place + 1) if begin < near < end}
                parts += [(begin, place), (place, end)]
        return found

"""Medians, their confidence intervals and paired ratios: what is shown, and what decides when sampling ends."""

from __future__ import annotations

import functools
import itertools
import math
import operator
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import NamedTuple

Interval = tuple[float, float]

CONFIDENCE = 0.95

# Sampling that ends once an interval is narrow enough favours samples that look narrower than they are: a nominal 95%
# then covers as little as 92%. Simulated with nominal 95 to 96.6% over five distributions, noise of 0.2 to 1.5% and the
# rules of `settings.RIGORS`, this one covers 93.8 to 96.8% when sampling ends, with one cell and with twelve.
NOMINAL = 0.962

median = statistics.median

_NORMAL_REACH = statistics.NormalDist().inv_cdf((1 + CONFIDENCE) / 2)

MOST_DEGREES = 1000
"""From here on Student's t is a normal distribution to three digits, and its series only gets longer."""


@dataclass(frozen=True)
class Estimate:
    """`estimate` of times, ratios or differences, the median of one process, and its `interval`; None if they are too
    few for one."""

    median: float
    interval: Interval | None


def estimate(samples: Sequence[float], groups: Sequence[int] | None = None) -> float:
    """What `interval` is of: the median of one process, the mean of the processes' medians of several.

    Their mean and not their median: it is what Student's interval is of, and of five near-normal values it is half
    again as efficient. `groups` as for `interval`. Raises ValueError for no samples.
    """
    if len(medians := _medians(samples, groups)) > 1:
        return math.fsum(medians) / len(medians)
    return median(samples)


def median_interval(samples: Sequence[float], confidence: float = CONFIDENCE) -> Interval | None:
    """Interval that holds the population's median with very nearly `confidence`, by interpolated order statistics.

    The number of samples below the median is binomial with p = 1/2 whatever the distribution, so the r-th smallest and
    the r-th largest enclose it but for twice the tail P(Binomial(n, 1/2) < r). Between the two r that bracket
    `confidence`, ends are interpolated as Hettmansperger and Sheather do (Statistics & Probability Letters 4, 1986; for
    any quantile, Nyblom, the same journal 14, 1992). None if even the extremes don't reach `confidence`: below 6
    samples at 95%. Holds for a number of samples fixed in advance; `interval` also if they decided the end.
    """
    place = _place(len(samples), confidence)
    if place is None:
        return None
    rank, inward = place
    ordered = sorted(samples)
    ends = rank - 1, rank, len(ordered) - rank - 1, len(ordered) - rank
    low, low_next, high_next, high = [_unrounded(ordered, index) for index in ends]
    return low + inward * (low_next - low), high + inward * (high_next - high)


def interval(samples: Sequence[float], groups: Sequence[int] | None = None) -> Interval | None:
    """The 95% interval of `estimate`: the one that is shown, and the one that ends sampling.

    `groups` is the process of each sample. From one process (or None): `median_interval` at `NOMINAL`, so that it
    covers about as often as it says at whichever block sampling ended. The samples don't tell how they ended, so a
    narrower interval for display would cover too seldom. From several: samples of a process share its addresses, clocks
    and compilation and aren't independent, so Student's interval of the processes' medians, whose number was fixed in
    advance; two processes are enough for one, but a wide one. None if a single process has fewer than 6 samples.
    Raises ValueError if `groups` and samples differ in number.
    """
    medians = _medians(samples, groups)
    if len(medians) < 2:
        return median_interval(samples, NOMINAL)
    middle, reach = estimate(samples, groups), t_reach(_variance_of_mean(medians))
    return middle - reach, middle + reach


def half_width(samples: Sequence[float], groups: Sequence[int] | None = None) -> float | None:
    """Half the width of `interval`, over `estimate`; None if there is no interval."""
    if not samples:
        return None
    ends, middle = interval(samples, groups), estimate(samples, groups)
    if ends is None or middle == 0.0:
        return None
    low, high = ends
    return (high - low) / 2 / abs(middle)


def paired_ratio(
    a_samples: Sequence[float],
    a_blocks: Sequence[int],
    b_samples: Sequence[float],
    b_blocks: Sequence[int],
    process_of_block: Sequence[int] = (),
) -> Estimate | None:
    """Ratio a / b, from pairs of samples taken in the same block, in which drift and heat fell on both alike.

    The `estimate` of the pairs' ratios and its `interval`. Entry i of `process_of_block` is the process of block i;
    empty if all are of one. None if no block holds both. Raises ValueError if samples and blocks differ in
    number, a block comes twice or is of no process, or a sample of b is not above zero.
    """
    if any(sample <= 0 for sample in b_samples):
        raise ValueError("a sample to divide by is not above zero")
    return _paired(operator.truediv, _by_block(a_samples, a_blocks), _by_block(b_samples, b_blocks), process_of_block)


def paired_difference(
    a_samples: Sequence[float],
    a_blocks: Sequence[int],
    b_samples: Sequence[float],
    b_blocks: Sequence[int],
    process_of_block: Sequence[int] = (),
) -> Estimate | None:
    """Difference a - b, from pairs of samples taken in the same block. Arguments, None and errors as `paired_ratio`."""
    return _paired(operator.sub, _by_block(a_samples, a_blocks), _by_block(b_samples, b_blocks), process_of_block)


def quotient(a: Estimate, b: Estimate, *, widened: float = 1.0) -> Estimate:
    """a / b of two estimates that are independent of each other, both above zero.

    Its interval combines theirs as variances are, in logarithms, whose difference is the quotient (MOVER; Zou and
    Donner, Statistics in Medicine 27, 2008), after each was `widened`. None if one of them has none, or one that
    reaches zero, as Student's of few processes may.
    """
    middle = a.median / b.median
    if a.interval is None or b.interval is None or min(*a.interval, *b.interval) <= 0:
        return Estimate(middle, None)
    below = math.hypot(math.log(a.median / a.interval[0]), math.log(b.interval[1] / b.median))
    above = math.hypot(math.log(a.interval[1] / a.median), math.log(b.median / b.interval[0]))
    return Estimate(middle, (middle * math.exp(-widened * below), middle * math.exp(widened * above)))


def differs(ratios: Sequence[float], *, margin: float = 0.001, confidence: float = 0.99) -> int:
    """1 if the median of ratios is above 1 by more than `margin` with `confidence`, -1 if below, else 0.

    By `median_interval`, for pairs of one process; also 0 if they are too few for one: below 8 at 99%.
    """
    ends = median_interval(ratios, confidence)
    if ends is None:
        return 0
    low, high = ends
    return int(low > 1 + margin) - int(high < 1 - margin)


class Variance(NamedTuple):
    """An estimate of a variance, and the degrees of freedom that it rests on."""

    value: float
    degrees: float

    def scaled(self, factor: float) -> Variance:
        """The variance of what is `factor` times as large."""
        return Variance(self.value * factor**2, self.degrees)


def total_variance(parts: Sequence[Variance]) -> Variance:
    """Of a sum of independent parts, with the effective degrees of freedom of Welch and Satterthwaite.

    Satterthwaite, Biometrics Bulletin 2, 1946; the GUM's equation G.2b (JCGM 100:2008).
    """
    total = math.fsum([part.value for part in parts])
    spread = math.fsum([part.value**2 / part.degrees for part in parts])
    return Variance(total, total**2 / spread if spread > 0 else MOST_DEGREES)


def relative_variance(samples: Sequence[float], groups: Sequence[int] | None = None) -> Variance | None:
    """Of `estimate` over itself, which is that of its logarithm; `groups` as for `interval`.

    From one process: by half the width of the median's 95% interval, which is 1.96 deviations of a normal estimate,
    with the degrees of as many normal samples; of 6 or 12 normal samples that is some 1.4 times too much. From several:
    the variance of the mean of their medians. None if there are too few samples for an interval.
    """
    middle = estimate(samples, groups)
    if len(medians := _medians(samples, groups)) > 1:
        return _variance_of_mean(medians).scaled(1 / middle)
    ends = median_interval(samples)
    if ends is None:
        return None
    deviation = (ends[1] - ends[0]) / 2 / _NORMAL_REACH
    return Variance((deviation / middle) ** 2, len(samples) - 1)


def discoveries(p_values: Sequence[float], rate: float) -> list[bool]:
    """Which null hypotheses are rejected, so that at most a share of `rate` of those is expected to be true.

    Benjamini and Hochberg, Journal of the Royal Statistical Society B 57, 1995: with the p-values in order, all up to
    the last that is at most `rate` times its rank over their number.
    """
    ordered = sorted(p_values)
    bars = (p for rank, p in enumerate(ordered, 1) if p <= rate * rank / len(ordered))
    bar = max(bars, default=-1.0)
    return [p <= bar for p in p_values]


def t_tail(value: float, degrees: float) -> float:
    """Probability that Student's t of `degrees` of freedom, rounded down to whole ones, exceeds `value`."""
    whole = _whole_degrees(degrees)
    within = _t_within(math.atan(abs(value) / math.sqrt(whole)), whole)
    outside = max(0.0, (1 - within) / 2)
    return outside if value >= 0 else 1 - outside


def t_reach(variance: Variance, confidence: float = CONFIDENCE) -> float:
    """Half the width of Student's interval around an estimate of that `variance`."""
    return t_quantile((1 + confidence) / 2, _whole_degrees(variance.degrees)) * math.sqrt(variance.value)


def _whole_degrees(degrees: float) -> int:
    return max(1, min(MOST_DEGREES, math.floor(degrees)))


@functools.lru_cache(maxsize=256)
def t_quantile(probability: float, degrees: int) -> float:
    """Value that Student's t of `degrees` of freedom stays below with `probability`, between 1/2 and 1.

    Bisection of the finite series 26.7.3 and 26.7.4 of Abramowitz and Stegun, Handbook of Mathematical Functions, in
    the angle atan(t / sqrt(degrees)).
    """
    if not 0.5 <= probability < 1 or degrees < 1:
        raise ValueError(f"probability {probability}, {degrees} degrees of freedom: expected [0.5, 1) and 1 or more")
    within = 2 * probability - 1
    low, high = 0.0, math.pi / 2
    while low < (middle := (low + high) / 2) < high:
        if _t_within(middle, degrees) < within:
            low = middle
        else:
            high = middle
    return math.sqrt(degrees) * math.tan(low)


def _t_within(angle: float, degrees: int) -> float:
    """P(|T| < sqrt(degrees) tan(angle))."""
    odd = degrees % 2
    cosine = math.cos(angle)
    term, total = (cosine if odd else 1.0), 0.0
    for power in range(odd, degrees - 1, 2):
        total += term
        term *= cosine**2 * (power + 1) / (power + 2)
    total *= math.sin(angle)
    return (angle + total) * 2 / math.pi if odd else total


def _medians(samples: Sequence[float], groups: Sequence[int] | None) -> list[float]:
    """Of each of several processes; none if there is one."""
    if groups is None:
        return []
    if len(groups) != len(samples):
        raise ValueError(f"{len(samples)} samples of {len(groups)} groups: expected a group a sample")
    if len(set(groups)) < 2:
        return []
    by_group: dict[int, list[float]] = {}
    for sample, group in zip(samples, groups, strict=True):
        by_group.setdefault(group, []).append(sample)
    return [median(members) for members in by_group.values()]


def _variance_of_mean(medians: Sequence[float]) -> Variance:
    middle, degrees = math.fsum(medians) / len(medians), len(medians) - 1
    return Variance(math.fsum((value - middle) ** 2 for value in medians) / degrees / len(medians), degrees)


def _unrounded(ordered: Sequence[float], index: int) -> float:
    """The order statistic as it was before a clock rounded it: ties spread evenly over the tick around them.

    Without it an interval's ends sit on ticks, and one that is two ticks wide covers as little as 88%. The tick is the
    smallest distance of unequal samples. A sample without a tie stays as it is.
    """
    value = ordered[index]
    first, after = index, index + 1
    while first > 0 and ordered[first - 1] == value:
        first -= 1
    while after < len(ordered) and ordered[after] == value:
        after += 1
    ties = after - first
    if ties == 1:
        return value
    tick = min((b - a for a, b in itertools.pairwise(ordered) if b > a), default=0.0)
    return value + tick * ((index - first + 0.5) / ties - 0.5)


@functools.lru_cache(maxsize=1024)
def _place(n: int, confidence: float) -> tuple[int, float] | None:
    """Where an end of the interval lies: the r-th sample, and the share of the way to the next one inward.

    r is the largest with P(Binomial(n, 1/2) < r) <= (1 - confidence) / 2, in whole numbers; None if it is below 1.
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence {confidence}: expected a value between 0 and 1")
    allowed = Fraction(1 - confidence) / 2 * 2**n
    rank, below, ways = 0, 0, 1  # `below` is 2^n P(Binomial(n, 1/2) < rank), `ways` that of exactly rank
    while below + ways <= allowed:
        below += ways
        ways = ways * (n - rank) // (rank + 1)
        rank += 1
    if not rank:
        return None
    share = (allowed - below) / ways
    return rank, float((n - rank) * share / (rank + (n - 2 * rank) * share))


def _by_block(samples: Sequence[float], blocks: Sequence[int]) -> dict[int, float]:
    if len(samples) != len(blocks):
        raise ValueError(f"{len(samples)} samples of {len(blocks)} blocks: expected one a block")
    paired = dict(zip(blocks, samples, strict=True))
    if len(paired) != len(samples):
        raise ValueError("a block comes twice: expected one sample a block")
    return paired


def _paired(
    of: Callable[[float, float], float],
    a: Mapping[int, float],
    b: Mapping[int, float],
    process_of_block: Sequence[int],
) -> Estimate | None:
    """Of the blocks that are in both, in the order of a's."""
    blocks = [block for block in a if block in b]
    if not blocks:
        return None
    if process_of_block and not all(0 <= block < len(process_of_block) for block in blocks):
        raise ValueError(f"blocks {sorted(blocks)}: expected each below {len(process_of_block)}, which have a process")
    groups = [process_of_block[block] for block in blocks] if process_of_block else None
    values = [of(a[block], b[block]) for block in blocks]
    return Estimate(estimate(values, groups), interval(values, groups))

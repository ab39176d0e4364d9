"""Medians, their confidence intervals and paired ratios, exact and free of assumptions on the distribution.

Intervals hold for a number of samples fixed in advance. Sampling that stops once an interval is narrow enough covers a
little less often than the interval says; nothing here corrects for that.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

Interval = tuple[float, float]

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Ratio:
    """Median of ratios, and its 95% interval; None where there are too few of them for one."""

    median: float
    interval: Interval | None


def median(samples: Sequence[float]) -> float:
    """Middle of the samples, the mean of both middles where their number is even. Raises ValueError for none."""
    if not samples:
        raise ValueError("no samples: a median needs at least one")
    ordered, half = sorted(samples), len(samples) // 2
    return ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2


def median_interval(samples: Sequence[float], confidence: float = CONFIDENCE) -> Interval | None:
    """Interval that holds the population's median with at least `confidence`, by order statistics.

    The number of samples below the median is binomial with p = 1/2 whatever the distribution, so the r-th smallest and
    the r-th largest enclose it but for twice the tail P(Binomial(n, 1/2) < r): Conover, Practical Nonparametric
    Statistics, 3rd edition, section 3.2. None where even the extremes don't reach `confidence`: below 6 samples at 95%.
    Sequential stopping is not corrected for.
    """
    rank = _rank(len(samples), confidence)
    if rank is None:
        return None
    ordered = sorted(samples)
    return ordered[rank - 1], ordered[-rank]


def half_width(samples: Sequence[float]) -> float | None:
    """Half the width of the median's 95% interval, over the median; None where there is no interval."""
    interval, middle = median_interval(samples), median(samples) if samples else 0.0
    if interval is None or middle == 0.0:
        return None
    low, high = interval
    return (high - low) / 2 / abs(middle)


def paired_ratio(
    a_samples: Sequence[float], a_blocks: Sequence[int], b_samples: Sequence[float], b_blocks: Sequence[int]
) -> Ratio | None:
    """Ratio a / b, from pairs of samples taken in the same block, where drift and heat fell on both alike.

    The median of the pairs' ratios and its interval by order statistics, as `median_interval` gives it. None where no
    block holds both. Raises ValueError where samples and blocks differ in number, a block comes twice, or a sample of b
    is not above zero.
    """
    a, b = _by_block(a_samples, a_blocks), _by_block(b_samples, b_blocks)
    if any(sample <= 0 for sample in b.values()):
        raise ValueError("a sample to divide by is not above zero")
    ratios = [sample / b[block] for block, sample in a.items() if block in b]
    return Ratio(median(ratios), median_interval(ratios)) if ratios else None


@functools.lru_cache(maxsize=1024)
def _rank(n: int, confidence: float) -> int | None:
    """Largest r with P(Binomial(n, 1/2) < r) <= (1 - confidence) / 2, in whole numbers; None where it is below 1."""
    if not 0 < confidence < 1:
        raise ValueError(f"confidence {confidence}: expected a value between 0 and 1")
    allowed = Fraction(1 - confidence) / 2 * 2**n
    rank, below = 0, 1  # `below` is 2^n P(Binomial(n, 1/2) < rank + 1)
    while below <= allowed:
        rank += 1
        below += math.comb(n, rank)
    return rank or None


def _by_block(samples: Sequence[float], blocks: Sequence[int]) -> dict[int, float]:
    if len(samples) != len(blocks):
        raise ValueError(f"{len(samples)} samples of {len(blocks)} blocks: expected one a block")
    paired = dict(zip(blocks, samples, strict=True))
    if len(paired) != len(samples):
        raise ValueError("a block comes twice: expected one sample a block")
    return paired

"""Medians and their intervals, without a model of the noise."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

CONFIDENCE = 0.95


def median(samples: Sequence[float]) -> float:
    return statistics.median(samples)


def median_interval(samples: Sequence[float], confidence: float = CONFIDENCE) -> tuple[float, float] | None:
    """Two order statistics that hold the median between them with at least `confidence`; None for too few samples.

    Exact for any continuous distribution, from the binomial one of how many samples lie below the median (Conover,
    Practical Nonparametric Statistics, 3rd edition, section 3.2). 95% takes 6 samples. That a run stops when the
    interval is narrow is not corrected for.
    """
    ordered, n = sorted(samples), len(samples)
    tail, rank = 0.0, -1
    for below in range(n // 2):
        tail += math.comb(n, below) * 0.5**n
        if 2 * tail > 1 - confidence:
            break
        rank = below
    return None if rank < 0 else (ordered[rank], ordered[n - 1 - rank])


def half_width(samples: Sequence[float]) -> float | None:
    """Half the width of the median's 95% interval over the median; None for too few samples."""
    interval = median_interval(samples)
    middle = median(samples) if samples else 0.0
    return None if interval is None or middle == 0 else (interval[1] - interval[0]) / 2 / middle


@dataclass(frozen=True)
class Ratio:
    """Median of a ratio, and its 95% interval where there are samples enough."""

    median: float
    interval: tuple[float, float] | None


def paired_ratio(
    a: Sequence[float], a_blocks: Sequence[int], b: Sequence[float], b_blocks: Sequence[int]
) -> Ratio | None:
    """a / b from samples of the same block, so that what drifts over the run cancels; None without a common block."""
    of_b = dict(zip(b_blocks, b, strict=True))
    ratios = [
        sample / of_b[block] for block, sample in zip(a_blocks, a, strict=True) if block in of_b and of_b[block] > 0
    ]
    return Ratio(median(ratios), median_interval(ratios)) if ratios else None

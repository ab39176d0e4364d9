"""Medians and intervals: exact where they can be, and covering as often as they say."""

from __future__ import annotations

import math
import random

import pytest

from w8a8_bench import stats


def test_median_of_even_and_odd_numbers() -> None:
    assert stats.median([3.0, 1.0, 2.0]) == 2.0
    assert stats.median([4.0, 1.0, 2.0, 3.0]) == 2.5
    with pytest.raises(ValueError, match="at least one"):
        stats.median([])


# Ranks of the 95% interval from tables of the sign test.
@pytest.mark.parametrize(
    ("n", "rank"), [(6, 1), (8, 1), (9, 2), (11, 2), (12, 3), (15, 4), (20, 6), (40, 14), (100, 40)]
)
def test_interval_has_the_ranks_of_the_sign_tests_tables(n: int, rank: int) -> None:
    samples = [float(value) for value in range(1, n + 1)]
    random.Random(n).shuffle(samples)
    assert stats.median_interval(samples) == (rank, n + 1 - rank)


def test_too_few_samples_have_no_interval() -> None:
    for n in range(6):
        assert stats.median_interval([1.0] * n) is None
        assert stats.half_width([1.0] * n) is None
    assert stats.median_interval([1.0] * 7, confidence=0.99) is None
    assert stats.median_interval([1.0] * 8, confidence=0.99) == (1.0, 1.0)


def test_a_confidence_that_is_none_is_refused() -> None:
    for confidence in (0.0, 1.0, 95.0):
        with pytest.raises(ValueError, match="between 0 and 1"):
            stats.median_interval([1.0] * 10, confidence)


def test_thousands_of_samples_do_not_overflow() -> None:
    low, high = stats.median_interval([float(i) for i in range(5000)])
    assert 2400 < low < 2450 < 2550 < high < 2600


def test_half_width_is_relative_to_the_median() -> None:
    assert stats.half_width([9.0, 10.0, 10.0, 10.0, 10.0, 11.0]) == pytest.approx(0.1)
    assert stats.half_width([5.0] * 12) == 0.0
    assert stats.half_width([0.0] * 12) is None


@pytest.mark.parametrize("draw", ["lognormal", "exponential", "two modes"])
@pytest.mark.parametrize("n", [6, 12, 33])
def test_interval_covers_the_median_as_often_as_it_says(n: int, draw: str) -> None:
    rng = random.Random(f"{n}{draw}")
    sample, truth = {
        "lognormal": (lambda: rng.lognormvariate(0, 1), 1.0),
        "exponential": (lambda: rng.expovariate(1), math.log(2)),
        "two modes": (lambda: rng.gauss(rng.choice([-5, 5]), 1), 0.0),
    }[draw]
    trials = 2000
    hits = 0
    for _ in range(trials):
        low, high = stats.median_interval([sample() for _ in range(n)])
        hits += low <= truth <= high
    # Exact coverage is at least 95%; three standard errors below that are chance.
    assert hits / trials > 0.95 - 3 * math.sqrt(0.95 * 0.05 / trials)


def test_ratio_pairs_samples_of_the_same_block_only() -> None:
    drift = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0]
    ratio = stats.paired_ratio([3 * d for d in drift], range(7), drift[::-1], range(6, -1, -1))
    assert ratio == stats.Ratio(3.0, (3.0, 3.0))
    assert stats.paired_ratio([6.0, 99.0], [1, 2], [99.0, 2.0], [0, 1]) == stats.Ratio(3.0, None)
    assert stats.paired_ratio([1.0], [0], [1.0], [1]) is None
    assert stats.paired_ratio([], [], [], []) is None


def test_samples_that_can_not_be_paired_are_refused() -> None:
    with pytest.raises(ValueError, match="one a block"):
        stats.paired_ratio([1.0], [0, 1], [1.0], [0])
    with pytest.raises(ValueError, match="twice"):
        stats.paired_ratio([1.0, 1.0], [0, 0], [1.0], [0])
    with pytest.raises(ValueError, match="above zero"):
        stats.paired_ratio([1.0], [0], [0.0], [0])

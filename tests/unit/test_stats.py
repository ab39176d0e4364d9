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


# Ranks of the 95% interval from tables of the sign test: its coverage is at least 95%, that of the next rank is less.
@pytest.mark.parametrize(
    ("n", "rank"), [(6, 1), (8, 1), (9, 2), (11, 2), (12, 3), (15, 4), (20, 6), (40, 14), (100, 40)]
)
def test_interval_lies_between_the_ranks_of_the_sign_tests_tables(n: int, rank: int) -> None:
    samples = [float(value) for value in range(1, n + 1)]
    random.Random(n).shuffle(samples)
    low, high = stats.median_interval(samples)
    assert rank <= low < rank + 1
    assert low + high == pytest.approx(n + 1)


@pytest.mark.parametrize(("n", "rank"), [(6, 1), (13, 3), (13, 4), (40, 14)])
def test_interval_is_the_order_statistics_where_their_coverage_is_the_confidence(n: int, rank: int) -> None:
    outside = 2 * sum(math.comb(n, below) for below in range(rank)) / 2**n
    samples = [float(value) for value in range(1, n + 1)]
    assert stats.median_interval(samples, 1 - outside) == pytest.approx((rank, n + 1 - rank))


def test_interpolation_is_that_of_hettmansperger_and_sheather() -> None:
    # n = 10: ranks 2 and 3 cover 1 - 22/1024 and 1 - 112/1024, so 95% is I = (51.2 - 22) / 90 of the step between them
    # and the end is 8 I / (2 + 6 I) of the way from rank 2 to rank 3.
    step = (51.2 - 22) / 90
    low, high = stats.median_interval([float(value) for value in range(1, 11)])
    assert low == pytest.approx(2 + 8 * step / (2 + 6 * step))
    assert high == pytest.approx(11 - low)


def test_too_few_samples_have_no_interval() -> None:
    for n in range(6):
        assert stats.median_interval([1.0] * n) is None
        assert stats.interval([1.0] * n) is None
        assert stats.half_width([1.0] * n) is None
    assert stats.interval([1.0] * 6) == (1.0, 1.0)
    assert stats.median_interval([1.0] * 7, confidence=0.99) is None
    assert stats.median_interval([1.0] * 8, confidence=0.99) == (1.0, 1.0)


def test_a_confidence_that_is_none_is_refused() -> None:
    for confidence in (0.0, 1.0, 95.0):
        with pytest.raises(ValueError, match="between 0 and 1"):
            stats.median_interval([1.0] * 10, confidence)


def test_thousands_of_samples_do_not_overflow() -> None:
    low, high = stats.median_interval([float(i) for i in range(5000)])
    assert 2400 < low < 2450 < 2550 < high < 2600


def test_half_width_is_relative_to_the_median_and_of_the_interval_that_is_shown() -> None:
    samples = [9.0, 9.5, 9.75, 10.25, 10.5, 11.0]
    low, high = stats.interval(samples)
    assert stats.half_width(samples) == pytest.approx((high - low) / 20)
    assert 9.0 < low < 9.1
    assert stats.half_width([5.0] * 12) == 0.0
    assert stats.half_width([0.0] * 12) is None


def test_ties_of_a_clock_do_not_make_an_interval_a_point() -> None:
    # 30 samples of a clock that ticks in 2: the median is somewhere within 9 to 11, as if they were 30 values there.
    low, high = stats.median_interval([8.0] + [10.0] * 30 + [12.0])
    assert 9.3 < low < 9.7
    assert high == pytest.approx(20 - low)
    assert stats.median_interval([10.0] * 30) == (10.0, 10.0)


@pytest.mark.parametrize("draw", ["lognormal", "exponential", "two modes"])
@pytest.mark.parametrize("n", [6, 13, 33])
def test_interval_covers_the_median_as_often_as_it_says(n: int, draw: str) -> None:
    rng = random.Random(f"{n}{draw}")
    sample, truth = {
        "lognormal": (lambda: rng.lognormvariate(0, 1), 1.0),
        "exponential": (lambda: rng.expovariate(1), math.log(2)),
        "two modes": (lambda: rng.gauss(rng.choice([-2, 2]), 1), 0.0),
    }[draw]
    trials = 4000
    hits = 0
    for _ in range(trials):
        low, high = stats.median_interval([sample() for _ in range(n)])
        hits += low <= truth <= high
    # Interpolation is within 0.5% of 95% (the step at n = 13 covers 97.8%); three standard errors of 0.35% are chance.
    assert abs(hits / trials - 0.95) < 0.005 + 3 * math.sqrt(0.95 * 0.05 / trials)


# Two-sided 95% and 99% points: NIST/SEMATECH e-Handbook of Statistical Methods, section 1.3.6.7.2.
T_975 = (
    "12.706 4.303 3.182 2.776 2.571 2.447 2.365 2.306 2.262 2.228 2.201 2.179 2.160 2.145 2.131 "
    "2.120 2.110 2.101 2.093 2.086 2.080 2.074 2.069 2.064 2.060 2.056 2.052 2.048 2.045 2.042"
)
T_995 = (
    "63.657 9.925 5.841 4.604 4.032 3.707 3.499 3.355 3.250 3.169 3.106 3.055 3.012 2.977 2.947 "
    "2.921 2.898 2.878 2.861 2.845 2.831 2.819 2.807 2.797 2.787 2.779 2.771 2.763 2.756 2.750"
)


@pytest.mark.parametrize(("probability", "table"), [(0.975, T_975), (0.995, T_995)])
def test_t_quantiles_are_those_of_the_tables(probability: float, table: str) -> None:
    for degrees, value in enumerate(table.split(), start=1):
        assert f"{stats.t_quantile(probability, degrees):.3f}" == value
    with pytest.raises(ValueError, match="degrees of freedom"):
        stats.t_quantile(probability, 0)


def test_several_processes_are_estimated_by_their_medians() -> None:
    # Medians 10, 12 and 14: mean 12, standard error 2 / sqrt(3), t of 2 degrees of freedom 4.303.
    samples, groups = [10.0, 9.0, 14.0, 99.0, 12.0, 14.0, 14.0], [7, 7, 2, 7, 5, 2, 2]
    assert stats.estimate(samples, groups) == 12.0
    assert stats.interval(samples, groups) == pytest.approx((12 - 4.9683, 12 + 4.9683), abs=1e-4)
    assert stats.half_width(samples, groups) == pytest.approx(4.9683 / 12, abs=1e-5)


def test_one_process_is_as_if_it_were_not_named() -> None:
    samples = [float(value) for value in range(1, 13)]
    assert stats.interval(samples, [3] * 12) == stats.interval(samples)
    assert stats.estimate(samples, [3] * 12) == stats.estimate(samples) == 6.5
    with pytest.raises(ValueError, match="a group a sample"):
        stats.interval(samples, [0])


def test_processes_that_differ_widen_the_interval() -> None:
    rng = random.Random(4)
    processes, each, trials = 5, 30, 2000
    groups = [process for process in range(processes) for _ in range(each)]
    clustered = pooled = 0
    for _ in range(trials):
        shifts = [rng.gauss(100, 1) for _ in range(processes)]
        samples = [rng.gauss(shifts[process], 1) for process in groups]
        low, high = stats.interval(samples, groups)
        clustered += low <= 100 <= high
        low, high = stats.interval(samples)
        pooled += low <= 100 <= high
    # Standard error of the simulation: 0.5%.
    assert 0.93 < clustered / trials < 0.97
    assert pooled / trials < 0.6


def test_ratio_pairs_samples_of_the_same_block_only() -> None:
    drift = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0]
    ratio = stats.paired_ratio([3 * d for d in drift], range(7), drift[::-1], range(6, -1, -1))
    assert ratio == stats.Ratio(3.0, (3.0, 3.0))
    assert stats.paired_ratio([6.0, 99.0], [1, 2], [99.0, 2.0], [0, 1]) == stats.Ratio(3.0, None)
    assert stats.paired_ratio([1.0], [0], [1.0], [1]) is None
    assert stats.paired_ratio([], [], [], []) is None


def test_difference_pairs_blocks_and_not_positions_and_may_be_below_zero() -> None:
    drift = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0]
    later = stats.paired_difference([d + 0.5 for d in drift], range(7), drift[::-1], range(6, -1, -1))
    assert later == stats.Difference(0.5, (0.5, 0.5))
    assert stats.paired_difference([6.0, 99.0], [1, 2], [99.0, 8.0], [0, 1]) == stats.Difference(-2.0, None)
    assert stats.paired_difference([1.0], [0], [1.0], [1]) is None
    # Blocks 0 and 3 of one process, 1 and 2 of another: medians 1.5 and 2.5.
    several = stats.paired_difference(
        [2.0, 3.0, 4.0, 3.0], range(4), [1.0] * 4, range(4), process_of_block=[4, 9, 9, 4]
    )
    assert several is not None and several.median == 2.0
    assert several.interval == pytest.approx((2.0 - 12.7062 * 0.5, 2.0 + 12.7062 * 0.5), abs=1e-4)


def test_samples_that_can_not_be_paired_are_refused() -> None:
    with pytest.raises(ValueError, match="one a block"):
        stats.paired_ratio([1.0], [0, 1], [1.0], [0])
    with pytest.raises(ValueError, match="twice"):
        stats.paired_ratio([1.0, 1.0], [0, 0], [1.0], [0])
    with pytest.raises(ValueError, match="above zero"):
        stats.paired_ratio([1.0], [0], [0.0], [0])
    with pytest.raises(ValueError, match="have a process"):
        stats.paired_ratio([1.0, 1.0], [0, 2], [1.0, 1.0], [0, 2], process_of_block=[0, 1])


def test_ratio_knows_the_process_of_each_block() -> None:
    # Blocks 0 and 3 of one process, 1 and 2 of another: medians 1.25 and 1.75.
    ratio = stats.paired_ratio([1.0, 2.0, 1.5, 1.5], range(4), [1.0] * 4, range(4), process_of_block=[4, 9, 9, 4])
    assert ratio.median == 1.5
    assert ratio.interval == pytest.approx((1.5 - 12.7062 * 0.25, 1.5 + 12.7062 * 0.25), abs=1e-4)


def test_cells_of_one_speed_differ_in_less_than_one_comparison_of_a_hundred() -> None:
    rng = random.Random(6)
    trials = 4000
    for noise, margin in [(0.003, 0.001), (0.01, 0.001), (0.003, 0.0)]:
        verdicts = [
            stats.differs([rng.gauss(1, noise) / rng.gauss(1, noise) for _ in range(12)], margin=margin)
            for _ in range(trials)
        ]
        # Without a margin the rate is the 1% of the confidence; two standard errors of the simulation are 0.3%.
        assert sum(map(abs, verdicts)) / trials <= 0.01 + (0.003 if not margin else 0)
        if not margin:
            assert {-1, 1} <= set(verdicts)


@pytest.mark.parametrize("side", [-1, 1])
def test_one_percent_is_told_from_noise_in_twelve_blocks(side: int) -> None:
    rng = random.Random(side)
    trials = 1000
    found = sum(
        stats.differs([(1 + side * 0.01) * rng.gauss(1, 0.003) / rng.gauss(1, 0.003) for _ in range(12)]) == side
        for _ in range(trials)
    )
    assert found / trials > 0.95


def test_a_difference_within_the_margin_or_of_few_pairs_is_none() -> None:
    assert stats.differs([1.002] * 12) == 1
    assert stats.differs([0.998] * 12) == -1
    assert stats.differs([1.0009] * 12) == 0
    assert stats.differs([1.002] * 12, margin=0.003) == 0
    assert stats.differs([2.0] * 7) == 0
    assert stats.differs([2.0] * 7, confidence=0.95) == 1

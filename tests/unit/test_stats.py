"""Medians and intervals: exact where they can be, and covering as often as they say."""

from __future__ import annotations

import math
import random

import pytest

from w8a8_bench import stats


def test_median_of_even_and_odd_numbers() -> None:
    assert stats.median([3.0, 1.0, 2.0]) == 2.0
    assert stats.median([4.0, 1.0, 2.0, 3.0]) == 2.5
    with pytest.raises(ValueError, match="no median"):
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
    assert ratio == stats.Estimate(3.0, (3.0, 3.0))
    assert stats.paired_ratio([6.0, 99.0], [1, 2], [99.0, 2.0], [0, 1]) == stats.Estimate(3.0, None)
    assert stats.paired_ratio([1.0], [0], [1.0], [1]) is None
    assert stats.paired_ratio([], [], [], []) is None


def test_difference_pairs_blocks_and_not_positions_and_may_be_below_zero() -> None:
    drift = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0]
    later = stats.paired_difference([d + 0.5 for d in drift], range(7), drift[::-1], range(6, -1, -1))
    assert later == stats.Estimate(0.5, (0.5, 0.5))
    assert stats.paired_difference([6.0, 99.0], [1, 2], [99.0, 8.0], [0, 1]) == stats.Estimate(-2.0, None)
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


def test_a_quotient_of_independent_estimates_combines_their_intervals_as_variances() -> None:
    a, b = stats.Estimate(6.0, (5.7, 6.3)), stats.Estimate(3.0, (2.88, 3.12))
    low, high = stats.quotient(a, b).interval
    assert stats.quotient(a, b).median == 2.0
    # 5% and 4% make 6.4%; in logarithms a little more below than above.
    assert math.log(2.0 / low) == pytest.approx(math.hypot(math.log(6 / 5.7), math.log(3.12 / 3)))
    assert math.log(high / 2.0) == pytest.approx(math.hypot(math.log(6.3 / 6), math.log(3 / 2.88)))
    wide_low, wide_high = stats.quotient(a, b, widened=2.0).interval
    assert math.log(2.0 / wide_low) == pytest.approx(2 * math.log(2.0 / low))
    assert math.log(wide_high / 2.0) == pytest.approx(2 * math.log(high / 2.0))


@pytest.mark.parametrize("ends", [None, (0.0, 7.0), (-1.0, 7.0)])
def test_a_quotient_of_what_is_not_known_well_has_no_interval(ends) -> None:
    assert stats.quotient(stats.Estimate(6.0, ends), stats.Estimate(3.0, (2.9, 3.1))) == stats.Estimate(2.0, None)
    assert stats.quotient(stats.Estimate(6.0, (5.9, 6.1)), stats.Estimate(3.0, ends)) == stats.Estimate(2.0, None)


def test_discoveries_are_those_of_benjamini_and_hochberg() -> None:
    """The example of their paper (1995, section 4): 15 p-values, of which the first four fall at a rate of 5%."""
    p_values = [0.0001, 0.0004, 0.0019, 0.0095, 0.0201, 0.0278, 0.0298, 0.0344]
    p_values += [0.0459, 0.3240, 0.4262, 0.5719, 0.6528, 0.7590, 1.0000]
    assert stats.discoveries(p_values, 0.05) == [True] * 4 + [False] * 11
    shuffled = random.Random(0).sample(p_values, len(p_values))
    assert stats.discoveries(shuffled, 0.05) == [p <= 0.0095 for p in shuffled]
    assert stats.discoveries([0.04, 0.04], 0.05) == [True, True], "a later one lifts the earlier"
    assert stats.discoveries([], 0.05) == []


def test_the_tail_of_students_t_is_what_lies_beyond_its_quantile() -> None:
    for degrees in (1, 2, 7, 10, 30):
        for tail in (0.25, 0.025, 0.001, 1e-6):
            assert stats.t_tail(stats.t_quantile(1 - tail, degrees), degrees) == pytest.approx(tail, rel=1e-6)
    assert stats.t_tail(0.0, 5) == 0.5
    assert stats.t_tail(-2.0, 5) == pytest.approx(1 - stats.t_tail(2.0, 5))
    assert stats.t_tail(2.0, 5.9) == stats.t_tail(2.0, 5)
    assert stats.t_tail(1e9, 10) >= 0.0
    assert stats.t_tail(1.959964, 1e12) == pytest.approx(0.025, rel=0.01)


def test_variances_add_with_the_degrees_of_welch_and_satterthwaite() -> None:
    """The guide to the expression of uncertainty in measurement, H.1.6: end gauges, 32 nm with 16 degrees."""
    parts = [(25.0, 18), (9.7, 25.6), (2.9, 50), (16.6, 2)]
    total = stats.total_variance([stats.Variance(u**2, degrees) for u, degrees in parts])
    assert math.sqrt(total.value) == pytest.approx(31.7, abs=0.2)
    assert int(total.degrees) == 16
    assert stats.total_variance([stats.Variance(4.0, 3), stats.Variance(0.0, 1)]) == stats.Variance(4.0, 3)
    assert stats.total_variance([]) == stats.Variance(0.0, stats.MOST_DEGREES)
    assert stats.Variance(4.0, 3).scaled(0.5) == stats.Variance(1.0, 3)


@pytest.mark.parametrize("n", [6, 12, 40])
def test_the_relative_variance_is_that_of_the_estimates_logarithm_or_somewhat_more(n: int) -> None:
    rng = random.Random(n)
    logs, variances = [], []
    for _ in range(600):
        samples = [rng.gauss(5e-6, 5e-8) for _ in range(n)]
        logs.append(math.log(stats.estimate(samples)))
        variances.append(stats.relative_variance(samples))
    mean = sum(logs) / len(logs)
    seen = sum((log - mean) ** 2 for log in logs) / (len(logs) - 1)
    assert 1.0 < sum(v.value for v in variances) / len(variances) / seen < 1.6
    assert {v.degrees for v in variances} == {n - 1}


def test_the_relative_variance_of_several_processes_is_between_them() -> None:
    spread = stats.relative_variance([1.0, 1.0, 3.0, 3.0, 2.0], [0, 0, 1, 1, 2])
    assert spread == stats.Variance(pytest.approx(1.0 / 3 / 4), 2)
    assert stats.relative_variance([1.0] * 5) is None
    assert stats.t_reach(spread) == pytest.approx(stats.t_quantile(0.975, 2) * math.sqrt(1 / 12))

"""Change points: found where they are, and seldom where there are none."""

from __future__ import annotations

import random

import pytest

from w8a8_bench.analysis import change_points
from w8a8_bench.analysis.change_points import LEAST_SD, SHORTEST, difference, fit, usual_sd

NOISE = 0.004


def noisy(levels: list[tuple[int, float]], seed: int = 0) -> list[float]:
    """So many runs of each level, with noise."""
    rng = random.Random(seed)
    return [level + rng.gauss(0, NOISE) for count, level in levels for _ in range(count)]


def starts(values: list[float], variances: list[float] | None = None) -> list[int]:
    return [level.first for level in fit(values, variances or [0.0] * len(values)).levels]


def test_one_run_and_two_are_one_level():
    assert starts([3.0]) == [0]
    assert starts([3.0, 3.5]) == [0]
    (level,) = fit([1.0, 3.0], [0.0, 0.0]).levels
    assert (level.first, level.last, level.runs, level.value) == (0, 1, 2, pytest.approx(2.0))


@pytest.mark.parametrize("step", [0.02, -0.02])
def test_a_step_is_found_with_its_size(step):
    found = fit(noisy([(30, 0.0), (30, step)]), [0.0] * 60)
    before, after = found.levels
    assert abs(after.first - 30) <= 2
    assert (before.first, after.last) == (0, 59)
    assert before.last + 1 == after.first
    log, low, high = difference(before, after)
    assert low < step < high
    assert log == pytest.approx(step, abs=0.003)
    assert found.run_sd == pytest.approx(NOISE, rel=0.6)


def test_several_levels_are_found_also_if_they_return():
    found = starts(noisy([(15, 0.0), (10, 0.05), (15, 0.0), (20, -0.03)]))
    assert len(found) == 4
    assert all(abs(place - wanted) <= 1 for place, wanted in zip(found, (0, 15, 25, 40), strict=True))


@pytest.mark.parametrize("place", [0, 1, 17, 58, 59])
def test_a_run_that_is_odd_is_no_level(place):
    values = noisy([(60, 0.0)], seed=place)
    values[place] += 0.05
    found = fit(values, [0.0] * 60)
    assert len(found.levels) == 1
    assert place in found.odd
    assert found.levels[0].value == pytest.approx(0.0, abs=0.002)


def test_two_runs_at_the_end_are_a_change_and_one_is_not_yet():
    values = noisy([(30, 0.0), (2, 0.03)], seed=4)
    assert starts(values) == [0, 30]
    assert starts(values[:-1]) == [0]


def test_a_value_that_is_less_certain_counts_for_less():
    values = [0.0, 0.001, -0.001, 0.0, 0.1, 0.1]
    assert len(starts(values)) == 2
    assert len(starts(values, [0.0] * 4 + [0.1, 0.1])) == 1


def test_runs_that_are_equal_differ_by_the_least_that_runs_do():
    found = fit([0.0] * 10, [0.0] * 10)
    assert (found.run_sd, len(found.levels)) == (pytest.approx(LEAST_SD, rel=0.5), 1)
    assert len(fit([0.0] * 10 + [0.003] * 10, [0.0] * 20).levels) == 2


def test_of_a_thousand_runs_fewer_than_one_is_called_a_change():
    false = sum(len(starts(noisy([(60, 0.0)], seed))) - 1 for seed in range(500))
    assert false < 500 * 60 / 1000


@pytest.mark.parametrize("runs", [4, 5, 6, 8, 12, 20, 30])
def test_in_short_series_noise_is_no_change_either(runs):
    """With what is usual from the series themselves: of all together, and of each alone."""
    rng = random.Random(runs)
    every = [[rng.gauss(0, NOISE) for _ in range(runs)] for _ in range(6000 // runs)]
    known = [0.0] * runs
    of_all = usual_sd((values, known) for values in every)
    assert of_all == pytest.approx(NOISE, rel=0.1)
    for usual in (lambda values: of_all, lambda values: usual_sd([(values, known)])):
        assert sum(len(fit(values, known, usual(values)).levels) - 1 for values in every) < 6


@pytest.mark.parametrize("seed", range(12))
def test_another_implementation_cuts_at_the_same_places(seed):
    """ruptures' PELT with the same penalty: exact over all ways to cut, without weights and odd runs."""
    import numpy
    import ruptures

    rng = random.Random(seed)
    values = noisy([(rng.randint(8, 25), rng.choice((0.0, 0.03, -0.04, 0.08))) for _ in range(4)], seed)
    found = fit(values, [0.0] * len(values))
    penalty = change_points.PENALTY * found.run_sd**2
    algorithm = ruptures.Pelt(model="l2", min_size=SHORTEST, jump=1).fit(numpy.array(values).reshape(-1, 1))
    assert not found.odd
    assert [level.last + 1 for level in found.levels] == algorithm.predict(pen=penalty)

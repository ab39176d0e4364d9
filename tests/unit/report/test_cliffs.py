"""Cliffs: what padding would gain is found, and noise, other curves and smaller sizes are not taken for it."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from copies import replace
from made_results import record

from w8a8_bench.kernel import Status
from w8a8_bench.problem import Activations, GemmShape
from w8a8_bench.report.cliffs import find_cliffs
from w8a8_bench.results import json_lines
from w8a8_bench.stats import half_width

ROOT = Path(__file__).resolve().parents[3]
FP8, BF16 = "pytorch_fp8_fp8_bf16_scaled_mm", "pytorch_bf16_bf16_bf16_matmul-no-scales"


def at(m: int, seconds: float, *, kernel: str = FP8, spread: float = 0.001, n: int = 64, **changes: object):
    """A record at m whose 12 samples lie evenly within ±spread of `seconds`."""
    samples = [seconds * (1 + spread * (2 * step / 11 - 1)) for step in range(12)]
    return record(kernel, *samples, shape=GemmShape(m=m, n=n, k=32), **changes)


def found(*records):
    return [
        (cliff.record.problem.shape.m, cliff.padded_m, round(cliff.ratio.median, 3)) for cliff in find_cliffs(records)
    ]


def test_a_slower_smaller_m_is_a_cliff_with_the_fastest_larger_m_to_pad_to() -> None:
    assert found(at(16, 4e-6), at(17, 9e-6), at(32, 6e-6), at(33, 5e-6), at(64, 8e-6)) == [
        (17, 33, 1.8),
        (32, 33, 1.2),
    ]


def test_a_curve_that_rises_or_is_flat_has_no_cliff() -> None:
    assert found(at(1, 4e-6), at(16, 4e-6), at(17, 5e-6), at(8192, 1e-3)) == []


def test_of_two_sizes_that_are_equally_fast_the_smaller_is_padded_to() -> None:
    assert found(at(17, 9e-6), at(64, 4.5e-6), at(32, 4.5e-6)) == [(17, 32, 2.0)]


def test_less_than_two_sweeps_differ_by_is_no_cliff() -> None:
    assert found(at(16, 1.009e-6, spread=1e-6), at(32, 1e-6, spread=1e-6)) == []
    assert found(at(16, 1.012e-6, spread=1e-6), at(32, 1e-6, spread=1e-6)) == [(16, 32, 1.012)]


def test_a_difference_inside_the_noise_is_no_cliff() -> None:
    assert found(at(16, 1.1e-6, spread=0.2), at(32, 1e-6, spread=0.2)) == []
    assert found(at(16, 1.1e-6, spread=0.01), at(32, 1e-6, spread=0.01)) == [(16, 32, 1.1)]


def test_less_than_a_kernel_differs_from_itself_is_no_cliff() -> None:
    pair = at(16, 1.1e-6, spread=1e-6), at(32, 1e-6, spread=1e-6)
    assert len(find_cliffs(pair, noise={id(pair[1]): 0.09})) == 1
    assert find_cliffs(pair, noise={id(pair[1]): 0.11}) == find_cliffs(pair, noise={id(pair[0]): 0.11}) == ()


def test_the_interval_of_a_pair_is_that_of_independent_times() -> None:
    """Both times ±a%: their ratio ± sqrt(2) a%, widened for the number of pairs."""
    pair = at(16, 2e-6, spread=0.01), at(32, 1e-6, spread=0.01)
    (alone,) = find_cliffs(pair)
    low, high = alone.ratio.interval
    one = pair[1]
    half = half_width(one.samples["time_host"])
    assert (high - low) / 2 / 2 == pytest.approx(2**0.5 * half, rel=0.01)
    (_, among_three) = find_cliffs([at(8, 3e-6), *pair])
    assert among_three.ratio.interval[0] < low
    assert among_three.ratio.interval[1] > high


def test_other_kernels_sizes_and_activations_are_other_curves() -> None:
    slow = at(16, 9e-6)
    for other in (
        at(32, 1e-6, kernel=BF16),
        at(32, 1e-6, n=128),
        at(32, 1e-6, activations=Activations.DYNAMIC),
    ):
        assert found(slow, other) == []
    assert found(slow, at(32, 1e-6, labels={"layer": "o_proj"})) == [(16, 32, 9.0)]


def test_cells_without_a_time_are_no_points() -> None:
    slow = at(16, 9e-6)
    assert found(slow, at(32, 1e-6, status=Status.INCORRECT)) == []
    assert found(slow, record(FP8, 1e-6, shape=GemmShape(m=32, n=64, k=32))) == []
    assert found(slow, record(FP8, shape=GemmShape(m=32, n=64, k=32), status=Status.SKIPPED)) == []
    assert find_cliffs([]) == ()
    assert find_cliffs([slow, at(32, 1e-6)], "time_cold_l2") == ()


def test_the_first_record_of_an_m_counts() -> None:
    assert found(at(16, 9e-6), at(16, 1e-6), at(32, 3e-6)) == [(16, 32, 3.0)]


def test_several_processes_are_the_units_of_the_interval() -> None:
    """Three processes that disagree by 10% do not prove a cliff of 15%, however tight the samples of each."""

    def spread_out(m: int, seconds: float, by: float):
        samples = [seconds * (1 + by * (process - 1)) * (1 + 1e-5 * n) for process in range(3) for n in range(12)]
        made = record(FP8, *samples, shape=GemmShape(m=m, n=64, k=32))
        return replace(made, processes=tuple(process for process in range(3) for _ in range(12)))

    assert found(spread_out(16, 1.15e-6, 0.1), spread_out(32, 1e-6, 0.1)) == []
    assert found(spread_out(16, 1.15e-6, 0.001), spread_out(32, 1e-6, 0.001)) == [(16, 32, 1.15)]


def test_noise_alone_makes_at_most_one_flat_curve_in_twenty_show_a_cliff() -> None:
    random_ = random.Random(0)
    shown = 0
    for _ in range(60):
        curve = [
            record(
                FP8,
                *(1e-6 * random_.lognormvariate(0, 0.05) for _ in range(12)),
                shape=GemmShape(m=m, n=64, k=32),
            )
            for m in range(1, 25)
        ]
        shown += bool(find_cliffs(curve))
    assert shown <= 3


def test_two_committed_sweeps_of_an_h200_show_the_same_cliffs() -> None:
    runs = [json_lines.read(ROOT / f"results/h200/llama2_7b_28_shapes_run{number}.jsonl.gz") for number in (1, 2)]
    cliffs = [{(c.record.kernel, c.record.problem): c.ratio.median for c in find_cliffs(run.records)} for run in runs]
    assert cliffs[0].keys() == cliffs[1].keys()
    assert len(cliffs[0]) == 62
    assert all(abs(ratio / cliffs[1][cell] - 1) < 0.01 for cell, ratio in cliffs[0].items())
    # cuBLASLt's row-wise kernel at m = 16, against the one that it takes from m = 128 on.
    assert 1.41 < max(cliffs[0].values()) < 1.42

"""Operations, bytes, speed-ups and times as text, against numbers worked out by hand."""

from __future__ import annotations

import pytest
from copies import replace
from made_results import END, record

from w8a8_bench.analysis import metrics
from w8a8_bench.kernel import Status
from w8a8_bench.problem import Activations, GemmShape, Problem, Scaling, work
from w8a8_bench.problem.kernel_name import BASELINE, KernelName
from w8a8_bench.stats import Estimate
from w8a8_bench.text import format_difference, format_time

SHAPE = GemmShape(m=3, n=5, k=129)
A, B, OUT = 3 * 129, 129 * 5, 2 * 3 * 5
INT8 = "cutlass_i8_i8_bf16_scaled_mm"


def problem(kernel: str, scheme: str | None = None, activations: str = "prequantized") -> Problem:
    name = KernelName.parse(kernel)
    scaling = Scaling.parse(scheme) if scheme else name.default_scheme
    return name.problem(SHAPE, name.format, scaling, Activations(activations))


def test_multiply_adds_count_as_two() -> None:
    assert work.flops(problem(INT8)) == 2 * 3 * 5 * 129
    assert work.tflops(problem(INT8), 1e-6) == pytest.approx(2 * 3 * 5 * 129 * 1e-6)


@pytest.mark.parametrize(
    ("what", "expected"),
    [
        (problem(BASELINE), 2 * A + 2 * B + OUT),
        (problem(INT8), A + B + OUT + 4 + 4),
        (problem(INT8, "channel-w-token-a"), A + B + OUT + 4 * 5 + 4 * 3),
        (problem(INT8 + "_bias"), A + B + OUT + 8 + 2 * 5),
        (problem(INT8 + "_azp"), A + B + OUT + 8 + 4 + 4 * 5),
        (problem(INT8 + "_azp_pt_bias", "tensor-w-token-a"), A + B + OUT + 4 + 12 + 12 + 20 + 10),
        (problem(INT8, "tensor-w-token-a", "dynamic"), 2 * A + B + OUT + 4),
        (problem(INT8 + "_azp_pt", "tensor-w-token-a", "dynamic"), 2 * A + B + OUT + 4 + 20),
        (problem(INT8 + "_azp", activations="static"), 2 * A + B + OUT + 4 + 4 + 4 + 20),
        (problem("triton_fp8_fp8_fp16_scaled_mm_blockwise"), A + B + OUT + 4 * 3 * 2 + 4 * 2 * 1),
    ],
)
def test_bytes_are_every_input_and_the_output_once(what: Problem, expected: int) -> None:
    assert what.why_illegal() is None
    assert work.bytes_moved(what) == expected


def test_cast_twin_reads_operands_of_eight_bits() -> None:
    name = KernelName.parse(BASELINE + "_cast")
    assert work.bytes_moved(name.problem(SHAPE, KernelName.parse(INT8).format, None)) == A + B + OUT


def test_baseline_is_a_kernel_that_names_can_read() -> None:
    assert KernelName.parse(BASELINE).is_baseline


def test_speedup_is_of_the_same_blocks_and_above_one_where_faster() -> None:
    baseline = record(BASELINE, *(4.0 * drift for drift in range(1, 8)))
    fast = record(INT8, *(2.0 * drift for drift in range(1, 8)))
    assert metrics.speedup(fast, baseline, "time_host") == Estimate(2.0, (2.0, 2.0))
    assert metrics.speedup(baseline, baseline, "time_host") == Estimate(1.0, (1.0, 1.0))


def test_no_speedup_where_one_side_was_not_measured() -> None:
    baseline, fast = record(BASELINE, 2.0), record(INT8, 1.0)
    assert metrics.speedup(replace(fast, status=Status.INCORRECT), baseline, "time_host") is None
    assert metrics.speedup(fast, replace(baseline, status=Status.SKIPPED), "time_host") is None
    assert metrics.speedup(fast, baseline, "time_cold_l2") is None
    assert metrics.speedup(fast, replace(baseline, blocks={"time_host": (9,)}), "time_host") is None


def test_speedup_across_comparisons_is_refused() -> None:
    with pytest.raises(ValueError, match="within one comparison"):
        metrics.speedup(record(INT8, 1.0, comparison=1), record(BASELINE, 1.0, comparison=2), "time_host")


def test_speedup_of_several_processes_is_the_mean_of_their_medians() -> None:
    processes = (0, 0, 1, 1)
    baseline = record(BASELINE, 4.0, 4.0, 6.0, 6.0, processes=processes)
    fast = record(INT8, 2.0, 2.0, 2.0, 2.0, processes=processes)
    ratio = metrics.speedup(fast, baseline, "time_host")
    assert ratio is not None and ratio.median == 2.5
    assert ratio.interval is not None and ratio.interval[0] < 2.0, "two processes that differ leave a wide interval"


def inside(kernel: str, *seconds: float, activations: Activations = Activations.DYNAMIC, **changes):
    return record(kernel, *seconds, activations=activations, **changes)


def test_quantization_costs_the_whole_minus_the_prequantized_gemm_of_the_same_block() -> None:
    drift = [float(block) for block in range(1, 8)]
    twin = record(INT8, *drift)
    dynamic = inside(INT8, *(seconds + 0.25 for seconds in drift))
    assert metrics.quantization_cost(dynamic, twin, "time_host") == Estimate(0.25, (0.25, 0.25))
    shifted = replace(dynamic, blocks={"time_host": tuple(range(1, 8))})
    assert metrics.quantization_cost(shifted, twin, "time_host").median == -0.75, "by block, not by position"


def test_no_quantization_cost_where_one_side_was_not_measured() -> None:
    twin, dynamic = record(INT8, 1.0), inside(INT8, 2.0)
    assert metrics.quantization_cost(dynamic, replace(twin, status=Status.SKIPPED), "time_host") is None
    assert metrics.quantization_cost(replace(dynamic, status=Status.INCORRECT), twin, "time_host") is None
    assert metrics.quantization_cost(dynamic, twin, "time_cold_l2") is None
    with pytest.raises(ValueError, match="within one comparison"):
        metrics.quantization_cost(dynamic, replace(twin, comparison=7), "time_host")


def test_the_twin_is_the_same_kernel_and_scheme_in_the_same_comparison() -> None:
    twin, dynamic = record(INT8, 1.0), inside(INT8, 2.0)
    static = inside(INT8, 2.0, activations=Activations.STATIC)
    per_token = replace(twin, problem=problem(INT8, "tensor-w-token-a"))
    others = [dynamic, per_token, record(INT8 + "_bias", 1.0), replace(twin, comparison=1)]
    assert metrics.prequantized_twin(dynamic, [*others, twin]) is twin
    assert metrics.prequantized_twin(static, [*others, twin]) is twin
    assert metrics.prequantized_twin(dynamic, others) is None
    assert metrics.prequantized_twin(twin, [twin]) is None


@pytest.mark.parametrize(
    ("median", "interval", "expected"),
    [
        (2.7134e-6, (2.6924e-6, 2.7344e-6), "+2.713 us ±0.021"),
        (-1.5e-3, (-2.0e-3, 1.0e-3), "-1.500 ms ±1.500"),
        (17.2e-6, None, "+17.20 us"),
        (5e-11, (-1e-9, 1e-9), "+0.05000 ns ±1.00000"),
    ],
)
def test_a_difference_has_its_sign_and_its_interval_in_the_same_unit(median, interval, expected) -> None:
    assert format_difference(Estimate(median, interval)) == expected


def duplicate(kernel: str, seconds: tuple[float, ...], blocks: tuple[int, ...]):
    return replace(
        END,
        duplicate={
            "kernel": kernel,
            "cell": kernel,
            "samples": {"time_host": seconds},
            "blocks": {"time_host": blocks},
        },
    )


def test_noise_floor_is_the_duplicate_over_its_original_block_by_block() -> None:
    other, original = record(INT8, *[9.0] * 7), record(BASELINE, *map(float, range(1, 8)))
    end = duplicate(BASELINE, tuple(1.01 * block for block in range(1, 8)), tuple(range(7)))
    floor = metrics.noise_floor(end, [other, original], "time_host")
    assert floor is not None
    assert floor.median == pytest.approx(1.01)
    assert floor.interval == pytest.approx((1.01, 1.01))


def test_noise_floor_is_none_where_nothing_can_be_compared() -> None:
    original, end = record(BASELINE, 1.0, 2.0), duplicate(BASELINE, (1.0, 2.0), (0, 1))
    assert metrics.noise_floor(end, [original], "time_host") is not None
    assert metrics.noise_floor(end, [record(INT8, 1.0, 2.0)], "time_host") is None
    assert metrics.noise_floor(end, [replace(original, status=Status.INCORRECT)], "time_host") is None
    assert metrics.noise_floor(end, [original], "time_hot_l2") is None
    assert metrics.noise_floor(replace(end, duplicate={}), [original], "time_host") is None
    assert metrics.noise_floor(duplicate(BASELINE, (1.0,), (5,)), [original], "time_host") is None


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (12.0, "12.00 s"), (1234.5, "1234 s"), (123456.0, "123500 s"), (1.0, "1.000 s"), (0.99996, "1.000 s"),
        (0.0123456, "12.35 ms"), (999.96e-6, "1.000 ms"), (999.94e-6, "999.9 us"), (5.3e-6, "5.300 us"),
        (123e-9, "123.0 ns"), (1e-9, "1.000 ns"), (5e-11, "0.05000 ns"), (0.0, "0.000 s"),
    ],
)  # fmt: skip
def test_times_have_four_digits_and_the_unit_that_fits(seconds: float, expected: str) -> None:
    assert format_time(seconds) == expected

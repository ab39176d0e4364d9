"""Peaks against published figures, and times that are less than a device needs."""

from __future__ import annotations

import pytest
from copies import replace
from made_devices import CPU, H200

from w8a8_bench.analysis.roofline import BYTES_MARGIN, OPERATIONS_MARGIN, least_seconds, why_implausible
from w8a8_bench.environment.architecture import operations_per_clock
from w8a8_bench.environment.device import Device
from w8a8_bench.problem import Activations, GemmShape, Problem, Scaling
from w8a8_bench.problem.formats import Format
from w8a8_bench.problem.kernel_name import BASELINE, KernelName

FP8 = "cutlass_fp8_fp8_bf16_scaled_mm"
INT8 = "cutlass_i8_i8_bf16_scaled_mm"
SQUARE = GemmShape(m=8192, n=8192, k=8192)
SMALL = GemmShape(m=16, n=4096, k=4096)


def problem(
    shape: GemmShape, kernel: str = FP8, scheme: str | None = None, activations: str = "prequantized"
) -> Problem:
    name = KernelName.parse(kernel)
    scaling = Scaling.parse(scheme) if scheme else name.default_scheme
    return name.problem(shape, name.format, scaling, Activations(activations))


@pytest.mark.parametrize(
    ("gpu", "capability", "sms", "clock_mhz", "format", "published_tflops"),
    [
        ("V100 SXM2", (7, 0), 80, 1530, Format.FP16, 125),
        ("T4", (7, 5), 40, 1590, Format.FP16, 65),
        ("T4", (7, 5), 40, 1590, Format.INT8, 130),
        ("A100", (8, 0), 108, 1410, Format.BF16, 312),
        ("A100", (8, 0), 108, 1410, Format.INT8, 624),
        ("RTX 3090, fp16 accumulation", (8, 6), 82, 1695, Format.FP16, 142),
        ("RTX 3090", (8, 6), 82, 1695, Format.INT8, 284),
        ("Jetson AGX Orin, half of sparse", (8, 7), 16, 1300, Format.INT8, 85),
        ("RTX 4090", (8, 9), 128, 2520, Format.FP16, 330.3),
        ("RTX 4090", (8, 9), 128, 2520, Format.FP8, 660.6),
        ("L40S", (8, 9), 142, 2520, Format.INT8, 733),
        ("H100 PCIe", (9, 0), 114, 1620, Format.BF16, 756.5),
        ("H200", (9, 0), 132, 1830, Format.BF16, 989.4),
        ("H200", (9, 0), 132, 1830, Format.FP8, 1979),
        ("H200", (9, 0), 132, 1830, Format.INT8, 1979),
        ("B200", (10, 0), 148, 1850, Format.BF16, 2250),
        ("B200", (10, 0), 148, 1850, Format.FP8, 4500),
        ("Jetson AGX Thor", (11, 0), 20, 1575, Format.FP8, 517),
        ("RTX 5090, fp16 accumulation", (12, 0), 170, 2407, Format.FP16, 419),
        ("RTX 5090", (12, 0), 170, 2407, Format.FP8, 838),
    ],
)
def test_peaks_are_those_that_are_published(
    gpu: str, capability: tuple[int, int], sms: int, clock_mhz: float, format: Format, published_tflops: float
) -> None:
    per_clock = operations_per_clock(capability, format)
    assert per_clock is not None
    assert per_clock * sms * clock_mhz * 1e6 / 1e12 == pytest.approx(published_tflops, rel=0.02), gpu


@pytest.mark.parametrize(
    ("capability", "format"),
    [
        ((6, 1), Format.INT8),
        ((13, 0), Format.FP8),
        ((7, 0), Format.INT8),
        ((7, 5), Format.BF16),
        ((8, 0), Format.FP8),
        ((8, 6), Format.FP8),
        ((10, 3), Format.INT8),
    ],
)
def test_what_a_gpu_lacks_or_nobody_knows_has_no_peak(capability: tuple[int, int], format: Format) -> None:
    assert operations_per_clock(capability, format) is None


def test_the_operations_floor_is_the_published_peak_at_its_clock() -> None:
    floor = least_seconds(problem(SQUARE), H200, clock_mhz=1830.0, cold=False)
    assert floor.operations_s == pytest.approx(2 * 8192**3 / 1979e12, rel=1e-3)
    assert floor.bytes_s is None


def test_without_a_measured_clock_the_highest_counts() -> None:
    measured = least_seconds(problem(SQUARE), H200, clock_mhz=1980.0, cold=False)
    assert least_seconds(problem(SQUARE), H200, clock_mhz=None, cold=False) == measured


@pytest.mark.parametrize(
    ("what", "expected"),
    [
        (problem(SMALL), 16 * 4096 + 4096 * 4096 + 8),
        (problem(SMALL, FP8, "channel-w-token-a"), 16 * 4096 + 4096 * 4096 + 4 * 4096 + 4 * 16),
        (problem(SMALL, FP8, "tensor-w-token-a", "dynamic"), 2 * 16 * 4096 + 4096 * 4096 + 4),
        (problem(SMALL, INT8, None, "static"), 2 * 16 * 4096 + 4096 * 4096 + 8),
        (problem(SMALL, BASELINE), 2 * (16 * 4096 + 4096 * 4096)),
    ],
)
def test_the_bytes_floor_counts_inputs_alone(what: Problem, expected: int) -> None:
    floor = least_seconds(what, H200, clock_mhz=None, cold=True)
    assert floor.bytes_s == pytest.approx(expected / 4.917e12, rel=1e-12)


def test_too_many_operations_are_implausible_beyond_the_margin() -> None:
    what, clock = problem(SQUARE), 1500.0
    least = least_seconds(what, H200, clock_mhz=clock, cold=True).operations_s
    assert least is not None
    inside, beyond = least * (1 - 0.99 * OPERATIONS_MARGIN), least * (1 - 1.01 * OPERATIONS_MARGIN)
    assert why_implausible(what, inside, H200, clock_mhz=clock, cold=True) is None
    assert why_implausible(what, beyond, H200, clock_mhz=clock, cold=True) == (
        "657.3 us a launch: 1.1e+12 operations take at least 677.9 us on 132 SMs at 1500 MHz"
    )
    assert why_implausible(what, beyond, H200, clock_mhz=1980.0, cold=True) is None


def test_the_line_says_when_the_clock_is_not_a_measured_one() -> None:
    reason = why_implausible(problem(SQUARE), 1e-4, H200, clock_mhz=None, cold=True)
    assert reason is not None and reason.endswith("on 132 SMs at 1980 MHz, the highest clock")


def test_too_many_bytes_are_implausible_beyond_the_margin_and_only_cold() -> None:
    what = problem(SMALL)
    least = least_seconds(what, H200, clock_mhz=1980.0, cold=True).bytes_s
    assert least is not None
    inside, beyond = least * (1 - 0.99 * BYTES_MARGIN), least * (1 - 1.01 * BYTES_MARGIN)
    assert why_implausible(what, inside, H200, clock_mhz=1980.0, cold=True) is None
    assert why_implausible(what, beyond, H200, clock_mhz=1980.0, cold=True) == (
        "3.218 us a launch: 1.684e+07 bytes of inputs take at least 3.425 us from memory at 4.917 TB/s"
    )
    assert why_implausible(what, beyond, H200, clock_mhz=1980.0, cold=False) is None


def test_the_larger_floor_is_the_one_that_is_named() -> None:
    for what, of in ((problem(SQUARE), "operations"), (problem(SMALL), "bytes of inputs")):
        reason = why_implausible(what, 1e-9, H200, clock_mhz=1800.0, cold=True)
        assert reason is not None and f" {of} take at least " in reason


@pytest.mark.parametrize(
    "device",
    [
        CPU,
        replace(H200, capability=(13, 0), memory_bandwidth=None),
        replace(H200, max_sm_clock_mhz=None, memory_bandwidth=None),
        replace(H200, sm_count=None, memory_bandwidth=None),
    ],
)
def test_where_nothing_is_known_nothing_is_implausible(device: Device) -> None:
    floor = least_seconds(problem(SQUARE), device, clock_mhz=None, cold=True)
    assert (floor.operations_s, floor.bytes_s) == (None, None)
    assert why_implausible(problem(SQUARE), 1e-12, device, clock_mhz=None, cold=True) is None


def test_one_floor_serves_where_the_other_is_unknown() -> None:
    strange = replace(H200, capability=(13, 0))
    assert why_implausible(problem(SQUARE), 1e-9, strange, clock_mhz=1800.0, cold=True) is not None
    assert why_implausible(problem(SQUARE), 1e-9, strange, clock_mhz=1800.0, cold=False) is None
    without_nvml = replace(H200, max_sm_clock_mhz=None, memory_bandwidth=None)
    assert why_implausible(problem(SQUARE), 1e-9, without_nvml, clock_mhz=1800.0, cold=True) is not None


def test_the_times_that_were_measured_are_plausible() -> None:
    """Of an H200: the fastest GEMM at m = 16, and a kernel that reads the weights alone."""
    assert why_implausible(problem(SMALL), 6.9e-6, H200, clock_mhz=1980.0, cold=True) is None
    weights = GemmShape(m=1, n=14336, k=8192)
    assert why_implausible(problem(weights), 27.6e-6, H200, clock_mhz=1980.0, cold=True) is None


@pytest.mark.parametrize(
    "capability", [(7, 5), (8, 0), (8, 6), (8, 7), (8, 9), (9, 0), (10, 0), (10, 1), (10, 3), (11, 0), (12, 0), (12, 1)]
)
def test_half_the_bits_are_twice_the_rate(capability: tuple[int, int]) -> None:
    rates = {format: operations_per_clock(capability, format) for format in Format}
    of_16_bits = rates[Format.FP16]
    assert of_16_bits is not None
    assert rates[Format.BF16] in (of_16_bits, None)
    assert {rates[Format.INT8], rates[Format.FP8]} - {None} == {2 * of_16_bits}

"""How near a time comes to what its device allows: percent of the peak, and of a kernel that only reads."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import msgspec
import pytest
from copies import replace
from made_devices import CPU, H200
from made_results import record

from w8a8_bench.analysis.roofline import Roofline, read_floor, roofline
from w8a8_bench.environment.device import Device
from w8a8_bench.kernel import Status
from w8a8_bench.problem import GemmShape
from w8a8_bench.problem.kernel_name import BASELINE
from w8a8_bench.report.table import render
from w8a8_bench.results import json_lines

ROOT = Path(__file__).resolve().parents[3]
FP8 = "pytorch_fp8_fp8_bf16_scaled_mm"
NAMED = replace(H200, name="NVIDIA H200", memory_bandwidth=4.8e12)
SQUARE = GemmShape(m=8192, n=8192, k=8192)


def timed(kernel=FP8, *, shape=SQUARE, seconds=1e-3, measure="time_cold_l2", mhz=1500.0, **changes):
    clocks = {measure: (mhz,) * 6} if mhz else {}
    return record(kernel, shape=shape, samples={measure: (seconds,) * 6}, clock_mhz=clocks, **changes)


def inputs(n_bytes: float):
    """A problem whose inputs are very nearly `n_bytes`."""
    return timed(shape=GemmShape(m=1, n=round(n_bytes / 4096) - 1, k=4096)).problem


@pytest.mark.parametrize(
    ("megabytes", "microseconds"),
    [(8.4, 3.75), (16.8, 5.54), (25.2, 7.37), (58.7, 15.2), (67.1, 17.0), (117.4, 27.6), (4.2, 2.275), (62.9, 16.1)],
)
def test_the_read_only_floor_of_an_h200_goes_through_what_was_measured(megabytes, microseconds) -> None:
    assert read_floor(inputs(megabytes * 1e6), NAMED) == pytest.approx(microseconds * 1e-6, rel=2e-3)


def test_beyond_the_largest_that_was_measured_the_floor_goes_on_at_the_nominal_bandwidth() -> None:
    assert read_floor(inputs(117.4e6 + 480e6), NAMED) == pytest.approx(27.6e-6 + 100e-6, rel=1e-3)


def test_other_gpus_have_bytes_over_nominal_bandwidth() -> None:
    problem = inputs(48e6)
    floor = read_floor(problem, replace(NAMED, name="NVIDIA H100 80GB HBM3"))
    assert floor == pytest.approx(10e-6, rel=1e-3)
    assert read_floor(problem, replace(NAMED, memory_bandwidth=None)) is None
    assert read_floor(problem, CPU) is None


def test_percent_of_peak_is_of_the_clock_that_was_measured_and_of_the_format() -> None:
    at_peak_s = 2 * 8192**3 / (8192 * 132 * 1500e6)
    assert roofline(timed(seconds=2 * at_peak_s), "time_cold_l2", NAMED).of_peak == pytest.approx(50)
    assert roofline(timed(seconds=2 * at_peak_s, mhz=3000.0), "time_cold_l2", NAMED).of_peak == pytest.approx(25)
    bf16 = timed(BASELINE, seconds=2 * at_peak_s)
    assert roofline(bf16, "time_cold_l2", NAMED).of_peak == pytest.approx(100)
    assert roofline(timed(mhz=None), "time_cold_l2", NAMED).of_peak is None


def test_percent_of_reads_is_of_cold_times_alone() -> None:
    shape = GemmShape(m=1, n=4096, k=4096)
    cold = roofline(timed(shape=shape, seconds=11.08e-6), "time_cold_l2", NAMED)
    assert cold.of_reads == pytest.approx(50, rel=2e-3)
    hot = roofline(timed(shape=shape, seconds=11.08e-6, measure="time_hot_l2"), "time_hot_l2", NAMED)
    assert hot.of_reads is None and hot.of_peak is not None


@pytest.mark.parametrize(
    ("of_peak", "of_reads", "limit"),
    [
        (80.0, 20.0, (80.0, "compute")),
        (5.0, 78.0, (78.0, "memory")),
        (None, 3.0, (3.0, "memory")),
        (3.0, None, (3.0, "compute")),
        (None, None, None),
    ],
)
def test_the_nearer_limit_is_the_one_that_holds(of_peak, of_reads, limit) -> None:
    assert Roofline(of_peak=of_peak, of_reads=of_reads).limit == limit


def test_what_was_not_timed_has_no_percentage() -> None:
    unknown = Roofline(of_peak=None, of_reads=None)
    assert roofline(timed(status=Status.IMPLAUSIBLE), "time_cold_l2", NAMED) == unknown
    assert roofline(timed(), "time_host", NAMED) == unknown
    assert roofline(timed(), "time_cold_l2", CPU) == unknown


def test_the_table_shows_the_nearer_limit_where_one_is_known() -> None:
    memory = timed(BASELINE, shape=GemmShape(m=1, n=4096, k=2048), seconds=11.08e-6)
    compute, refused = timed(seconds=2e-3), timed(status=Status.FAILED)
    lines = render([memory, compute, refused], device=NAMED).splitlines()
    assert [line.split()[-5:-3] for line in lines if "1.7e-03  ok" in line] == [["50%", "m"], ["34%", "c"]]
    assert all("limit" in line for line in lines if line.startswith("kernel"))
    assert render([memory], device=CPU) == render([memory])
    assert "limit" not in render([memory])


def test_no_committed_time_is_beyond_its_limit() -> None:
    for name in ("model_fp8_llama2_7b", "llama2_7b_28_shapes_run1", "llama2_7b_28_shapes_run2"):
        results = json_lines.read(ROOT / f"results/h200/{name}.jsonl.gz")
        device = msgspec.convert(results.headers[0].device, Device)
        limits = [roofline(one, m, device).limit for one in results.records for m in one.samples]
        assert max(percent for percent, _ in filter(None, limits)) < 95
        assert {of for _, of in filter(None, limits)} >= {"memory"}


def test_the_roofline_in_committed_records_is_what_is_worked_out_of_their_samples() -> None:
    path = ROOT / "results/h200/llama2_7b_28_shapes_run3.jsonl.gz"
    results = json_lines.read(path)
    device = msgspec.convert(results.headers[0].device, Device)
    with gzip.open(path) as lines:
        written = [line["roofline"]["time_cold_l2"] for line in map(json.loads, lines) if line["kind"] == "cell"]
    assert len(results.records) == len(written) == 280
    for one, kept in zip(results.records, written, strict=True):
        expected = roofline(one, "time_cold_l2", device)
        assert kept["of_peak"] == pytest.approx(expected.of_peak)
        assert kept["of_reads"] == pytest.approx(expected.of_reads)

"""What stands side by side in a report, and what is kept apart; where a shape stands in a plot."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from copies import replace
from made_devices import H200
from made_results import HEADER, end, in_file, record

from w8a8_bench.problem import GemmShape
from w8a8_bench.report.comparable_runs import make_sets, read_device
from w8a8_bench.report.curves import place
from w8a8_bench.results.json_lines import Results
from w8a8_bench.results.measured_comparison import MeasuredComparison

BF16, FP8 = "pytorch_bf16_bf16_bf16_matmul-no-scales", "pytorch_fp8_fp8_bf16_scaled_mm"
FACTS = {**msgspec.to_builtins(H200), "name": "NVIDIA H200", "uuid": "GPU-11111111-2222"}
ON_GPU = replace(HEADER, device=FACTS, settings={"data": "normal", "timer": "graph", "duty": 0.5})


def results(name: str, *kernels: str, header=ON_GPU, **changes) -> Results:
    """One comparison of `kernels`."""
    records = tuple(record(kernel, 1e-5, **changes) for kernel in kernels)
    return in_file(records, [end(records)], header, path=f"runs/{name}.jsonl")


def kernels(one) -> list[list[str]]:
    return [[r.kernel for r in comparison.records] for comparison in one.comparisons]


def test_files_of_one_device_and_environment_are_one_set() -> None:
    (one,) = make_sets([results("a", BF16), results("b", FP8)])
    assert kernels(one) == [[BF16], [FP8]]
    assert one.files == ("a.jsonl", "b.jsonl")
    assert one.device_name == "NVIDIA H200"


def test_comparisons_of_several_files_are_numbered_through() -> None:
    (one,) = make_sets([results("a", BF16), results("b", FP8)])
    assert [comparison.end.index for comparison in one.comparisons] == [0, 1]
    assert [r.comparison for r in one.records] == [0, 1]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"device": {**FACTS, "uuid": "GPU-33333333-4444"}}, "GPU-33333333"),
        ({"device": {**FACTS, "name": "NVIDIA H100"}}, "NVIDIA H100"),
        ({"settings": {**ON_GPU.settings, "data": "zeros"}}, "data zeros"),
        ({"settings": {**ON_GPU.settings, "duty": 1.0}}, "duty 1.0"),
        ({"environment": {**HEADER.environment, "torch": "2.10.0"}}, "torch 2.10.0"),
    ],
)
def test_other_gpus_data_and_software_are_kept_apart_and_labels_say_which(change, told) -> None:
    one, other = make_sets([results("a", BF16), results("b", FP8, header=replace(ON_GPU, **change))])
    assert (kernels(one), kernels(other)) == ([[BF16]], [[FP8]])
    assert told in other.label
    assert told not in one.label


def test_what_changes_from_run_to_run_on_one_gpu_keeps_nothing_apart() -> None:
    again = replace(ON_GPU, device={**FACTS, "available_bytes": 5}, time="2026-11-02T00:00:00+00:00", resumed=False)
    assert len(make_sets([results("a", BF16), results("b", FP8, header=again)])) == 1


def test_gpus_of_one_name_are_pooled_on_request() -> None:
    other = replace(ON_GPU, device={**FACTS, "uuid": "GPU-33333333-4444"})
    (one,) = make_sets([results("a", BF16), results("b", FP8, header=other)], pool_gpus=True)
    assert [facts["uuid"] for facts in one.devices] == ["GPU-11111111-2222", "GPU-33333333-4444"]
    h100 = replace(ON_GPU, device={**FACTS, "name": "NVIDIA H100"})
    assert len(make_sets([results("a", BF16), results("b", FP8, header=h100)], pool_gpus=True)) == 2


def test_a_cell_that_is_measured_again_begins_another_set() -> None:
    sets = make_sets([results("a", BF16, FP8), results("b", FP8), results("c", FP8, labels={"layer": "other"})])
    assert [one.files for one in sets] == [("a.jsonl", "c.jsonl"), ("b.jsonl",)]


def test_a_run_over_several_gpus_is_parted_by_the_device_of_its_records() -> None:
    second = {**FACTS, "uuid": "GPU-33333333-4444"}
    header = replace(ON_GPU, devices=(FACTS, second))
    parts = [
        (record(FP8, 1e-5, comparison=index, device=uuid, shape=GemmShape(m=m, n=64, k=32)),)
        for index, (uuid, m) in enumerate([("GPU-11111111-2222", 1), ("GPU-33333333-4444", 2)])
    ]
    both = in_file([*parts[0], *parts[1]], [*map(end, parts)], header)
    one, other = make_sets([both])
    assert [r.problem.shape.m for r in one.records] == [1]
    assert [r.problem.shape.m for r in other.records] == [2]
    assert other.devices == (second,)
    assert len(make_sets([both], pool_gpus=True)) == 1


def test_a_run_that_was_resumed_on_another_gpu_is_parted_by_its_headers() -> None:
    other = replace(ON_GPU, device={**FACTS, "uuid": "GPU-33333333-4444"}, resumed=True)
    parts = [(record(FP8, 1e-5, comparison=i, shape=GemmShape(m=i + 1, n=64, k=32)),) for i in range(2)]
    runs = zip(parts, (ON_GPU, other), strict=True)
    comparisons = tuple(MeasuredComparison(records, end(records), run) for records, run in runs)
    both = Results((ON_GPU, other), comparisons, (), Path("a.jsonl"))
    assert [[r.problem.shape.m for r in one.records] for one in make_sets([both])] == [[1], [2]]


def test_a_header_without_the_facts_of_a_device_has_none() -> None:
    assert read_device({"kind": "cuda"}) is None
    for name, wrong in (
        ("sm_count", "132"),
        ("memory_bandwidth", ["x"]),
        ("memory_bandwidth", 10**400),
        ("capability", [[], 0]),
        ("max_sm_clock_mhz", True),
        ("name", 5),
    ):
        assert read_device({**msgspec.to_builtins(H200), name: wrong}) is None, f"{name} {wrong!r:.20}"
    assert read_device({**msgspec.to_builtins(H200), "later": 1}) == H200


def placed(*shapes: tuple[int, int, int], labels=None) -> list[tuple[str, str, int]]:
    """Title, axis and size of each shape (m, n, k)."""
    labels = labels or [{}] * len(shapes)
    ends = [
        replace(end([record(FP8, shape=GemmShape(m=m, n=n, k=k))]), labels=label)
        for (m, n, k), label in zip(shapes, labels, strict=True)
    ]
    layers, places = place(ends)
    return [(layers[one.layer].title, layers[one.layer].axis, one.x) for one in places]


def test_shapes_of_one_n_and_k_are_a_layer_over_m() -> None:
    assert placed((1, 8, 4), (2, 8, 4), (1, 4, 8)) == [
        ("n=8 k=4", "m", 1),
        ("n=8 k=4", "m", 2),
        ("n=4 k=8", "m", 1),
    ]


def test_squares_are_one_curve() -> None:
    assert placed((64, 64, 64), (128, 128, 128)) == [
        ("m = n = k", "m = n = k", 64),
        ("m = n = k", "m = n = k", 128),
    ]


def test_a_range_with_constant_sizes_is_one_curve_over_what_varies() -> None:
    assert placed((16, 8, 8), (16, 9, 9)) == [("m=16", "n = k", 8), ("m=16", "n = k", 9)]
    assert placed((16, 8, 5), (16, 9, 5)) == [("m=16 k=5", "n", 8), ("m=16 k=5", "n", 9)]


def test_squares_beside_a_layer_of_a_model_are_apart() -> None:
    labels = [{}, {}, {"model": "m", "layer": "o_proj", "tp": 1}]
    assert placed((64, 64, 64), (128, 128, 128), (16, 64, 32), labels=labels)[1:] == [
        ("m = n = k", "m = n = k", 128),
        ("o_proj n=64 k=32", "m", 16),
    ]


def test_shapes_without_any_order_stand_alone() -> None:
    assert placed((1, 2, 3), (4, 5, 7)) == [("n=2 k=3", "m", 1), ("n=5 k=7", "m", 4)]


def test_layers_of_other_tp_and_labels_are_told_apart() -> None:
    one, two = {"layer": "o_proj", "tp": 1}, {"layer": "o_proj", "tp": 2}
    assert placed((1, 8, 4), (1, 8, 4), labels=[one, two]) == [
        ("o_proj TP1 n=8 k=4", "m", 1),
        ("o_proj TP2 n=8 k=4", "m", 1),
    ]
    assert placed((1, 8, 4), labels=[{**one, "note": "x"}]) == [("o_proj note=x n=8 k=4", "m", 1)]

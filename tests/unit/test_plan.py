"""From arguments to cells: which kernel gets which schemes, and which rows must not vanish."""

from __future__ import annotations

import pytest

from w8a8_bench.cli import main, sweep
from w8a8_bench.comparison import Comparison, LabelledShape
from w8a8_bench.formats import Format
from w8a8_bench.problem import BLOCKWISE, PER_TENSOR, SCHEMES, Activations, GemmShape
from w8a8_bench.providers import registry
from w8a8_bench.shapes.batch_sizes import CLIFF_SIZES
from w8a8_bench.sweep.plan import digest, make_plan

SHAPES = [LabelledShape(GemmShape(m=1, n=2, k=3)), LabelledShape(GemmShape(m=4, n=5, k=6), {"layer": "o_proj"})]
BASELINE = "pytorch_bf16_bf16_bf16_matmul-no-scales"
BLOCKED = "pytorch_fp8_fp8_bf16_scaled_mm_blockwise"
PLAIN = "pytorch_fp8_fp8_bf16_scaled_mm"


def test_default_schemes_follow_the_name():
    (first, second) = make_plan(SHAPES, [BASELINE, PLAIN, BLOCKED], [Format.FP8])
    assert [cell.problem.scaling for cell in first.cells] == [None, PER_TENSOR, BLOCKWISE]
    assert (first.index, second.index, second.where.labels) == (0, 1, {"layer": "o_proj"})


def test_schemes_asked_for_apply_to_the_kernels_that_have_them():
    (first, _) = make_plan(SHAPES, [BASELINE, PLAIN, BLOCKED], [Format.FP8], schemes=SCHEMES)
    of = {name: [c.problem.scaling for c in first.cells if c.kernel == name] for name in (BASELINE, PLAIN, BLOCKED)}
    assert of == {BASELINE: [None], PLAIN: list(SCHEMES[:4]), BLOCKED: [BLOCKWISE]}


def test_a_kernel_without_the_scheme_keeps_a_row():
    (first, _) = make_plan(SHAPES, [BLOCKED], [Format.FP8], schemes=[PER_TENSOR])
    assert [cell.problem.scaling for cell in first.cells] == [PER_TENSOR]


def test_the_baseline_is_one_cell_whatever_is_asked_for():
    kinds = list(Activations)
    (first, _) = make_plan(SHAPES, [BASELINE], [Format.INT8, Format.FP8], schemes=SCHEMES, activations=kinds)
    assert len(first.cells) == 1


def test_a_comparison_survives_the_way_to_the_worker():
    for comparison in make_plan(SHAPES, registry.names(list(Format)), [Format.INT8, Format.FP8], schemes=SCHEMES):
        assert Comparison.from_json(comparison.to_json()) == comparison


def test_another_plan_has_another_digest():
    plan = make_plan(SHAPES, [PLAIN], [Format.FP8])
    assert digest(plan) == digest(make_plan(SHAPES, [PLAIN], [Format.FP8]))
    assert digest(plan) != digest(make_plan(SHAPES, [PLAIN], [Format.FP8], schemes=[SCHEMES[1]]))
    assert digest(plan) != digest(make_plan(SHAPES[:1], [PLAIN], [Format.FP8]))


def test_original_names_are_all_known():
    int8, fp8 = registry.names([Format.INT8]), registry.names([Format.FP8])
    assert {
        "cutlass_i8_i8_bf16_scaled_mm" + s for s in ("", "_bias", "_azp", "_azp_bias", "_azp_pt", "_azp_pt_bias")
    } <= {*int8}
    original = [
        *(f"pytorch_fp8_fp8_{out}_scaled_mm{fast}" for out in ("fp16", "bf16") for fast in ("", "_fast_accum")),
        *(f"cutlass_fp8_fp8_{out}_scaled_mm{bias}" for out in ("fp16", "bf16") for bias in ("", "_bias")),
        "triton_fp8_fp8_fp16_scaled_mm_blockwise",
        "cutlass_fp8_fp8_fp16_scaled_mm_blockwise",
    ]
    assert set(original) <= set(fp8)
    for names in (int8, fp8):
        assert names[:2] == (BASELINE, "pytorch_fp16_fp16_fp16_matmul-no-scales")


def test_every_name_says_its_provider():
    for provider in registry.PROVIDERS:
        assert all(name.startswith(provider.name + "_") for name in provider.kernels + provider.on_request)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("pytorch_fp8_fp8_bf16_scaledmm", "pytorch_fp8_fp8_bf16_scaled_mm"),
        ("pytorch_i8_i8_bf16_scaled_mm", "--dtype int8"),
        ("zzz", "list kernels"),
    ],
)
def test_an_unknown_kernel_is_refused_with_the_nearest_names(name, says):
    with pytest.raises(ValueError, match="kernel") as caught:
        registry.select([name], [Format.FP8])
    assert says in str(caught.value)


def test_the_command_line_takes_cliffs_among_numbers_and_says_what_tp_leaves_out(capsys):
    def shapes(*words):
        args = main._parser("w8a8-bench").parse_args(["model_bench", "--dtype", "int8", *words])
        return [comparison.shape for comparison in sweep._plan(args).comparisons]

    named = shapes("--models", "meta-llama/Llama-2-7b-hf", "--batch-sizes", "cliffs", "20000")
    assert list(dict.fromkeys(shape.m for shape in named)) == [*CLIFF_SIZES, 20000]
    assert capsys.readouterr().err == ""
    assert len(shapes("--tp-sizes", "8", "--batch-sizes", "1")) == 58  # 12 models of 4 layers and one of 10
    assert capsys.readouterr().err.startswith(
        "left out: TP 8 does not divide the 28 attention heads of qkv_proj in Qwen"
    )

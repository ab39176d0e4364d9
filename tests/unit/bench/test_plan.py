"""From arguments to cells: which kernel gets which schemes, and which rows must not vanish."""

from __future__ import annotations

import json
from collections import Counter

import msgspec
import pytest

from w8a8_bench.bench.plan import digest, make_plan
from w8a8_bench.cli import main
from w8a8_bench.cli.sweep_request import make_request
from w8a8_bench.problem import BLOCKWISE, PER_TENSOR, SCHEMES, Activations, ActScale, GemmShape
from w8a8_bench.problem.comparison import Comparison, LabelledShape
from w8a8_bench.problem.formats import Format
from w8a8_bench.providers import registry
from w8a8_bench.shapes.batch_sizes import CLIFF_SIZES

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


def cells_of(kernel: str, **asked) -> list[tuple]:
    (first, _) = make_plan(SHAPES, [kernel], [Format.INT8, Format.FP8], **asked)
    return [(cell.problem.scaling, cell.problem.activations) for cell in first.cells]


PREQUANTIZED, DYNAMIC, STATIC = Activations
TENSOR_TOKEN = SCHEMES[1]


def test_quantizing_inside_brings_the_prequantized_twin_that_its_cost_is_over():
    assert cells_of(PLAIN, activations=[DYNAMIC]) == [(PER_TENSOR, PREQUANTIZED), (PER_TENSOR, DYNAMIC)]
    both = [(PER_TENSOR, PREQUANTIZED), (PER_TENSOR, DYNAMIC), (PER_TENSOR, STATIC)]
    assert cells_of(PLAIN, activations=[DYNAMIC, STATIC, PREQUANTIZED]) == both, "and no cell comes twice"
    per_token = [(TENSOR_TOKEN, PREQUANTIZED), (TENSOR_TOKEN, DYNAMIC)]
    assert cells_of(PLAIN, schemes=[TENSOR_TOKEN], activations=[DYNAMIC]) == per_token


def test_a_refusal_brings_no_twin():
    azp = "pytorch_i8_i8_bf16_scaled_mm_azp"
    assert cells_of(azp, activations=[DYNAMIC]) == [(PER_TENSOR, DYNAMIC)]


def test_a_combination_without_meaning_is_a_cell_where_it_was_named_and_none_in_a_grid():
    named = cells_of(PLAIN, schemes=[TENSOR_TOKEN], activations=[PREQUANTIZED, STATIC])
    assert (TENSOR_TOKEN, STATIC) in named
    grid = cells_of(PLAIN, schemes=SCHEMES, activations=[PREQUANTIZED, STATIC], legal_only=True)
    assert grid == [
        (scheme, kind) for scheme in SCHEMES[:4] for kind in (PREQUANTIZED, STATIC)
        if kind is PREQUANTIZED or scheme.activation is ActScale.TENSOR
    ]  # fmt: skip


def test_a_kernel_without_a_legal_combination_keeps_one_cell_in_a_grid():
    assert cells_of(BLOCKED, schemes=SCHEMES, activations=[STATIC], legal_only=True) == [(BLOCKWISE, STATIC)]
    azp_pt = "pytorch_i8_i8_bf16_scaled_mm_azp_pt"
    assert cells_of(azp_pt, schemes=SCHEMES, activations=[STATIC], legal_only=True) == [(PER_TENSOR, STATIC)]


def test_the_grid_is_every_legal_combination_of_the_design_once():
    kernels = [name for name in registry.names([Format.INT8, Format.FP8]) if name.startswith("pytorch")]
    (first, _) = make_plan(
        SHAPES, kernels, [Format.INT8, Format.FP8], schemes=SCHEMES, activations=list(Activations), legal_only=True
    )
    assert not [cell for cell in first.cells if cell.problem.why_illegal()]
    assert len(set(first.cells)) == len(first.cells)
    counts = Counter(cell.kernel.removeprefix("pytorch_") for cell in first.cells)
    # Four schemes prequantized, four dynamic, and static in the two whose activations have one scale;
    # a zero point per tensor lives in those two alone, and is static; one per token is dynamic with scales per token.
    plain, azp, azp_pt = 4 + 4 + 2, 2 + 0 + 2, 4 + 2 + 0
    assert counts == {
        "bf16_bf16_bf16_matmul-no-scales": 1,
        "fp16_fp16_fp16_matmul-no-scales": 1,
        **{f"i8_i8_bf16_scaled_mm{suffix}": plain for suffix in ("", "_bias")},
        **{f"i8_i8_bf16_scaled_mm{suffix}": azp for suffix in ("_azp", "_azp_bias")},
        **{f"i8_i8_bf16_scaled_mm{suffix}": azp_pt for suffix in ("_azp_pt", "_azp_pt_bias")},
        **{f"fp8_fp8_{out}_scaled_mm{fast}": plain for out in ("fp16", "bf16") for fast in ("", "_fast_accum")},
        "fp8_fp8_bf16_scaled_mm_blockwise": 2,
    }


def test_a_comparison_survives_the_way_to_the_worker():
    for comparison in make_plan(SHAPES, registry.names(list(Format)), [Format.INT8, Format.FP8], schemes=SCHEMES):
        assert msgspec.convert(json.loads(json.dumps(msgspec.to_builtins(comparison))), Comparison) == comparison


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
        return [comparison.shape for comparison in make_request(args).plan.comparisons]

    named = shapes("--models", "meta-llama/Llama-2-7b-hf", "--batch-sizes", "cliffs", "20000")
    assert list(dict.fromkeys(shape.m for shape in named)) == [*CLIFF_SIZES, 20000]
    assert capsys.readouterr().err == ""
    assert (
        len(shapes("--tp-sizes", "8", "--batch-sizes", "1")) == 115
    )  # 18 models of 4 layers, and of 10, 11, 8, 6 and 8
    assert capsys.readouterr().err.startswith(
        "left out: TP 8 does not divide the 28 attention heads of qkv_proj in Qwen"
    )

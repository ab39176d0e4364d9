"""Kernel names: the original's are understood, and others are refused."""

from __future__ import annotations

import pytest
from copies import replace

from w8a8_bench.problem import BLOCKWISE, PER_TENSOR, Activations, Azp, GemmShape, Scaling
from w8a8_bench.problem.formats import Format
from w8a8_bench.problem.kernel_name import KernelName, cell_text, name_of

SHAPE = GemmShape(m=1, n=2, k=3)
BF16 = "pytorch_bf16_bf16_bf16_matmul-no-scales"
ORIGINAL = {
    BF16: (Format.BF16, Format.BF16, None, Azp.NONE, False),
    "pytorch_fp16_fp16_fp16_matmul-no-scales": (Format.FP16, Format.FP16, None, Azp.NONE, False),
    "cutlass_i8_i8_bf16_scaled_mm": (Format.INT8, Format.BF16, PER_TENSOR, Azp.NONE, False),
    "cutlass_i8_i8_bf16_scaled_mm_bias": (Format.INT8, Format.BF16, PER_TENSOR, Azp.NONE, True),
    "cutlass_i8_i8_bf16_scaled_mm_azp": (Format.INT8, Format.BF16, PER_TENSOR, Azp.TENSOR, False),
    "cutlass_i8_i8_bf16_scaled_mm_azp_bias": (Format.INT8, Format.BF16, PER_TENSOR, Azp.TENSOR, True),
    "cutlass_i8_i8_bf16_scaled_mm_azp_pt": (Format.INT8, Format.BF16, PER_TENSOR, Azp.TOKEN, False),
    "cutlass_i8_i8_bf16_scaled_mm_azp_pt_bias": (Format.INT8, Format.BF16, PER_TENSOR, Azp.TOKEN, True),
    "pytorch_fp8_fp8_fp16_scaled_mm": (Format.FP8, Format.FP16, PER_TENSOR, Azp.NONE, False),
    "pytorch_fp8_fp8_fp16_scaled_mm_fast_accum": (Format.FP8, Format.FP16, PER_TENSOR, Azp.NONE, False),
    "pytorch_fp8_fp8_bf16_scaled_mm": (Format.FP8, Format.BF16, PER_TENSOR, Azp.NONE, False),
    "pytorch_fp8_fp8_bf16_scaled_mm_fast_accum": (Format.FP8, Format.BF16, PER_TENSOR, Azp.NONE, False),
    "cutlass_fp8_fp8_bf16_scaled_mm": (Format.FP8, Format.BF16, PER_TENSOR, Azp.NONE, False),
    "cutlass_fp8_fp8_bf16_scaled_mm_bias": (Format.FP8, Format.BF16, PER_TENSOR, Azp.NONE, True),
    "cutlass_fp8_fp8_fp16_scaled_mm": (Format.FP8, Format.FP16, PER_TENSOR, Azp.NONE, False),
    "cutlass_fp8_fp8_fp16_scaled_mm_bias": (Format.FP8, Format.FP16, PER_TENSOR, Azp.NONE, True),
    "triton_fp8_fp8_fp16_scaled_mm_blockwise": (Format.FP8, Format.FP16, BLOCKWISE, Azp.NONE, False),
    "cutlass_fp8_fp8_fp16_scaled_mm_blockwise": (Format.FP8, Format.FP16, BLOCKWISE, Azp.NONE, False),
}


@pytest.mark.parametrize("text", ORIGINAL)
def test_every_original_name_stands_for_a_legal_problem(text: str) -> None:
    name = KernelName.parse(text)
    problem = name.problem(SHAPE, name.format, name.default_scheme)
    assert problem.why_illegal() is None
    assert (problem.format, problem.out, problem.scaling, problem.azp, problem.bias) == ORIGINAL[text]
    assert cell_text(name.text, problem) == text


@pytest.mark.parametrize("text", [text for text in ORIGINAL if "scaled_mm" in text])
def test_a_name_is_made_of_the_problem_that_it_stands_for(text: str) -> None:
    name = KernelName.parse(text)
    problem = name.problem(SHAPE, name.format, name.default_scheme)
    assert name_of(name.provider, problem, fast_accum=name.variant == "fast_accum") == text


@pytest.mark.parametrize(
    "suffix", ["i8_i8_bf16_scaled_mm", "fp8_fp8_bf16_scaled_mm_bias", "fp8_fp8_bf16_scaled_mm_blockwise"]
)
def test_a_name_that_can_not_say_fast_accum_is_refused(suffix: str) -> None:
    name = KernelName.parse(f"cutlass_{suffix}")
    problem = name.problem(SHAPE, name.format, name.default_scheme)
    with pytest.raises(ValueError, match="expected an fp8 problem without bias, whose scales are not blockwise"):
        name_of("mine", problem, fast_accum=True)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "pytorch_i8_i8_bf16_scaled_m",
        "pytorch_i8_fp8_bf16_scaled_mm",
        "pytorch_i8_i8_i8_scaled_mm",
        "pytorch_i8_i8_bf16_scaled_mm_nosuch",
        "pytorch_i8_i8_bf16_scaled_mm_",
        "pytorch_i8_i8_bf16_scaled_mm ",
        "_i8_i8_bf16_scaled_mm",
        "my__lib_i8_i8_bf16_scaled_mm",
        "my-lib_i8_i8_bf16_scaled_mm",
        "my_lib__i8_i8_bf16_scaled_mm",
        "pytorch_i8_i8_bf16_scaled_mm\n",
        "Pytorch_i8_i8_bf16_scaled_mm",
    ],
)
def test_a_name_outside_the_grammar_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="kernel name"):
        KernelName.parse(text)


@pytest.mark.parametrize(
    ("rest", "why"),
    [
        ("fp8_fp8_bf16_scaled_mm_azp", "fp8 takes no zero point"),
        ("fp8_fp8_bf16_scaled_mm_azp_pt_bias", "fp8 takes no zero point"),
        ("i8_i8_bf16_scaled_mm_blockwise", "block-w-group-a is defined for fp8 only, not int8"),
        ("i8_i8_bf16_scaled_mm_fast_accum", "fast accumulation is of fp8 alone"),
        ("i8_i8_bf16_scaled_mm_cast", "variant 'cast' of scaled_mm is unknown: expected one of bias"),
        (
            "i8_i8_bf16_scaled_mm_nosuch",
            "variant 'nosuch' of scaled_mm is unknown: expected one of bias, .*, blockwise, fast_accum$",
        ),
        (
            "bf16_bf16_bf16_matmul-no-scales_nosuch",
            "variant 'nosuch' of matmul-no-scales is unknown: expected one of cast$",
        ),
        (
            "bf16_bf16_bf16_matmul-no-scales_bias",
            "variant 'bias' of matmul-no-scales is unknown: expected one of cast$",
        ),
        ("bf16_bf16_bf16_scaled_mm", "bf16 operands take no scales"),
    ],
)
def test_a_name_of_parts_that_no_problem_has_together_is_refused(rest: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        KernelName.parse(f"acme_{rest}")


@pytest.mark.parametrize("word", ["acme", "my_lib", "x_i8", "i8", "lib_2", "my_scaled_mm"])
@pytest.mark.parametrize(
    "rest", ["i8_i8_bf16_scaled_mm_azp_pt", "fp8_fp8_fp16_scaled_mm", "bf16_bf16_bf16_matmul-no-scales"]
)
def test_a_third_partys_word_may_have_parts_and_leaves_the_rest_as_it_is(word: str, rest: str) -> None:
    name, plain = KernelName.parse(f"{word}_{rest}"), KernelName.parse(f"x_{rest}")
    assert name.provider == word
    assert (name.format, name.out, name.op, name.variant) == (plain.format, plain.out, plain.op, plain.variant)


def test_baselines_serve_every_format_and_others_their_own() -> None:
    assert all(KernelName.parse(BF16).serves(fmt) for fmt in (Format.INT8, Format.FP8))
    int8 = KernelName.parse("cutlass_i8_i8_bf16_scaled_mm")
    assert int8.serves(Format.INT8)
    assert not int8.serves(Format.FP8)


def test_cast_twin_takes_the_runs_operands_and_its_sibling_does_not() -> None:
    assert KernelName.parse(BF16 + "_cast").problem(SHAPE, Format.INT8, None).format is Format.INT8
    assert KernelName.parse(BF16).problem(SHAPE, Format.INT8, None).format is Format.BF16


def test_text_shows_scheme_and_activations_only_where_they_are_not_the_default() -> None:
    name = KernelName.parse("cutlass_i8_i8_bf16_scaled_mm")
    per_token = Scaling.parse("channel-w-token-a")
    for scheme, activations, suffix in (
        (PER_TENSOR, Activations.PREQUANTIZED, ""),
        (per_token, Activations.PREQUANTIZED, "[channel-w-token-a]"),
        (PER_TENSOR, Activations.STATIC, "[static]"),
        (per_token, Activations.DYNAMIC, "[channel-w-token-a,dynamic]"),
    ):
        assert cell_text(name.text, name.problem(SHAPE, Format.INT8, scheme, activations)) == name.text + suffix


def test_a_name_of_another_maker_is_shown_with_its_scheme() -> None:
    problem = KernelName.parse("cutlass_fp8_fp8_bf16_scaled_mm").problem(SHAPE, Format.FP8, PER_TENSOR)
    assert cell_text("<mine>", problem) == "<mine>[tensor-w-tensor-a]"
    assert cell_text("<mine>", replace(problem, scheme=None, format=Format.BF16)) == "<mine>"

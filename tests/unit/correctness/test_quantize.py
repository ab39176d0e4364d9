"""Quantization against values worked out by hand, and against a plain second implementation of the formulas."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch

from w8a8_bench.correctness import quantize as module
from w8a8_bench.correctness.quantize import (
    Quantized,
    apply_static,
    quantize,
    quantize_activations,
    quantize_weights,
    upcast,
)
from w8a8_bench.problem import SCHEMES, Activations, ActScale, Azp, GemmShape, Problem, Scaling, WeightScale
from w8a8_bench.problem.formats import Format

INT8, FP8 = Format.INT8, Format.FP8
TENSOR, TOKEN, GROUP = ActScale.TENSOR, ActScale.TOKEN, ActScale.GROUP


def bf16(*rows: list[float]) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.bfloat16)


def f32(numerator: float, denominator: float) -> float:
    """The IEEE fp32 quotient of two fp32 numbers: the double quotient rounds to it, having more than 2p+2 bits."""
    return float(torch.tensor(numerator / denominator, dtype=torch.float64).float())


def normal(rows: int, columns: int, seed: int = 0, shift: float = 0.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(rows, columns, generator=generator) + shift).to(torch.bfloat16)


def test_int8_codes_are_quotients_rounded_half_to_even() -> None:
    got = quantize(bf16([127.0, 0.5, 1.5, -2.5, -127.0]), INT8, TENSOR, Azp.NONE)
    assert got.scale.tolist() == [[1.0]]
    assert got.q.tolist() == [[127, 0, 2, -2, -127]]
    assert got.azp is None


def test_each_int8_token_has_its_own_scale() -> None:
    got = quantize(bf16([127.0, 1.0], [2.0, -1.0]), INT8, TOKEN, Azp.NONE)
    assert got.scale.tolist() == [[1.0], [f32(2.0, 127.0)]]
    assert got.q.tolist() == [[127, 1], [127, -64]]  # -63.5 goes to even


def test_fp8_codes_use_the_whole_range_of_the_tensor() -> None:
    got = quantize(bf16([448.0, 17.0, -448.0, 0.0]), FP8, TENSOR, Azp.NONE)
    assert got.scale.tolist() == [[1.0]]
    assert got.q.float().tolist() == [[448.0, 16.0, -448.0, 0.0]]  # 17 lies between 16 and 18: even significand


def test_fp8_token_scale_has_its_floor_and_not_the_tensors() -> None:
    got = quantize(bf16([0.0, 0.0], [1e-4, 0.0], [4.0, 2.0]), FP8, TOKEN, Azp.NONE)
    floor = float(torch.tensor(1.0 / (448.0 * 512.0)))
    assert got.scale.flatten().tolist() == [floor, floor, f32(4.0, 448.0)]


def test_fp8_groups_of_128_are_scaled_apart_and_the_last_may_be_short() -> None:
    x = torch.ones(2, 130, dtype=torch.bfloat16)
    x[0, 5], x[0, 129], x[1, 128] = 8.0, 4.0, -2.0
    got = quantize(x, FP8, GROUP, Azp.NONE)
    assert got.scale.tolist() == [[f32(8.0, 448.0), f32(4.0, 448.0)], [f32(1.0, 448.0), f32(2.0, 448.0)]]
    assert float(got.q[0, 5]) == float(got.q[0, 129]) == 448.0
    assert float(got.q[1, 128]) == -448.0


@pytest.mark.parametrize("k", [1, 127, 128, 129, 256, 300])
def test_a_group_that_fills_the_row_keeps_the_group_formula(k: int) -> None:
    got = quantize(torch.zeros(3, k, dtype=torch.bfloat16), FP8, GROUP, Azp.NONE)
    assert got.scale.shape == (3, math.ceil(k / 128))
    assert torch.equal(got.scale, torch.full_like(got.scale, 1e-10) / torch.full_like(got.scale, 448.0))


@pytest.mark.parametrize("fmt", [INT8, FP8])
@pytest.mark.parametrize("activation", list(ActScale))
def test_zeros_quantize_to_zeros_and_never_nan(fmt: Format, activation: ActScale) -> None:
    got = quantize(torch.zeros(3, 130, dtype=torch.bfloat16), fmt, activation, Azp.NONE)
    assert not got.q.float().any()
    assert bool((got.scale > 0).all())
    assert bool(got.scale.isfinite().all())
    q, scale = quantize_weights(torch.zeros(3, 130, dtype=torch.bfloat16), fmt, WeightScale.CHANNEL)
    assert not q.float().any()
    assert bool((scale > 0).all())


@pytest.mark.parametrize("activation", [TENSOR, TOKEN])
def test_zeros_with_a_zero_point_stand_for_zero(activation: ActScale) -> None:
    got = quantize(torch.zeros(2, 4, dtype=torch.bfloat16), INT8, activation, Azp.TOKEN)
    assert got.azp is not None
    assert bool((got.scale == 1.0).all())
    assert not (got.q.int() - got.azp).any()


def test_zero_points_by_hand() -> None:
    # Range -51..204 is 255 wide: scale 1, zero point -128 + 51.
    got = quantize(bf16([-51.0, 204.0, 0.0, 100.0]), INT8, TENSOR, Azp.TENSOR)
    assert got.scale.tolist() == [[1.0]]
    assert got.azp is not None
    assert got.azp.tolist() == [[-77]]
    assert got.azp.dtype == torch.int32
    assert got.q.tolist() == [[-128, 127, -77, 23]]


@pytest.mark.parametrize(("value", "azp", "code"), [(5.0, -128, 127), (-5.0, 127, -128), (1000.0, -128, 127)])
def test_a_constant_row_has_a_zero_point_within_int8(value: float, azp: int, code: int) -> None:
    got = quantize(torch.full((1, 9), value, dtype=torch.bfloat16), INT8, TOKEN, Azp.TOKEN)
    assert got.azp is not None
    assert got.azp.tolist() == [[azp]]
    assert set(got.q.flatten().tolist()) == {code}


def test_a_nearly_constant_row_has_a_zero_point_within_int8() -> None:
    x = torch.full((4, 64), 100.0, dtype=torch.bfloat16)
    x[:, 3] = 100.5
    x[2:] = -x[2:]
    got = quantize(x, INT8, TOKEN, Azp.TOKEN)
    assert got.azp is not None
    assert got.azp.flatten().tolist() == [-128, -128, 127, 127]
    assert float(((got.q.int() - got.azp) * got.scale - x.float()).abs().max()) <= 0.51 * float(got.scale.max())


@pytest.mark.parametrize("magnitude", [1e-40, 1e-38, 1e30])
def test_extreme_ranges_keep_the_zero_point_within_int8(magnitude: float) -> None:
    x = (normal(8, 33, shift=0.5).float() * magnitude).to(torch.bfloat16)
    for activation in (TENSOR, TOKEN):
        got = quantize(x, INT8, activation, Azp.TOKEN)
        assert got.azp is not None
        assert int(got.azp.min()) >= -128
        assert int(got.azp.max()) <= 127
        assert bool(got.scale.isfinite().all())
        assert bool((got.scale > 0).all())


def test_a_zero_point_per_token_may_share_one_scale() -> None:
    got = quantize(bf16([-51.0, 10.0], [5.0, 204.0]), INT8, TENSOR, Azp.TOKEN)
    assert got.scale.tolist() == [[1.0]]
    assert got.azp is not None
    assert got.azp.tolist() == [[-77], [-128]]
    assert got.q.tolist() == [[-128, -67], [-123, 76]]


def test_a_static_scale_that_is_too_small_saturates_int8() -> None:
    scale, azp = torch.tensor([[0.5]]), torch.tensor([[100]], dtype=torch.int32)
    assert apply_static(bf16([64.0, -64.0, 1e30, -1e30]), scale, None, INT8).tolist() == [[127, -128, 127, -128]]
    assert apply_static(bf16([20.0, -1.0, -128.0, 0.0]), scale, azp, INT8).tolist() == [[127, 98, -128, 100]]


def test_a_static_scale_that_is_too_small_clamps_fp8_to_448_and_never_nan() -> None:
    q = apply_static(bf16([500.0, -1e30, 460.0]), torch.tensor([[1.0]]), None, FP8)
    assert q.float().tolist() == [[448.0, -448.0, 448.0]]


@pytest.mark.parametrize(("n", "k"), [(1, 1), (128, 128), (130, 257), (300, 100)])
def test_weight_blocks_are_scaled_by_their_own_largest_value(n: int, k: int) -> None:
    w = normal(n, k)
    q, scale = quantize_weights(w, FP8, WeightScale.BLOCK)
    assert scale.shape == (math.ceil(k / 128), math.ceil(n / 128))
    assert scale.is_contiguous()
    for kb in range(scale.shape[0]):
        for nb in range(scale.shape[1]):
            rows, columns = slice(nb * 128, nb * 128 + 128), slice(kb * 128, kb * 128 + 128)
            block = w[rows, columns].float()
            assert float(scale[kb, nb]) == f32(float(block.abs().max()), 448.0)
            assert torch.equal(q[rows, columns].float(), (block / scale[kb, nb]).to(torch.float8_e4m3fn).float())


def test_weight_channels_are_rows_of_the_weight_and_columns_of_the_scale() -> None:
    q, scale = quantize_weights(bf16([127.0, 1.0], [254.0, 2.0], [0.0, 0.0]), INT8, WeightScale.CHANNEL)
    assert scale.tolist() == [[1.0, 2.0, 1.0]]
    assert q.tolist() == [[127, 1], [127, 1], [0, 0]]


def exact_int8(x: torch.Tensor, scale: torch.Tensor, azp: torch.Tensor | None) -> list[list[int]]:
    """The formula in exact arithmetic, but for the one rounding of the quotient to fp32."""
    rows = []
    for i in range(x.shape[0]):
        s = float(scale[min(i, scale.shape[0] - 1), 0])
        zero = 0 if azp is None else int(azp[min(i, azp.shape[0] - 1), 0])
        rows.append([max(-128, min(127, round(Fraction(f32(float(v), s))) + zero)) for v in x[i]])
    return rows


@pytest.mark.parametrize("activation", [TENSOR, TOKEN])
@pytest.mark.parametrize("azp", list(Azp))
def test_int8_codes_equal_exact_arithmetic(activation: ActScale, azp: Azp) -> None:
    x = normal(7, 65, seed=3, shift=0.5)
    got = quantize(x, INT8, activation, azp)
    assert got.q.tolist() == exact_int8(x, got.scale, got.azp)
    low, high = (x.amin(1).float().clamp(max=0), x.amax(1).float().clamp(min=0))
    if azp is not Azp.NONE:
        wide = float(high.max() - low.min()) if activation is TENSOR else float(high[0] - low[0])
        assert float(got.scale[0, 0]) == f32(wide, 255.0)


def same(x: Quantized, y: Quantized) -> bool:
    zero_points = (x.azp is None and y.azp is None) or (
        x.azp is not None and y.azp is not None and torch.equal(x.azp, y.azp)
    )
    return zero_points and torch.equal(x.scale, y.scale) and torch.equal(x.q.view(torch.uint8), y.q.view(torch.uint8))


@pytest.mark.parametrize("m", [1, 7, 300])
def test_chunks_do_not_change_a_bit(m: int, monkeypatch: pytest.MonkeyPatch) -> None:
    x = normal(m, 333, seed=1, shift=0.5)
    cases = [(FP8, TENSOR, Azp.NONE), (FP8, TOKEN, Azp.NONE), (FP8, GROUP, Azp.NONE)]
    cases += [(INT8, TENSOR, azp) for azp in Azp] + [(INT8, TOKEN, Azp.NONE), (INT8, TOKEN, Azp.TOKEN)]
    whole = [quantize(x, *case) for case in cases]
    weights = [quantize_weights(x, FP8, weight) for weight in WeightScale]
    monkeypatch.setattr(module, "QUANTIZE_CHUNK", 700)
    for case, expected in zip(cases, whole, strict=True):
        assert same(quantize(x, *case), expected), case
    for weight, (q, scale) in zip(WeightScale, weights, strict=True):
        again, again_scale = quantize_weights(x, FP8, weight)
        assert torch.equal(again_scale, scale)
        assert torch.equal(again.view(torch.uint8), q.view(torch.uint8)), weight


@pytest.mark.parametrize("chunk", [2**24, 48])
@pytest.mark.parametrize("columns", [1, 16, 256])
def test_all_256_codes_of_fp8_are_upcast_exactly(columns: int, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "QUANTIZE_CHUNK", chunk)
    codes = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn).view(-1, columns)
    out = torch.full(codes.shape, 7.0)
    upcast(codes, out)
    right = codes.float()  # PyTorch's own conversion
    assert torch.equal(out.isnan(), right.isnan()) and int(right.isnan().sum()) == 2
    numbers = ~right.isnan()
    assert torch.equal(out[numbers].view(torch.int32), right[numbers].view(torch.int32)), "to the sign of zero"


def test_a_problem_names_its_quantization() -> None:
    x = normal(5, 130, shift=0.5)
    shape = GemmShape(m=5, n=3, k=130)
    scalings: tuple[Scaling | None, ...] = (*SCHEMES, None)
    for scaling in scalings:
        problem = Problem.of(shape=shape, format=FP8, out=Format.BF16, scaling=scaling)
        activation = scaling.activation if scaling else TENSOR
        assert same(quantize_activations(x, problem), quantize(x, FP8, activation, Azp.NONE))
    problem = Problem.of(
        shape=shape, format=INT8, out=Format.BF16, scaling=SCHEMES[1], azp=Azp.TOKEN, activations=Activations.DYNAMIC
    )
    assert same(quantize_activations(x, problem), quantize(x, INT8, TOKEN, Azp.TOKEN))


def test_a_16_bit_format_is_not_quantized() -> None:
    with pytest.raises(ValueError, match="expected int8 or fp8"):
        quantize(normal(2, 2), Format.BF16, TENSOR, Azp.NONE)

"""Quantization in Triton equals the reference bit for bit: codes, scales and zero points."""

from __future__ import annotations

import importlib
from fractions import Fraction

import numpy as np
import pytest
import torch
import triton.language as tl
from triton.runtime import interpreter

from w8a8_bench.correctness import quantize as reference
from w8a8_bench.correctness.quantize import Quantized
from w8a8_bench.kernels.triton import apply_static, plan_quantize, quantize
from w8a8_bench.kernels.triton.device import quantize as device
from w8a8_bench.problem import ActScale, Azp
from w8a8_bench.problem.formats import Format

module = importlib.import_module("w8a8_bench.kernels.triton.quantize")  # the package has a function of that name

INT8, FP8 = Format.INT8, Format.FP8
SYMMETRIC = [(fmt, activation, Azp.NONE) for fmt in (INT8, FP8) for activation in ActScale]
KINDS = [*SYMMETRIC, (INT8, ActScale.TOKEN, Azp.TOKEN)]
SHAPES = ((1, 1), (3, 7), (5, 128), (2, 130), (7, 1200), (2, 4096))
LARGE_ONES_SLOW = [pytest.param(shape, marks=[pytest.mark.slow] * (shape[1] > 1000)) for shape in SHAPES]


def rows(m: int, k: int) -> torch.Tensor:
    """bf16: normal numbers of very different sizes by row, a row of zeros, one of a single sign, one of ties."""
    generator = torch.Generator().manual_seed(m * 10_007 + k)
    x = torch.randn(m, k, generator=generator) * 10.0 ** torch.randint(-4, 5, (m, 1), generator=generator)
    if m > 4:
        x[1], x[2] = 0.0, x[2].abs() + 1.0
        x[3] = (torch.arange(k) % 255 - 127) / 2  # halves: with a scale of 1/2 and more, many quotients are ties
        x[4, ::2] = -0.0
    return x.to(torch.bfloat16)


def same(got: Quantized, expected: Quantized) -> bool:
    return (
        torch.equal(got.q.view(torch.uint8), expected.q.view(torch.uint8))
        and torch.equal(got.scale, expected.scale)
        and ((got.azp is None and expected.azp is None) or torch.equal(got.azp, expected.azp))
    )


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(("fmt", "activation", "azp"), KINDS)
def test_dynamic_codes_and_scales_are_the_references(fmt, activation, azp, shape):
    x = rows(*shape)
    assert same(quantize(x, fmt, activation, azp), reference.quantize(x, fmt, activation, azp))


@pytest.mark.parametrize("fmt", [INT8, FP8], ids=lambda fmt: fmt.value)
@pytest.mark.parametrize("scale", [0.013, 1.0, 2.5, 1e-30])
def test_static_codes_are_the_references(fmt, scale):
    x, s = rows(9, 130), torch.full((1, 1), scale)
    for azp in (None, -128, 0, 127) if fmt is INT8 else (None,):
        zero_point = None if azp is None else torch.tensor([[azp]], dtype=torch.int32)
        got = apply_static(x, s, zero_point, fmt)
        expected = reference.apply_static(x, s, zero_point, fmt)
        assert torch.equal(got.view(torch.uint8), expected.view(torch.uint8))


def test_every_fp8_code_its_ties_and_its_neighbours_are_rounded_right():
    codes = torch.arange(127, dtype=torch.uint8).view(torch.float8_e4m3fn).float()
    middles = (codes[1:] + codes[:-1]) / 2
    x = torch.cat([codes, middles, middles.nextafter(torch.tensor(0.0)), middles.nextafter(torch.tensor(999.0))])
    x = torch.cat([x, -x, torch.tensor([448.1, 500.0, 1e30, 1e-30])]).view(1, -1)
    one = torch.ones(1, 1)
    got = apply_static(x, one, None, FP8)
    assert torch.equal(got.view(torch.uint8), reference.apply_static(x, one, None, FP8).view(torch.uint8))


def test_every_int8_tie_goes_to_the_even_code():
    x = (torch.arange(-258, 259) / 2).view(1, -1)
    one = torch.ones(1, 1)
    assert torch.equal(apply_static(x, one, None, INT8), reference.apply_static(x, one, None, INT8))


@pytest.mark.parametrize("magnitude", [1e-40, 1e-30, 1e30])
@pytest.mark.parametrize(("fmt", "activation", "azp"), KINDS)
def test_extreme_magnitudes_are_the_references_too(fmt, activation, azp, magnitude):
    # In fp32: the interpreter misreads what is subnormal in bf16.
    x = torch.randn(4, 140, generator=torch.Generator().manual_seed(2)) * magnitude
    assert same(quantize(x, fmt, activation, azp), reference.quantize(x, fmt, activation, azp))


@pytest.mark.parametrize(
    ("fmt", "azp"),
    [(INT8, Azp.NONE), pytest.param(INT8, Azp.TOKEN, marks=pytest.mark.slow), (FP8, Azp.NONE)],
)
def test_a_row_longer_than_a_program_holds_is_read_twice(fmt, azp):
    x = rows(2, module.LONGEST_ROW + 70)
    x[1, -1] = 9e5  # the largest is in the ragged end
    assert same(quantize(x, fmt, ActScale.TOKEN, azp), reference.quantize(x, fmt, ActScale.TOKEN, azp))


@pytest.mark.parametrize(
    ("fmt", "activation"), [(FP8, ActScale.TENSOR), (INT8, ActScale.TENSOR), (FP8, ActScale.GROUP)]
)
def test_large_tensors_are_cut_otherwise_and_quantized_the_same(monkeypatch, fmt, activation):
    monkeypatch.setattr(module, "MANY", 1000)
    monkeypatch.setattr(module, "MOST_PARTS", 2)
    x = rows(3, 11_000)
    x[2, -1] = 1e6  # in a chunk that a program comes to second
    calls, got = plan_quantize(x, fmt, activation)
    assert calls[0].grid == ((2,) if activation is ActScale.TENSOR else (9,))
    for call in calls:
        call()
    assert same(got, reference.quantize(x, fmt, activation, Azp.NONE))


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
@pytest.mark.parametrize(("fmt", "activation", "azp"), KINDS)
def test_other_formats_of_x_are_taken(fmt, activation, azp, dtype):
    x = torch.randn(5, 140, generator=torch.Generator().manual_seed(3)).to(dtype)
    assert same(quantize(x, fmt, activation, azp), reference.quantize(x, fmt, activation, azp))


@pytest.mark.parametrize(("fmt", "activation", "azp"), KINDS)
def test_rows_may_lie_apart_and_nothing_is_written_between_them(fmt, activation, azp):
    x, wide = rows(6, 150), torch.zeros(6, 170, dtype=torch.uint8)
    expected = reference.quantize(x[:, :140], fmt, activation, azp)
    zero_points = None if expected.azp is None else torch.zeros_like(expected.azp)
    groups_apart = torch.zeros(expected.scale.shape[::-1]).t()
    out = Quantized(wide.view(expected.q.dtype)[:, :140], groups_apart, zero_points)
    assert same(quantize(x[:, :140], fmt, activation, azp, out=out), expected)
    assert not wide[:, 140:].any()


def test_a_scale_that_is_one_step_off_is_seen():
    x = rows(5, 128)
    got, expected = quantize(x, FP8, ActScale.TOKEN), reference.quantize(x, FP8, ActScale.TOKEN, Azp.NONE)
    got.scale[2] = got.scale[2].nextafter(torch.tensor(9e9))
    assert not same(got, expected)


def test_no_number_of_11_bits_has_a_quotient_for_which_one_step_is_not_enough():
    """Codes change at M 2^c, M of up to 9 bits. Between that number and those next to it in fp32 are the middles
    B 2^(c - 25 + bits of M), B = M 2^(25 - bits of M) +- 1; below a power of two it is half as far. The quotients that
    come nearest to a middle are of the two scales around x / middle, for each x."""
    x = torch.arange(2**10, 2**11)[:, None]
    for number in range(1, 2**9):
        bits = number.bit_length()
        is_power_of_two = number == 1 << bits - 1
        middles = [(number << 25 - bits) + 1, (number << 25 - bits + is_power_of_two) - 1]
        middle = torch.tensor(middles)[None, :]
        scaled = (x << torch.tensor([36, 37, 38, 39])[:, None, None]).broadcast_to(4, 2**10, len(middles))
        for scale in (scaled // middle, scaled // middle + 1):
            allowed = (scale >= 2**23) & (scale <= 2**24)
            assert allowed.any(dim=0).all()
            allowed &= (scale < 2**24 - 1) | (x > 2**10)  # see the next test
            units = (scaled - middle * scale).abs() / (2.0 * scale)
            assert units[allowed].min() > 2.0**-20


def test_one_step_is_enough_for_a_power_of_two_by_the_largest_scale_below_another():
    """Its quotient is close to a middle, and so is what the step rounds: on the same side of it."""
    x, scale = Fraction(1), Fraction(2**24 - 1, 2**24)
    middle, reciprocal = 1 + Fraction(1, 2**24), 1 + Fraction(1, 2**23)
    assert 1 / scale - middle < Fraction(1, 2**47)
    assert reciprocal == Fraction(float(np.float32(1.0) / np.float32(float(scale))))
    quotient = x * reciprocal
    remainder = quotient * scale - x
    assert remainder == Fraction(float(np.float32(float(remainder))))
    assert quotient - remainder * reciprocal > middle


def fma(builder, x, y, z):
    """`tl.fma`, rounded once but for sums that fp64 does not hold."""
    wide = x.data.astype(np.float64) * y.data.astype(np.float64) + z.data.astype(np.float64)
    return interpreter.TensorHandle(wide.astype(np.float32), z.dtype.scalar)


@pytest.fixture
def fused(monkeypatch):
    """The way that codes take on a GPU."""
    monkeypatch.setattr(interpreter.InterpreterBuilder, "create_fma", fma)
    monkeypatch.setattr(device, "_saturated", lambda codes: tl.clamp(codes.to(tl.float32), -128.0, 127.0).to(tl.int8))
    constants = module._format
    monkeypatch.setattr(module, "_format", lambda *what: {**constants(*what), "FUSED": True})


@pytest.mark.parametrize("shape", LARGE_ONES_SLOW, ids=str)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize(("fmt", "activation", "azp"), KINDS)
def test_codes_by_the_reciprocal_are_the_references(fused, fmt, activation, azp, dtype, shape):
    x = (rows(*shape).float() * 1.7).to(dtype)
    assert same(quantize(x, fmt, activation, azp), reference.quantize(x, fmt, activation, azp))


@pytest.mark.parametrize("magnitude", [1e-40, 1e-30, 1e30])
@pytest.mark.parametrize(("fmt", "activation", "azp"), KINDS)
def test_extreme_magnitudes_by_the_reciprocal_are_the_references_too(fused, fmt, activation, azp, magnitude):
    test_extreme_magnitudes_are_the_references_too(fmt, activation, azp, magnitude)


@pytest.mark.parametrize("fmt", [INT8, FP8], ids=lambda fmt: fmt.value)
@pytest.mark.parametrize("scale", [0.013, 1.0, 2.5, 1e-30, 1e30])
def test_static_codes_by_the_reciprocal_are_the_references(fused, fmt, scale):
    test_static_codes_are_the_references(fmt, scale)


def test_what_is_no_format_and_no_tensor_is_named():
    with pytest.raises(ValueError, match=r"format 'fp8': expected Format\.INT8"):
        quantize(rows(2, 8), "fp8", ActScale.TOKEN)
    with pytest.raises(TypeError, match="x is None: expected a tensor"):
        quantize(None, FP8, ActScale.TOKEN)
    with pytest.raises(TypeError, match=r"scale is 0\.5: expected a tensor"):
        apply_static(rows(2, 8), 0.5, None, FP8)

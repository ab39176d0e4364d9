"""Both GEMMs, in every way that they are cut and with every epilogue, against the oracle, in fp32.

fp32, because the interpreter cuts the last bits off what it stores as bf16.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import triton
import triton.language as tl

from w8a8_bench.correctness.operand_factory import OperandFactory
from w8a8_bench.correctness.oracle import Oracle
from w8a8_bench.kernels.triton import (
    TritonConfig,
    blockwise_mm,
    make_workspace,
    plan_blockwise_mm,
    plan_scaled_mm,
    scaled_mm,
    scaled_mm_azp,
)
from w8a8_bench.kernels.triton.device import tiles
from w8a8_bench.kernels.triton.operands import take_sides
from w8a8_bench.problem import BLOCKWISE, PER_TENSOR, SCHEMES, Azp, GemmShape, Problem, Scaling
from w8a8_bench.problem.formats import Format
from w8a8_bench.problem.operands import Operands

TOKEN_CHANNEL = Scaling.parse("channel-w-token-a")

WAYS = {
    "plain": TritonConfig(tile_m=32, tile_n=64, tile_k=64),
    "one tile": TritonConfig(tile_m=128, tile_n=128, tile_k=256, warps=8, stages=2),
    "grouped by 2": TritonConfig(tile_m=16, tile_n=64, tile_k=128, group=2),
    "split": TritonConfig(tile_m=32, tile_n=64, tile_k=64, split_k=3),
    "split in more parts than fit": TritonConfig(tile_m=32, tile_n=64, tile_k=64, split_k=4),
    "swapped": TritonConfig(tile_m=16, tile_n=64, tile_k=64, swap=True),
    "swapped and split": TritonConfig(tile_m=16, tile_n=64, tile_k=64, swap=True, split_k=2),
    "persistent": TritonConfig(tile_m=32, tile_n=64, tile_k=128, persistent=True),
    "persistent and swapped": TritonConfig(tile_m=16, tile_n=64, tile_k=128, persistent=True, swap=True),
}
SHAPES = ((40, 75, 208), (40, 75, 333))
BLOCKWISE_SHAPES = ((40, 150, 400), (40, 150, 397))
"""Ragged in every dimension. Rows of the first suit tensor descriptors, those of the second do not."""


def ways(shapes: tuple[tuple[int, int, int], ...], *, tile_k: int | None = None) -> list[object]:
    """Every way, with tensor descriptors and with pointers."""
    cases = []
    for name, config in WAYS.items():
        config = replace(config, tile_k=tile_k or config.tile_k)
        cases.append(pytest.param(replace(config, descriptors=True), shapes[0], id=f"{name}, descriptors"))
        cases.append(pytest.param(config, shapes[1], id=name))
    return cases


def make(shape: tuple[int, int, int], fmt: Format, scaling: Scaling, azp=Azp.NONE, bias: bool = False) -> Operands:
    m, n, k = shape
    size = GemmShape(m=m, n=n, k=k)
    problem = Problem.of(shape=size, format=fmt, out=Format.BF16, scaling=scaling, azp=azp, bias=bias)
    return OperandFactory(size, "cpu", data="outliers", seed=5).make(problem)


def run(operands: Operands, config: TritonConfig | None) -> torch.Tensor:
    """D in fp32, written over NaN."""
    a, b, scale_a, scale_b = operands.a, operands.b, operands.scale_a, operands.scale_b
    out = torch.full(operands.out.shape, float("nan"))
    bias = None if operands.bias is None else operands.bias.float()
    if operands.problem.scaling is BLOCKWISE:
        return blockwise_mm(a, b, scale_a, scale_b, torch.float32, out=out, config=config)
    if operands.azp_adj is None:
        return scaled_mm(a, b, scale_a, scale_b, torch.float32, bias, out=out, config=config)
    azp = operands.azp if operands.problem.azp is Azp.TOKEN else None
    return scaled_mm_azp(a, b, scale_a, scale_b, torch.float32, operands.azp_adj, azp, bias, out=out, config=config)


def is_right(got: torch.Tensor, operands: Operands) -> bool:
    """Within what fp32 sums of exact products allow; int8 within what its epilogue allows."""
    value = Oracle().expected(operands).value
    relative = 1e-6 if operands.problem.format is Format.INT8 else 1e-5
    return bool(((got.double() - value).abs() <= relative * (value.abs() + value.square().mean().sqrt())).all())


@pytest.mark.parametrize(("config", "shape"), ways(SHAPES))
@pytest.mark.parametrize("fmt", [Format.INT8, Format.FP8], ids=lambda fmt: fmt.value)
def test_scaled_mm_is_right_however_it_is_cut(config, shape, fmt):
    azp = Azp.TOKEN if fmt is Format.INT8 else Azp.NONE
    operands = make(shape, fmt, TOKEN_CHANNEL, azp, bias=True)
    assert is_right(run(operands, config), operands)


@pytest.mark.parametrize(("config", "shape"), ways(BLOCKWISE_SHAPES, tile_k=128))
def test_blockwise_mm_is_right_however_it_is_cut(config, shape):
    operands = make(shape, Format.FP8, BLOCKWISE)
    assert is_right(run(operands, config), operands)


@pytest.mark.parametrize("bias", [False, True], ids=["plain", "bias"])
@pytest.mark.parametrize("azp", list(Azp), ids=lambda azp: f"azp {azp.value}")
@pytest.mark.parametrize("scaling", SCHEMES[:4], ids=str)
@pytest.mark.parametrize("fmt", [Format.INT8, Format.FP8], ids=lambda fmt: fmt.value)
def test_every_epilogue_is_right(fmt, scaling, azp, bias):
    size = GemmShape(m=20, n=40, k=70)
    problem = Problem.of(shape=size, format=fmt, out=Format.BF16, scaling=scaling, azp=azp, bias=bias)
    if problem.why_illegal():
        return
    operands = make((20, 40, 70), fmt, scaling, azp, bias)
    assert is_right(run(operands, WAYS["plain"]), operands)


@pytest.mark.parametrize(
    "shape", [(1, 1, 1), (1, 7, 1), (3, 1, 5), (1, 130, 16), (17, 16, 129), (130, 70, 40)], ids=str
)
@pytest.mark.parametrize("fmt", [Format.INT8, Format.FP8], ids=lambda fmt: fmt.value)
def test_any_size_is_computed_with_the_configuration_that_is_chosen(shape, fmt):
    operands = make(shape, fmt, TOKEN_CHANNEL, bias=True)
    assert is_right(run(operands, None), operands)
    if fmt is Format.FP8:
        operands = make(shape, fmt, BLOCKWISE)
        assert is_right(run(operands, None), operands)


def test_blockwise_scales_may_have_any_strides():
    operands = make((20, 150, 300), Format.FP8, BLOCKWISE)
    transposed = replace(
        operands, scale_a=operands.scale_a.t().contiguous().t(), scale_b=operands.scale_b.t().contiguous().t()
    )
    assert is_right(run(transposed, WAYS["grouped by 2"]), operands)


def test_rows_may_lie_apart():
    operands = make((20, 40, 70), Format.INT8, TOKEN_CHANNEL)
    a, weight, out = torch.zeros(20, 99).to(torch.int8), torch.zeros(40, 80).to(torch.int8), torch.zeros(20, 51)
    a[:, :70], weight[:, :70] = operands.a, operands.b.t()
    views = a[:, :70], weight[:, :70].t()
    got = scaled_mm(*views, operands.scale_a, operands.scale_b, torch.float32, out=out[:, :40], config=WAYS["plain"])
    assert is_right(got, operands)
    assert not out[:, 40:].any()


@pytest.mark.parametrize("fmt", [Format.INT8, Format.FP8], ids=lambda fmt: fmt.value)
@pytest.mark.parametrize("way", ["split", "swapped and split"])
def test_a_workspace_serves_again_and_splits_add_up_to_the_same_bits(way, fmt):
    operands = make(SHAPES[1], fmt, TOKEN_CHANNEL)
    sides = take_sides(operands.a, operands.b, torch.float32, None, WAYS[way], None, blockwise=False)
    workspace = make_workspace(WAYS[way], sides.gemm, torch.device("cpu"))
    results = []
    for _ in range(2):
        out = torch.full(operands.out.shape, float("nan"))
        results.append(
            scaled_mm(
                operands.a,
                operands.b,
                operands.scale_a,
                operands.scale_b,
                torch.float32,
                out=out,
                config=WAYS[way],
                workspace=workspace,
            )
        )
    assert not workspace.arrivals.any()
    assert torch.equal(*results)
    assert is_right(results[0], operands)


def test_the_int32_correction_is_exact_where_fp32_is_not():
    k = 4000
    a, b = torch.full((1, k), 127, dtype=torch.int8), torch.full((k, 1), 127, dtype=torch.int8)
    a[0, 0] = 126
    adjustment, one = torch.tensor([127 * k], dtype=torch.int32), torch.ones(1, 1)
    azp = torch.tensor([[127]], dtype=torch.int32)
    assert scaled_mm_azp(a, b, one, one, torch.float32, adjustment, azp).item() == -127.0


@triton.jit
def place_all(places, tiles_m, tiles_n, GROUP: tl.constexpr):
    program = tl.program_id(0)
    tile_m, tile_n = tiles.tile_coordinates(program, tiles_m, tiles_n, GROUP)
    tl.store(places + 2 * program, tile_m)
    tl.store(places + 2 * program + 1, tile_n)


def test_tiles_go_down_a_group_before_they_go_right():
    places = torch.zeros(15, 2, dtype=torch.int32)
    place_all[(15,)](places, 5, 3, 2)
    two_rows = [[0, 0], [1, 0], [0, 1], [1, 1], [0, 2], [1, 2]]
    below = [[row + 2, column] for row, column in two_rows]
    assert places.tolist() == [*two_rows, *below, [4, 0], [4, 1], [4, 2]]


FAULTS = ("scale", "bias", "azp sign", "k-tile dropped", "tile unwritten", "rows swapped", "arrivals left")


@pytest.mark.parametrize("fault", FAULTS)
def test_planted_faults_are_seen(fault):
    operands = make(SHAPES[1], Format.INT8, TOKEN_CHANNEL, Azp.TOKEN, bias=True)
    config = WAYS["split"] if fault == "arrivals left" else WAYS["plain"]
    scale_a, bias, azp_adj = operands.scale_a.clone(), operands.bias.float(), operands.azp_adj
    a, workspace = operands.a, None
    if fault == "scale":
        scale_a[31] *= 1.001
    elif fault == "bias":
        bias[74] = 0.0
    elif fault == "azp sign":
        azp_adj = -azp_adj
    elif fault == "rows swapped":
        a = a.clone()
        a[[38, 39]] = a[[39, 38]]
    elif fault == "arrivals left":
        sides = take_sides(a, operands.b, torch.float32, None, config, None, blockwise=False)
        workspace = make_workspace(config, sides.gemm, a.device)
        workspace.arrivals[1] = 1
    out = torch.full(operands.out.shape, float("nan"))
    call, _ = plan_scaled_mm(
        a,
        operands.b,
        scale_a,
        operands.scale_b,
        torch.float32,
        bias,
        azp_adj,
        operands.azp,
        out=out,
        config=config,
        workspace=workspace,
    )
    if fault == "k-tile dropped":
        arguments = list(call.arguments)
        assert arguments[12] == a.shape[1]
        arguments[12] -= 64
        call = replace(call, arguments=tuple(arguments))
    elif fault == "tile unwritten":
        call = replace(call, grid=(call.grid[0] - 1,))
    call()
    assert not is_right(out, operands)


def test_a_wrong_blockwise_scale_is_seen():
    operands = make((20, 150, 300), Format.FP8, BLOCKWISE)
    scale_b = operands.scale_b.clone()
    scale_b[2, 1] *= 1.01
    out = torch.full(operands.out.shape, float("nan"))
    call, _ = plan_blockwise_mm(
        operands.a, operands.b, operands.scale_a, scale_b, torch.float32, out=out, config=WAYS["grouped by 2"]
    )
    call()
    assert not is_right(out, operands)


def test_per_tensor_scales_are_one_number():
    operands = make((20, 40, 70), Format.INT8, PER_TENSOR)
    assert operands.scale_a.numel() == operands.scale_b.numel() == 1
    assert is_right(run(operands, WAYS["plain"]), operands)

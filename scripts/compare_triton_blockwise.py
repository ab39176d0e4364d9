"""Blockwise products: this project's Triton kernel against one made as vLLM describes its Triton kernel's default.

    PYTHONPATH=src python3 scripts/compare_triton_blockwise.py > triton_blockwise.jsonl

The other kernel is written from that description, not from vLLM's source, and is not vLLM's: tiles of 64 x 128 x 128 in
groups of 32, 4 warps, 2 stages, at every shape; pointers, and both scales loaded for each element of a row and a column
before they are multiplied in. Both compute the same problem on the same operands and are checked; times are cold.
One line for each shape, and the geometric mean of the ratios on stderr.
"""

from __future__ import annotations

import json
import math
import sys

import torch
import triton
import triton.language as tl
from cold_times import SHAPES, ColdTimer

from w8a8_bench.correctness.check import check, poison
from w8a8_bench.correctness.operand_factory import OperandFactory
from w8a8_bench.correctness.oracle import Oracle
from w8a8_bench.environment import detect, versions
from w8a8_bench.kernel import Launches
from w8a8_bench.problem import BLOCK, BLOCKWISE, Problem, ceil_div
from w8a8_bench.problem.formats import Format
from w8a8_bench.problem.operands import Operands
from w8a8_bench.providers import triton as provider

TILE_M, TILE_N, GROUP, WARPS, STAGES = 64, 128, 32, 4, 2
NAME = "triton_fp8_fp8_bf16_scaled_mm_blockwise"
SAMPLES = 15


@triton.jit
def described(
    a,
    w,
    out,
    scale_a,
    scale_b,
    m,
    n,
    k,
    stride_scale_a,
    stride_scale_b,
    TILE_M: tl.constexpr,
    TILE_N: tl.constexpr,
    TILE_K: tl.constexpr,
    GROUP: tl.constexpr,
):
    """A [m,k], W [n,k] and D [m,n] row-major; scale_a [m, ceil(k/128)], scale_b [ceil(k/128), ceil(n/128)]."""
    program = tl.program_id(0)
    tiles_m, tiles_n = tl.cdiv(m, TILE_M), tl.cdiv(n, TILE_N)
    in_group = GROUP * tiles_n
    first = program // in_group * GROUP
    height = min(tiles_m - first, GROUP)
    tile_m, tile_n = first + program % in_group % height, program % in_group // height
    rows = (tile_m * TILE_M + tl.arange(0, TILE_M)) % m
    columns = (tile_n * TILE_N + tl.arange(0, TILE_N)) % n
    depth = tl.arange(0, TILE_K)
    a_pointers = a + rows.to(tl.int64)[:, None] * k + depth[None, :]
    w_pointers = w + columns.to(tl.int64)[None, :] * k + depth[:, None]
    acc = tl.zeros((TILE_M, TILE_N), dtype=tl.float32)
    for step in range(tl.cdiv(k, TILE_K)):
        left = k - step * TILE_K
        a_tile = tl.load(a_pointers, mask=depth[None, :] < left, other=0.0)
        w_tile = tl.load(w_pointers, mask=depth[:, None] < left, other=0.0)
        s_a = tl.load(scale_a + rows * stride_scale_a + step)
        s_b = tl.load(scale_b + step * stride_scale_b + columns // 128)
        acc += tl.dot(a_tile, w_tile) * s_a[:, None] * s_b[None, :]
        a_pointers += TILE_K
        w_pointers += TILE_K
    row = tile_m * TILE_M + tl.arange(0, TILE_M)
    column = tile_n * TILE_N + tl.arange(0, TILE_N)
    inside = (row < m)[:, None] & (column < n)[None, :]
    tl.store(out + row.to(tl.int64)[:, None] * n + column[None, :], acc.to(out.dtype.element_ty), mask=inside)


def bind_described(operands: Operands) -> Launches:
    shape, scale_a, scale_b = operands.problem.shape, operands.scale_a, operands.scale_b
    assert scale_a is not None and scale_b is not None
    arguments = (operands.a, operands.b.t(), operands.out, scale_a, scale_b, shape.m, shape.n, shape.k)
    strides = (scale_a.stride(0), scale_b.stride(0))
    grid = (ceil_div(shape.m, TILE_M) * ceil_div(shape.n, TILE_N),)

    def launch() -> None:
        described[grid](*arguments, *strides, TILE_M, TILE_N, BLOCK, GROUP, num_warps=WARPS, num_stages=STAGES)

    return Launches(launch)


def main() -> int:
    try:
        device = detect.resolve_device("cuda")
    except detect.DeviceError as error:
        print(f"compare_triton_blockwise: {error}", file=sys.stderr)
        return 2
    print(json.dumps({"device": device.name, **versions.describe(device)}))
    ratios = []
    for shape in SHAPES:
        problem = Problem.of(shape=shape, format=Format.FP8, out=Format.BF16, scaling=BLOCKWISE)
        operands = OperandFactory(shape, device.torch_name, data="normal", seed=0).make(problem)
        prepared = provider.kernel(NAME).prepare(problem, device)
        oracle = Oracle()
        for bind in (bind_described, prepared.bind):
            poison(operands.out)
            bind(operands).total()
            torch.cuda.synchronize(device.index)
            verdict = check(operands, oracle)
            if not verdict.ok:
                print(f"compare_triton_blockwise: {shape}: {verdict.reason}", file=sys.stderr)
                return 3
        oracle.clear()
        times = ColdTimer(device, operands).seconds({"described": bind_described, "ours": prepared.bind}, SAMPLES)
        ratios.append(times["ours"] / times["described"])
        row = {"m": shape.m, "n": shape.n, "k": shape.k}
        row |= {f"{name}_s": float(f"{seconds:.4g}") for name, seconds in times.items()}
        print(json.dumps({**row, "ratio": round(ratios[-1], 4), "config": dict(prepared.config)}), flush=True)
    mean = math.exp(sum(math.log(ratio) for ratio in ratios) / len(ratios))
    print(f"geometric mean over {len(ratios)} shapes: {mean:.3f} of the described kernel's time", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Choosing a configuration by measurement, where the table holds none: the fastest of the most promising few."""

from __future__ import annotations

from functools import lru_cache

import torch
from triton import testing
from triton.errors import TritonError

from w8a8_bench.correctness.quantize import torch_dtype
from w8a8_bench.kernels.triton.blockwise_mm import plan_blockwise_mm
from w8a8_bench.kernels.triton.configs import ChosenConfig, Gemm, TritonConfig, candidates
from w8a8_bench.kernels.triton.launch import Call
from w8a8_bench.kernels.triton.scaled_mm import plan_scaled_mm
from w8a8_bench.problem import BLOCK, ceil_div

MEASURED = 8
"""Candidates that are compiled and measured. Each that is not in Triton's cache takes about two seconds, at every shape
that is new."""

WARMUP_MS, MEASURED_MS = 5, 20


@lru_cache
def measure(gemm: Gemm, device: str) -> ChosenConfig:
    """The fastest of the first `MEASURED` candidates, each launch with the L2 emptied before it (`triton.testing`).

    Remembered for the process. Raises what Triton raised for the last one where none can be compiled.
    """
    times: dict[TritonConfig, float] = {}
    failure: TritonError | None = None
    with torch.cuda.device(device):
        a, b = make_matrices(gemm, device)
        for config in candidates(gemm)[:MEASURED]:
            try:
                call = plan_unscaled(gemm, a, b, config)
                times[config] = testing.do_bench(call, warmup=WARMUP_MS, rep=MEASURED_MS, return_mode="median")
            except TritonError as error:  # too much shared memory, say: another candidate then
                failure = error
    if not times:
        assert failure is not None, "there is always a candidate"
        raise failure
    return ChosenConfig(min(times, key=lambda config: times[config]), f"fastest of {len(times)} measured")


def make_matrices(gemm: Gemm, device: str) -> tuple[torch.Tensor, torch.Tensor]:
    """A [m,k] and B [k,n] column-major of random codes, none of them NaN: for timing alone."""
    m, n, k = gemm.shape.m, gemm.shape.n, gemm.shape.k
    dtype = torch_dtype(gemm.format)
    a = torch.randint(0, 127, (m, k), dtype=torch.int8, device=device).view(dtype)
    weight = torch.randint(0, 127, (n, k), dtype=torch.int8, device=device).view(dtype)
    return a, weight.t()


def plan_unscaled(gemm: Gemm, a: torch.Tensor, b: torch.Tensor, config: TritonConfig) -> Call:
    """A launch of the GEMM with scales of 1 and bf16 output."""
    m, n, k = gemm.shape.m, gemm.shape.n, gemm.shape.k
    if gemm.blockwise:
        blocks = ceil_div(k, BLOCK)
        scale_a = torch.ones(m, blocks, device=a.device)
        scale_b = torch.ones(blocks, ceil_div(n, BLOCK), device=a.device)
        call, _ = plan_blockwise_mm(a, b, scale_a, scale_b, torch.bfloat16, config=config)
    else:
        one = torch.ones(1, 1, device=a.device)
        call, _ = plan_scaled_mm(a, b, one, one, torch.bfloat16, config=config)
    return call

"""`scaled_mm` and `scaled_mm_azp`: products of int8 or FP8 matrices, scaled, corrected for a zero point, biased.

    D = cast(s_a * s_b * (A @ B - correction) + bias)

Argument order and layouts are those of vLLM's `cutlass_scaled_mm` and `cutlass_scaled_mm_azp`.
"""

from __future__ import annotations

import torch

from w8a8_bench.kernels.triton import operands
from w8a8_bench.kernels.triton.configs import TritonConfig
from w8a8_bench.kernels.triton.device import scaled_mm as device
from w8a8_bench.kernels.triton.launch import Call
from w8a8_bench.kernels.triton.operands import Workspace


def scaled_mm(
    a: torch.Tensor,
    b: torch.Tensor,
    scale_a: torch.Tensor,
    scale_b: torch.Tensor,
    out_dtype: torch.dtype,
    bias: torch.Tensor | None = None,
    *,
    out: torch.Tensor | None = None,
    config: TritonConfig | None = None,
    workspace: Workspace | None = None,
) -> torch.Tensor:
    """`cast(scale_a * scale_b * (a @ b) + bias)` on the current stream; returns `out`.

    a        int8 or float8_e4m3fn [m,k], row-major
    b        of the same format [k,n], column-major
    scale_a  fp32, 1 or m elements
    scale_b  fp32, 1 or n elements
    bias     [n] in `out_dtype`, or None
    out      [m,n] row-major in `out_dtype` (bfloat16, float16, float32); allocated if it is not given

    If `config` is not given, it is chosen; if `workspace` (`make_workspace`) is not, it is allocated. If both and `out`
    are given, nothing is allocated. Raises ValueError for operands that do not fit or a GPU that can't.
    """
    call, out = plan_scaled_mm(a, b, scale_a, scale_b, out_dtype, bias, out=out, config=config, workspace=workspace)
    call.enqueue_on(out.device)
    return out


def scaled_mm_azp(
    a: torch.Tensor,
    b: torch.Tensor,
    scale_a: torch.Tensor,
    scale_b: torch.Tensor,
    out_dtype: torch.dtype,
    azp_adj: torch.Tensor,
    azp: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    *,
    out: torch.Tensor | None = None,
    config: TritonConfig | None = None,
    workspace: Workspace | None = None,
) -> torch.Tensor:
    """`cast(scale_a * scale_b * (a @ b - correction) + bias)` for int8 activations with a zero point.

    azp_adj  int32, n elements: the zero point times the column sums of b, which is the correction (`azp` None); or the
             column sums alone
    azp      int32, m elements: the zero point of each token; the correction is `azp * azp_adj`

    The correction is subtracted from the int32 product. The rest is as in `scaled_mm`.
    """
    call, out = plan_scaled_mm(
        a, b, scale_a, scale_b, out_dtype, bias, azp_adj, azp, out=out, config=config, workspace=workspace
    )
    call.enqueue_on(out.device)
    return out


def plan_scaled_mm(
    a: torch.Tensor,
    b: torch.Tensor,
    scale_a: torch.Tensor,
    scale_b: torch.Tensor,
    out_dtype: torch.dtype,
    bias: torch.Tensor | None = None,
    azp_adj: torch.Tensor | None = None,
    azp: torch.Tensor | None = None,
    *,
    out: torch.Tensor | None = None,
    config: TritonConfig | None = None,
    workspace: Workspace | None = None,
) -> tuple[Call, torch.Tensor]:
    """The launch of `scaled_mm` or `scaled_mm_azp`, checked and ready, and the `out` that it writes."""
    sides = operands.take_sides(a, b, out_dtype, out, config, workspace, blockwise=False)
    m, n, k = sides.gemm.shape.m, sides.gemm.shape.n, sides.gemm.shape.k
    operands.check_vector("scale_a", scale_a, torch.float32, (1, m), a.device)
    operands.check_vector("scale_b", scale_b, torch.float32, (1, n), a.device)
    if bias is not None:
        operands.check_vector("bias", bias, out_dtype, (n,), a.device)
    if azp_adj is not None:
        if a.dtype is not torch.int8:
            raise ValueError(f"azp_adj with {a.dtype}: zero points go with int8")
        operands.check_vector("azp_adj", azp_adj, torch.int32, (n,), a.device)
        if azp is not None:
            operands.check_vector("azp", azp, torch.int32, (m,), a.device)
    call = Call(
        kernel=device.scaled_mm,
        grid=sides.grid,
        arguments=(
            *sides.matrices(),
            scale_a,
            scale_b,
            bias,
            azp,
            azp_adj,
            *sides.buffers,
            m,
            n,
            k,
            *sides.strides,
        ),
        constants={
            **sides.constants,
            "INT8": a.dtype is torch.int8,
            "SCALE_A_BY_ROW": scale_a.numel() > 1,
            "SCALE_B_BY_COLUMN": scale_b.numel() > 1,
            "TILE_K": sides.config.tile_k,
        },
    )
    return call, sides.out

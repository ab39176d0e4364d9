"""`blockwise_mm`: products of FP8 matrices with a scale for each 1x128 of A and each 128x128 of B.

D = cast(sum_kb s_a[m, kb] * s_b[kb, n // 128] * sum_{k in kb} A[m,k] B[k,n])
"""

from __future__ import annotations

import torch

from w8a8_bench.kernels.triton import operands
from w8a8_bench.kernels.triton.configs import TritonConfig
from w8a8_bench.kernels.triton.device import blockwise_mm as device
from w8a8_bench.kernels.triton.launch import Call
from w8a8_bench.kernels.triton.operands import Workspace
from w8a8_bench.problem import BLOCK, ceil_div


def blockwise_mm(
    a: torch.Tensor,
    b: torch.Tensor,
    scale_a: torch.Tensor,
    scale_b: torch.Tensor,
    out_dtype: torch.dtype,
    *,
    out: torch.Tensor | None = None,
    config: TritonConfig | None = None,
    workspace: Workspace | None = None,
) -> torch.Tensor:
    """The blockwise scaled product on the current stream; returns `out`.

    a        float8_e4m3fn [m,k], row-major
    b        float8_e4m3fn [k,n], column-major
    scale_a  fp32 [m, ceil(k/128)], with any strides
    scale_b  fp32 [ceil(k/128), ceil(n/128)], with any strides
    out      [m,n] row-major in `out_dtype` (bfloat16, float16, float32); allocated if it is not given

    If `config` is not given, it is chosen; if `workspace` (`make_workspace`) is not, it is allocated. If both and `out`
    are given, nothing is allocated. Raises ValueError for operands that do not fit or a GPU that can't.
    """
    call, out = plan_blockwise_mm(a, b, scale_a, scale_b, out_dtype, out=out, config=config, workspace=workspace)
    call.enqueue_on(out.device)
    return out


def plan_blockwise_mm(
    a: torch.Tensor,
    b: torch.Tensor,
    scale_a: torch.Tensor,
    scale_b: torch.Tensor,
    out_dtype: torch.dtype,
    *,
    out: torch.Tensor | None = None,
    config: TritonConfig | None = None,
    workspace: Workspace | None = None,
) -> tuple[Call, torch.Tensor]:
    """The launch of `blockwise_mm`, checked and ready, and the `out` that it writes."""
    sides = operands.take_sides(a, b, out_dtype, out, config, workspace, blockwise=True)
    m, n, k = sides.gemm.shape.m, sides.gemm.shape.n, sides.gemm.shape.k
    blocks_k, blocks_n = ceil_div(k, BLOCK), ceil_div(n, BLOCK)
    operands.check_tensor("scale_a", scale_a, torch.float32, (m, blocks_k), a.device)
    operands.check_tensor("scale_b", scale_b, torch.float32, (blocks_k, blocks_n), a.device)
    call = Call(
        kernel=device.blockwise_mm,
        grid=sides.grid,
        arguments=(
            *sides.matrices(),
            scale_a,
            scale_b,
            *sides.buffers,
            m,
            n,
            k,
            *sides.strides,
            *scale_a.stride(),
            *scale_b.stride(),
        ),
        constants=sides.constants,
    )
    return call, sides.out

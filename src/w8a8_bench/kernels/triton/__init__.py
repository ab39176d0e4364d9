"""GEMM and quantization kernels in Triton, for any GPU from compute capability 8.0 (int8) or 8.9 (FP8) on.

`scaled_mm`, `scaled_mm_azp` and `blockwise_mm` take operands as vLLM's CUTLASS functions do. `device/` is what the GPU
runs, and the modules beside it what the host does: check, choose a configuration (`config`), launch.
"""

from w8a8_bench.kernels.triton.blockwise_mm import blockwise_mm, plan_blockwise_mm
from w8a8_bench.kernels.triton.configs import TritonConfig
from w8a8_bench.kernels.triton.operands import Workspace, make_workspace
from w8a8_bench.kernels.triton.quantize import apply_static, plan_apply_static, plan_quantize, quantize
from w8a8_bench.kernels.triton.scaled_mm import plan_scaled_mm, scaled_mm, scaled_mm_azp

__all__ = [
    "TritonConfig",
    "Workspace",
    "apply_static",
    "blockwise_mm",
    "make_workspace",
    "plan_apply_static",
    "plan_blockwise_mm",
    "plan_quantize",
    "plan_scaled_mm",
    "quantize",
    "scaled_mm",
    "scaled_mm_azp",
]

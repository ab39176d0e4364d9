"""FlashInfer's blockwise FP8 GEMM for Hopper, which is TensorRT-LLM's copy of DeepGEMM.

    flashinfer.gemm.fp8_blockscale_gemm_sm90(a, w, scale_a, scale_b, out)

a [m,k] and w [n,k] row-major, scale_b fp32 [ceil(n/128), k/128] row-major, out bf16. The documentation has scale_a as
[m, k/128], but the library ignores its strides and reads k/128 rows of m floats, each row padded to a multiple of 16
bytes. Its `deep_gemm/fp8_gemm.cuh` says so twice: `make_2d_tma_scales_a_desc`, and `make_2d_tma_scales_b_desc_swapAB`
for m below 32. In the first call nvcc builds its extension, which takes minutes, and then a kernel for each shape. They
are kept in $FLASHINFER_WORKSPACE_BASE and $TRTLLM_DG_CACHE_DIR (`cache.LIBRARIES`).
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from functools import partial
from typing import Any

from w8a8_bench.correctness.operand_factory import OperandFactory
from w8a8_bench.environment.architecture import HOPPER
from w8a8_bench.environment.device import Device, dotted
from w8a8_bench.kernel import CompileError, Launches, PreparedKernel, Probe, Support
from w8a8_bench.problem import BLOCK, Activations, Problem
from w8a8_bench.problem.distribution import Distribution
from w8a8_bench.problem.operands import Operands
from w8a8_bench.providers.deepgemm import tma_aligned

N_MULTIPLE = 64


def probe() -> Probe:
    return Probe.of("flashinfer", "flashinfer-python")


def _load() -> Any:
    """Its GEMMs. Raises what its import raises."""
    return importlib.import_module("flashinfer.gemm")


def bind(gemms: Any, operands: Operands) -> Launches:
    """The launch of the kernel for a shape. In each call the library allocates a workspace, which stays unused."""
    scale_a, scale_b = operands.scales()
    w, scale_a, scale_b = operands.b.t(), tma_aligned(scale_a), scale_b.t().contiguous()
    return Launches(partial(gemms.fp8_blockscale_gemm_sm90, operands.a, w, scale_a, scale_b, operands.out))


@dataclass(frozen=True)
class FlashInferKernel:
    """The one name of this provider."""

    name: str

    def supports(self, problem: Problem, device: Device) -> Support:
        reason = why_unsupported(problem, device) or probe().reason
        return Support.no(reason) if reason else Support.yes()

    def prepare(self, problem: Problem, device: Device) -> PreparedKernel:
        """Compile, by one call on zeros. Raises CompileError if its extension can't be built."""
        gemms = _load()
        factory = OperandFactory(problem.shape, device.torch_name, data=Distribution.ZEROS.value, seed=0)
        try:
            bind(gemms, factory.make(problem)).total()
        except RuntimeError as error:
            if "Ninja build failed" in str(error):  # the library has no exception of its own for it
                raise CompileError(str(error)) from error
            raise
        return PreparedKernel(partial(bind, gemms), {"library": f"FlashInfer {probe().version}"})


def why_unsupported(problem: Problem, device: Device) -> str | None:
    """The limit that `problem` on `device` is past, or None."""
    shape, scaling = problem.shape, problem.scaling
    if scaling is None or not scaling.is_blockwise:
        return f"{scaling or 'a product without scales'} needs a kernel that is not named *_blockwise"
    if problem.activations is not Activations.PREQUANTIZED:
        return "only activations that are quantized already are given to FlashInfer"
    if device.capability != HOPPER:
        return f"needs compute capability {dotted(HOPPER)}, and {device.name} has {dotted(device.capability)}"
    for size, value, multiple in (("n", shape.n, N_MULTIPLE), ("k", shape.k, BLOCK)):
        if value % multiple:
            return f"{size}={value} is not a multiple of {multiple}, which FlashInfer's kernel needs"
    return None


def kernel(name: str) -> FlashInferKernel:
    if probe().installed:
        _load()
    return FlashInferKernel(name)

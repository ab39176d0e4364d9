"""vLLM's compiled CUTLASS kernels, from the extension file of the installed package.

vLLM itself is not imported: that takes seconds and brings a server along. Its extension registers operators with
PyTorch, which are called here as vLLM calls them (`vllm/_custom_ops.py`):

    torch.ops._C.cutlass_scaled_mm(out, a, b, scale_a, scale_b, bias)
    torch.ops._C.cutlass_scaled_mm_azp(out, a, b, scale_a, scale_b, azp_adj, azp, bias)

a [m,k] row-major, b [k,n] column-major, scale_a of 1 or m elements, scale_b of 1 or n, azp_adj int32 [n], azp int32 [m]
or None. Scales of any other number are blockwise: scale_a [m, ceil(k/128)] with m contiguous, scale_b [ceil(k/128),
ceil(n/128)] with k contiguous. The limits are those that the operators check for themselves, and vLLM before them.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from w8a8_bench.environment.architecture import tensor_cores_since
from w8a8_bench.environment.device import Device, dotted
from w8a8_bench.kernel import Launches, PreparedKernel, Probe, Support
from w8a8_bench.problem import BLOCK, BLOCKWISE, Activations, Azp, Problem
from w8a8_bench.problem.formats import Format
from w8a8_bench.problem.kernel_name import KernelName
from w8a8_bench.problem.operands import Operands, column_major
from w8a8_bench.providers import installed

EXTENSIONS = ("_C_stable_libtorch.abi3.so", "_C.abi3.so")
"""Files that may hold the kernels: the first in vLLM 0.23 and later, built on PyTorch's stable interface, earlier the
second."""

FITTING = "vLLM 0.23 is built for PyTorch 2.11, and 0.33 for 2.14, but it loads in 2.11 too"

ALIGNMENT = 16
"""Elements: rows of b and of out must start at multiples of it."""

BLOCKWISE_ROWS = 4
"""m must be a multiple of it for blockwise scales, whose columns then begin at 16 bytes."""

BLOCKWISE_SINCE, NO_INT8_SINCE = (9, 0), (10, 0)
"""Compute capabilities from which vLLM has blockwise kernels, and from which it has no int8 kernels any more."""


def probe() -> Probe:
    extensions = _extensions()
    if extensions is None:
        return Probe.missing("vllm is not installed")
    if not extensions:
        return Probe.broken(f"vllm is installed without its compiled kernels ({' or '.join(EXTENSIONS)})")
    package = extensions[0].parent
    return Probe.found(installed.version("vllm", files=(package / "_version.py", package / "version.py")))


def directory() -> Path | None:
    """Where the package lies; None if it is not installed."""
    return installed.directory("vllm", *EXTENSIONS)


def _extensions() -> list[Path] | None:
    """The extension files that are there; None if the package is not installed."""
    package = directory()
    return None if package is None else [package / name for name in EXTENSIONS if (package / name).is_file()]


@functools.cache
def _operators() -> Any:
    """vLLM's operators. Raises what the linker raises, or AttributeError if the files lack the kernels."""
    import torch

    operators: Any = torch.ops._C
    for path in _extensions() or ():
        if hasattr(operators, "cutlass_scaled_mm"):
            break
        installed.load_operators(path, FITTING)
    for name in ("cutlass_scaled_mm", "cutlass_scaled_mm_azp", "cutlass_scaled_mm_supports_fp8"):
        if not hasattr(operators, name):
            raise AttributeError(f"its extension has no operator {name}")
    return operators


def bind(operators: Any, operands: Operands) -> Launches:
    """The launch of vLLM's kernel for a problem; everything was compiled long ago."""
    out, a, b, bias, problem = operands.out, operands.a, operands.b, operands.bias, operands.problem
    scale_a, scale_b = operands.scales()
    if problem.scaling == BLOCKWISE:
        scale_a, scale_b = column_major(scale_a), column_major(scale_b)
    else:
        scale_a, scale_b = scale_a.contiguous(), scale_b.contiguous()
    if problem.azp is Azp.NONE:
        return Launches(partial(operators.cutlass_scaled_mm, out, a, b, scale_a, scale_b, bias))
    # One zero point for the whole tensor is in azp_adj already.
    azp = operands.azp.view(-1) if operands.azp is not None and problem.azp is Azp.TOKEN else None
    return Launches(partial(operators.cutlass_scaled_mm_azp, out, a, b, scale_a, scale_b, operands.azp_adj, azp, bias))


@dataclass(frozen=True)
class VllmKernel:
    """One name of this provider."""

    name: str

    @property
    def fast_accum(self) -> bool:
        """vLLM's CUTLASS kernels promote sums to fp32 in blockwise products alone."""
        return not KernelName.parse(self.name).is_blockwise

    def supports(self, problem: Problem, device: Device) -> Support:
        reason = why_unsupported(KernelName.parse(self.name), problem, device)
        if not reason and problem.format is Format.FP8:
            reason = self._not_compiled(problem, device)
        return Support.no(reason) if reason else Support.yes()

    def _not_compiled(self, problem: Problem, device: Device) -> str | None:
        """What the installed extension says that it was compiled without."""
        assert problem.scaling is not None and device.capability is not None
        major, minor = device.capability
        kind = "block_fp8" if problem.scaling.is_blockwise else "fp8"
        ask = getattr(_operators(), f"cutlass_scaled_mm_supports_{kind}", None)
        if ask is not None and not ask(10 * major + minor):
            return f"this build of vLLM has no such kernel for compute capability {major}.{minor}"
        return None

    def prepare(self, problem: Problem, device: Device) -> PreparedKernel:
        return PreparedKernel(partial(bind, _operators()), {"library": f"vllm {probe().version}"})


def why_unsupported(name: KernelName, problem: Problem, device: Device) -> str | None:
    """The limit that `problem` on `device` is past, or None."""
    shape, scaling = problem.shape, problem.scaling
    if reason := name.why_not_under(scaling):
        return reason
    if problem.activations is not Activations.PREQUANTIZED:
        return "vLLM's CUTLASS kernels take activations that are quantized already"
    if not device.is_cuda or device.capability is None:
        return "vLLM's CUTLASS kernels need an NVIDIA GPU"
    since = BLOCKWISE_SINCE if name.is_blockwise else tensor_cores_since(problem.format)
    capability = dotted(device.capability)
    if device.capability < since:
        return f"needs compute capability {dotted(since)} or newer, and {device.name} has {capability}"
    if problem.format is Format.INT8 and device.capability >= NO_INT8_SINCE:
        return f"vLLM has no int8 kernel for compute capability {capability}"
    multiple = BLOCK if name.is_blockwise else ALIGNMENT
    for size, value in (("n", shape.n), ("k", shape.k)):
        if value % multiple:
            return f"{size}={value} is not a multiple of {multiple}, which vLLM's kernels for {scaling} need"
    if name.is_blockwise and shape.m % BLOCKWISE_ROWS:
        return f"m={shape.m} is not a multiple of {BLOCKWISE_ROWS}, which vLLM's kernels for {scaling} need"
    return None


def kernel(name: str) -> VllmKernel:
    _operators()
    return VllmKernel(name)

"""vLLM's compiled CUTLASS kernels, from the extension file of the installed package.

vLLM itself is not imported: that takes seconds and brings a server along. Its extension registers operators with
PyTorch, which are called here as vLLM calls them (`vllm/_custom_ops.py`):

    torch.ops._C.cutlass_scaled_mm(out, a, b, scale_a, scale_b, bias)
    torch.ops._C.cutlass_scaled_mm_azp(out, a, b, scale_a, scale_b, azp_adj, azp, bias)

a [m,k] row-major, b [k,n] column-major, scale_a of 1 or m elements, scale_b of 1 or n, azp_adj int32 [n], azp int32 [m]
or None. Scales of any other number are blockwise: scale_a [m, ceil(k/128)] with m contiguous, scale_b [ceil(k/128),
ceil(n/128)] with k contiguous. The limits are those that the operators check for themselves, and vLLM before them.

Activations that are quantized inside the timed region are quantized by vLLM's own operators, as in its linear layers:

    torch.ops._C.dynamic_scaled_fp8_quant(q, x, scale)                         one scale, which it computes
    torch.ops._C.dynamic_per_token_scaled_fp8_quant(q, x, scale, scale_ub)     a scale a token
    torch.ops._C.per_token_group_fp8_quant(x, q, scale, 128, eps, -448.0, 448.0, scale_ue8m0, ...)
    torch.ops._C.dynamic_scaled_int8_quant(q, x, scale, azp)                   a scale a token, and an azp or None
    torch.ops._C.static_scaled_fp8_quant(q, x, scale)                          one scale, which is given
    torch.ops._C.static_scaled_int8_quant(q, x, scale, azp)

Their codes are not the reference's bit for bit, so the launches declare them: some multiply by a reciprocal, and the
range of a token's zero point need not hold 0.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from w8a8_bench.environment.architecture import tensor_cores_since
from w8a8_bench.environment.device import Device, dotted
from w8a8_bench.kernel import Codes, Launch, Launches, PreparedKernel, Probe, Support
from w8a8_bench.problem import BLOCK, BLOCKWISE, Activations, ActScale, Azp, Problem
from w8a8_bench.problem.formats import FP8_MAX, Format
from w8a8_bench.problem.kernel_name import KernelName
from w8a8_bench.problem.operands import Operands, column_major
from w8a8_bench.providers import installed
from w8a8_bench.text import one_line

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

GROUP_EPS = 1e-10
"""Least absmax of a group, which vLLM's `per_token_group_quant_fp8` passes to the operator."""

QUANTIZERS = {
    (Activations.DYNAMIC, Format.FP8, ActScale.TENSOR): "dynamic_scaled_fp8_quant",
    (Activations.DYNAMIC, Format.FP8, ActScale.TOKEN): "dynamic_per_token_scaled_fp8_quant",
    (Activations.DYNAMIC, Format.FP8, ActScale.GROUP): "per_token_group_fp8_quant",
    (Activations.DYNAMIC, Format.INT8, ActScale.TOKEN): "dynamic_scaled_int8_quant",
    (Activations.STATIC, Format.FP8, ActScale.TENSOR): "static_scaled_fp8_quant",
    (Activations.STATIC, Format.INT8, ActScale.TENSOR): "static_scaled_int8_quant",
}
"""The operator that quantizes activations. vLLM has none for int8 with one scale that is computed."""


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

    for name in ("cutlass_scaled_mm", "cutlass_scaled_mm_azp", "cutlass_scaled_mm_supports_fp8"):
        if not _load(name):
            raise AttributeError(f"its extension has no operator {name}")
    return torch.ops._C


def _load(name: str) -> bool:
    """Load vLLM's extension files until one has the operator `name`; whether one has."""
    import torch

    for path in _extensions() or ():
        if hasattr(torch.ops._C, name):
            break
        installed.load_operators(path, FITTING)
    return hasattr(torch.ops._C, name)


def bind(operators: Any, operands: Operands) -> Launches:
    """The launches of vLLM's kernels for a problem; everything was compiled long ago."""
    if operands.problem.activations is Activations.PREQUANTIZED:
        return Launches(_bind_gemm(operators, operands))
    codes = _make_codes(operands)
    quant = _bind_quantization(operators, operands, codes)
    gemm = _bind_gemm(operators, replace(operands, a=codes.q, scale_a=codes.scale, azp=codes.azp))

    def total() -> None:
        quant()
        gemm()

    return Launches(total, quant=quant, gemm=gemm, codes=codes)


def _bind_gemm(operators: Any, operands: Operands) -> Launch:
    out, a, b, bias, problem = operands.out, operands.a, operands.b, operands.bias, operands.problem
    scale_a, scale_b = operands.scales()
    if problem.scaling == BLOCKWISE:
        scale_a, scale_b = column_major(scale_a), column_major(scale_b)
    else:
        scale_a, scale_b = scale_a.contiguous(), scale_b.contiguous()
    if problem.azp is Azp.NONE:
        return partial(operators.cutlass_scaled_mm, out, a, b, scale_a, scale_b, bias)
    # One zero point for the whole tensor is in azp_adj already.
    azp = operands.azp.view(-1) if operands.azp is not None and problem.azp is Azp.TOKEN else None
    return partial(operators.cutlass_scaled_mm_azp, out, a, b, scale_a, scale_b, operands.azp_adj, azp, bias)


def _make_codes(operands: Operands) -> Codes:
    """Room for what vLLM's quantization writes, in the layout that its GEMM reads; what is given is taken as it is."""
    import torch

    problem, x = operands.problem, operands.a
    m, k = x.shape
    q = torch.empty_like(x, dtype=getattr(torch, problem.format.torch_name))
    if problem.activations is Activations.STATIC:
        assert operands.scale_a is not None, "static quantization is given its scale"
        return Codes(q, operands.scale_a, operands.azp)
    assert problem.scaling is not None
    rows = 1 if problem.scaling.activation is ActScale.TENSOR else m
    columns = k // BLOCK if problem.scaling.is_blockwise else 1
    scale = column_major(torch.empty(rows, columns, dtype=torch.float32, device=x.device))
    azp = torch.empty(m, 1, dtype=torch.int32, device=x.device) if problem.azp is Azp.TOKEN else None
    return Codes(q, scale, azp)


def _bind_quantization(operators: Any, operands: Operands, codes: Codes) -> Launch:
    problem, x = operands.problem, operands.a
    name = quantizer(problem)
    assert name is not None, "`supports` refuses what vLLM has no operator for"
    quantize = getattr(operators, name)
    if name == "per_token_group_fp8_quant":
        # vLLM 0.23 has eight arguments. In 0.33 two more follow, which its graph compiler needs and the kernel ignores.
        ignored = [False] * (len(quantize.default._schema.arguments) - 8)
        return partial(quantize, x, codes.q, codes.scale, BLOCK, GROUP_EPS, -FP8_MAX, FP8_MAX, False, *ignored)
    if name == "dynamic_per_token_scaled_fp8_quant":
        return partial(quantize, codes.q, x, codes.scale, None)
    if problem.format is Format.INT8:
        return partial(quantize, codes.q, x, codes.scale, codes.azp)
    return partial(quantize, codes.q, x, codes.scale)


def quantizer(problem: Problem) -> str | None:
    """The operator that quantizes the activations of `problem`, None if vLLM has none."""
    assert problem.scaling is not None
    return QUANTIZERS.get((problem.activations, problem.format, problem.scaling.activation))


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
        if not reason and problem.activations is not Activations.PREQUANTIZED:
            reason = _why_not_quantized(problem)
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


def _why_not_quantized(problem: Problem) -> str | None:
    """Why the installed vLLM can't quantize the activations of `problem`, or None if it can."""
    name = quantizer(problem)
    if name is None:
        return "vLLM has no operator that computes one int8 scale for all of A"
    try:
        found = _load(name)
    except OSError as error:
        return one_line(f"vLLM's operators that quantize do not load: {error}")
    return None if found else f"this version of vLLM has no operator {name} to quantize activations"


def kernel(name: str) -> VllmKernel:
    _operators()
    return VllmKernel(name)

"""SGLang's compiled CUTLASS kernels, from the extension file of its package `sgl_kernel`.

Neither sglang nor sgl_kernel is imported. The extension registers operators with PyTorch, which are called here as
SGLang calls them (`sgl_kernel/gemm.py`). They return D:

    torch.ops.sgl_kernel.int8_scaled_mm(a, b, scale_a, scale_b, out_dtype, bias)
    torch.ops.sgl_kernel.fp8_scaled_mm(a, b, scale_a, scale_b, out_dtype, bias)
    torch.ops.sgl_kernel.fp8_blockwise_scaled_mm(a, b, scale_a, scale_b, out_dtype)

    torch.ops.sgl_kernel.sgl_per_token_quant_fp8(x, q, scale)
    torch.ops.sgl_kernel.sgl_per_token_group_quant_8bit(x, q, scale, 128, eps, -448, 448, False)

a [m,k] row-major, b [k,n] column-major, scale_a fp32 of m elements, scale_b fp32 of n; blockwise: scale_a [m, k/128]
with m contiguous, scale_b [k/128, n/128] with k contiguous. One scale for a whole tensor is repeated for each token or
channel in `bind`, as SGLang itself does, since its kernels read no other. The blockwise operator copies scale_b, and if
m is not a multiple of 4 also A and scale_a, in every call: these copies are timed. The limits are those that the
operators check for themselves (SGLang's `sgl-kernel/csrc/gemm`) and the architectures that the wheels are compiled for.

The last two quantize x [m,k] in front of the FP8 products: q [m,k], scale fp32 [m,1] or [m, k/128]. Their codes are not
the reference's bit for bit, so the launches declare them. SGLang quantizes to int8 in Triton kernels of its server,
which are not here.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from w8a8_bench.environment.architecture import HOPPER
from w8a8_bench.environment.device import Device, dotted
from w8a8_bench.kernel import Codes, Launch, Launches, PreparedKernel, Probe, Refused, Support
from w8a8_bench.problem import BLOCK, Activations, ActScale, Problem
from w8a8_bench.problem.formats import FP8_MAX, Format
from w8a8_bench.problem.kernel_name import KernelName
from w8a8_bench.problem.operands import Operands, column_major
from w8a8_bench.providers import installed

PACKAGE = "sgl_kernel"
DISTRIBUTIONS = ("sglang-kernel", "sgl-kernel")
"""What the package comes in: the first since 0.4, earlier the second."""

RELEASES = {
    (2, 11): "sglang-kernel==0.4.4",
    (2, 13): "sglang-kernel==0.4.8",
    (2, 14): "sglang-kernel==0.4.10",
}
"""By PyTorch's version, a release that is built for it, all with CUDA 13."""

BUILT_FOR = f"releases are built for CUDA 13 with PyTorch {', '.join(map(dotted, RELEASES))}"

FILES = HOPPER_FILES, OTHER_FILES, OLDER_FILES = "sm90/common_ops*.so", "sm100/common_ops*.so", "common_ops*.so"
"""Where the operators are: SGLang loads the first on compute capability 9.0 and the second on any other GPU. Older
releases have the third, for all GPUs."""

K_MULTIPLE, N_MULTIPLE = 16, 8
"""Elements: rows of A and columns of B begin at multiples of 16 bytes, and rows of D too."""

SINCE = {Format.INT8: (8, 0), Format.FP8: (8, 9)}
NO_INT8_SINCE = (10, 0)
GROUP_EPS = 1e-10
"""Least absmax of a group, which SGLang passes to the operator."""

QUANTIZERS = {
    (Format.FP8, ActScale.TOKEN): "sgl_per_token_quant_fp8",
    (Format.FP8, ActScale.GROUP): "sgl_per_token_group_quant_8bit",
}

BLOCKWISE_ON = ((9, 0), (10, 0), (12, 0))
"""Compute capabilities on which the operators run: a multiplication's first, int8's end, and those with blocks."""


def probe() -> Probe:
    package = _directory()
    if package is None:
        return Probe.missing("sglang-kernel is not installed")
    if not any(_first(package, pattern) for pattern in FILES):
        return Probe.broken(f"sgl_kernel is installed without its compiled kernels ({' or '.join(FILES[:2])})")
    return Probe.found(installed.version(*DISTRIBUTIONS, files=(package / "version.py",)))


def _directory() -> Path | None:
    return installed.directory(PACKAGE, *FILES)


def _first(package: Path, pattern: str) -> Path | None:
    return min(package.glob(pattern), default=None)


@functools.cache
def _operators() -> Any:
    """SGLang's operators for the current GPU. Raises OSError or ImportError, saying which release would work."""
    import torch

    operators: Any = torch.ops.sgl_kernel
    if hasattr(operators, "fp8_scaled_mm"):
        return operators
    package = _directory()
    assert package is not None, "probe says whether there is one"
    capability = torch.cuda.get_device_capability()
    wanted = HOPPER_FILES if capability == HOPPER else OTHER_FILES
    file = _first(package, wanted) or _first(package, OLDER_FILES)
    if file is None:
        raise ImportError(f"it has no {wanted} for compute capability {dotted(capability)}; {_fitting()}")
    installed.load_operators(file, _fitting())
    for name in ("int8_scaled_mm", "fp8_scaled_mm"):
        if not hasattr(operators, name):
            raise ImportError(f"its extension has no operator {name}; {_fitting()}")
    return operators


def _fitting() -> str:
    """What would work, for whom it does not."""
    from torch import __version__ as version

    major, minor = map(int, version.split(".")[:2])
    if release := RELEASES.get((major, minor)):
        return f"for PyTorch {major}.{minor} with CUDA 13: pip install --no-deps {release}"
    return f"{BUILT_FOR}, and this is {version}"


def bind(operators: Any, operands: Operands) -> Launches:
    """The launches of SGLang's kernels for a problem, which return D; everything was compiled long ago."""
    if operands.problem.activations is Activations.PREQUANTIZED:
        return Launches(_bind_gemm(operators, operands))
    codes = _make_codes(operands)
    quant = _bind_quantization(operators, operands, codes)
    gemm = _bind_gemm(operators, replace(operands, a=codes.q, scale_a=codes.scale))

    def total() -> object:
        quant()
        return gemm()

    return Launches(total, quant=quant, gemm=gemm, codes=codes)


def _bind_gemm(operators: Any, operands: Operands) -> Launch:
    a, b, out, problem = operands.a, operands.b, operands.out, operands.problem
    scale_a, scale_b = operands.scales()
    assert problem.scaling is not None
    if problem.scaling.is_blockwise:
        scales = column_major(scale_a), column_major(scale_b)
        return partial(operators.fp8_blockwise_scaled_mm.default, a, b, *scales, out.dtype)
    m, n = out.shape
    scale_a, scale_b = scale_a.expand(m, 1).contiguous(), scale_b.expand(1, n).contiguous()
    operator = operators.int8_scaled_mm if problem.format is Format.INT8 else operators.fp8_scaled_mm
    return partial(operator.default, a, b, scale_a, scale_b, out.dtype, operands.bias)


def _make_codes(operands: Operands) -> Codes:
    """Room for what SGLang's quantization writes, in the layout that its GEMM reads."""
    import torch

    problem, x = operands.problem, operands.a
    m, k = x.shape
    assert problem.scaling is not None
    q = torch.empty_like(x, dtype=torch.float8_e4m3fn)
    scale = torch.empty(m, k // BLOCK if problem.scaling.is_blockwise else 1, dtype=torch.float32, device=x.device)
    return Codes(q, column_major(scale))


def _bind_quantization(operators: Any, operands: Operands, codes: Codes) -> Launch:
    scaling, x = operands.problem.scaling, operands.a
    assert scaling is not None
    quantize = getattr(operators, QUANTIZERS[operands.problem.format, scaling.activation])
    if scaling.is_blockwise:
        return partial(quantize, x, codes.q, codes.scale, BLOCK, GROUP_EPS, -FP8_MAX, FP8_MAX, False)
    return partial(quantize, x, codes.q, codes.scale)


@dataclass(frozen=True)
class SglangKernel:
    """One name of this provider."""

    name: str

    @property
    def fast_accum(self) -> bool:
        """SGLang's CUTLASS kernels promote sums to fp32 in blockwise products alone."""
        return not KernelName.parse(self.name).is_blockwise

    def supports(self, problem: Problem, device: Device) -> Support:
        reason = why_unsupported(KernelName.parse(self.name), problem, device)
        if not reason and problem.activations is not Activations.PREQUANTIZED:
            reason = _why_not_quantized(problem)
        return Support.no(reason) if reason else Support.yes()

    def prepare(self, problem: Problem, device: Device) -> PreparedKernel:
        return PreparedKernel(partial(bind, _operators()), {"library": f"sgl_kernel {probe().version}"})


def why_unsupported(name: KernelName, problem: Problem, device: Device) -> str | None:
    """The limit that `problem` on `device` is past, or None."""
    shape, scaling = problem.shape, problem.scaling
    if reason := name.why_not_under(scaling):
        return reason
    if not device.is_cuda or device.capability is None:
        return "SGLang's CUTLASS kernels need an NVIDIA GPU"
    since, capability = SINCE[problem.format], dotted(device.capability)
    if device.capability < since:
        return f"needs compute capability {dotted(since)} or newer, and {device.name} has {capability}"
    if problem.format is Format.INT8 and device.capability >= NO_INT8_SINCE:
        return f"SGLang has no int8 kernel for compute capability {capability}"
    if name.is_blockwise and device.capability not in BLOCKWISE_ON:
        return f"SGLang has no blockwise kernel for compute capability {capability}"
    limits = (("n", shape.n, N_MULTIPLE), ("k", shape.k, K_MULTIPLE))
    for size, value, multiple in limits:
        multiple = BLOCK if name.is_blockwise else multiple
        if value % multiple:
            return f"{size}={value} is not a multiple of {multiple}, which SGLang's kernels for {scaling} need"
    return None


def _why_not_quantized(problem: Problem) -> str | None:
    """Why the installed operators can't quantize the activations of `problem`, or None if they can."""
    assert problem.scaling is not None
    name = QUANTIZERS.get((problem.format, problem.scaling.activation))
    if name is None or problem.activations is not Activations.DYNAMIC:
        return "SGLang's operators quantize to FP8 only, with scales that they compute for each token or group"
    found = hasattr(_operators(), name)
    return None if found else f"this version of sgl_kernel has no operator {name} to quantize activations"


def kernel(name: str) -> SglangKernel:
    import torch

    if torch.cuda.is_available():  # the GPU decides which file is loaded; without one the kernel refuses
        operators = _operators()
        if KernelName.parse(name).is_blockwise and not hasattr(operators, "fp8_blockwise_scaled_mm"):
            raise Refused(
                f"sgl_kernel {probe().version} has no blockwise kernel; sglang-kernel 0.4.4 is the last that has"
            )
    return SglangKernel(name)

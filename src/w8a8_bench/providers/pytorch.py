"""PyTorch's own GEMMs, on CUDA and on a CPU: 16-bit baselines, `torch._scaled_mm`, `torch._int_mm`. FP8 on a CPU is
emulated by a GEMM in fp32.

Layouts, workspaces and outputs are made in `bind`, so that a launch enqueues the work and nothing else. What PyTorch
offers only as separate operations (the scaling of an int32 product, quantization) is timed as those operations.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar

import torch

from w8a8_bench.correctness.quantize import apply_static, quantize_activations, upcast
from w8a8_bench.environment.architecture import tensor_cores_since
from w8a8_bench.environment.device import Device, dotted
from w8a8_bench.kernel import Launch, Launches, PreparedKernel, Support
from w8a8_bench.problem import PER_TENSOR, Activations, Azp, Problem
from w8a8_bench.problem.formats import Format
from w8a8_bench.problem.kernel_name import KernelName
from w8a8_bench.problem.operands import Operands
from w8a8_bench.providers.cublaslt_api import BLOCKWISE_ROWS, has_fine_scales, padded_block_scales

EMULATION = "operands upcast, multiplied in fp32"
"""How FP8 is multiplied on a CPU; in the record's `config`."""

BindGemm = Callable[[Operands], Launch]
"""Makes the launch of a GEMM on operands that are quantized, or that a launch before it quantizes."""


def int_mm(a: torch.Tensor, b: torch.Tensor, out: torch.Tensor) -> None:
    """`out = a @ b` in int32, exactly: a int8 [m,k] row-major, b int8 [k,n] from `int_mm_weight`, out int32 [m,n]."""
    torch._int_mm(a, b, out=out)


def int_mm_weight(b: torch.Tensor) -> torch.Tensor:
    """b int8 [k,n] as `int_mm` takes it: a copy on a CPU if k is 1, for which `_int_mm` is wrong for a transposed b."""
    if b.device.type == "cpu" and b.shape[0] == 1:
        return b.clone(memory_format=torch.contiguous_format)
    return b


def bind(bind_gemm: BindGemm, operands: Operands) -> Launches:
    """The launches of a cell: the GEMM, and before it the quantization of the activations if they are not quantized."""
    if operands.problem.activations is Activations.PREQUANTIZED:
        return Launches(bind_gemm(operands))
    quant, quantized = _bind_quantization(operands)
    gemm = bind_gemm(quantized)

    def total() -> None:
        quant()
        gemm()

    return Launches(total, quant=quant, gemm=gemm)


def _bind_quantization(operands: Operands) -> tuple[Launch, Operands]:
    """A launch that quantizes `operands.a` into buffers, and operands whose A, scale and zero point are those buffers.

    The launch runs the torch code of the reference formulas, so its answer is the reference's bit for bit. After the
    first call its temporaries come from PyTorch's cache.
    """
    problem, x, scale, azp = operands.problem, operands.a, operands.scale_a, operands.azp
    if problem.activations is Activations.STATIC:
        if scale is None:
            raise ValueError("static quantization needs scale_a")
        q = apply_static(x, scale, azp, problem.format)

        def quantize_static() -> None:
            q.copy_(apply_static(x, scale, azp, problem.format))

        return quantize_static, replace(operands, a=q)

    buffers = quantize_activations(x, problem)

    def quantize_dynamic() -> None:
        fresh = quantize_activations(x, problem)
        buffers.q.copy_(fresh.q)
        buffers.scale.copy_(fresh.scale)
        if buffers.azp is not None and fresh.azp is not None:
            buffers.azp.copy_(fresh.azp)

    return quantize_dynamic, replace(operands, a=buffers.q, scale_a=buffers.scale, azp=buffers.azp)


def _nothing() -> None:
    """What a launch does for a tensor that is ready as it is."""


def _in_layout(problem: Problem, scale: torch.Tensor, buffer: torch.Tensor) -> tuple[torch.Tensor, Launch]:
    """`scale` in the layout of `buffer`, and what a launch must do for it.

    A scale that is given is copied once, here. One that the launch computes is copied in every launch, unless it
    lies in memory as the GEMM wants it.
    """
    if scale.stride() == buffer.stride():
        return scale, _nothing
    buffer.copy_(scale)
    if problem.activations is not Activations.DYNAMIC:
        return buffer, _nothing
    return buffer, lambda: buffer.copy_(scale)


def matmul(operands: Operands) -> Launch:
    """`D = A @ B` on 16-bit operands."""
    return partial(torch.mm, operands.a, operands.b, out=operands.out)


def cast_matmul(operands: Operands) -> Launch:
    """`D = cast(A) @ cast(B)`: both 8-bit operands are cast in every launch, as the original does."""
    a, b, out = operands.a, operands.b, operands.out
    wide_a, wide_b = torch.empty_like(a, dtype=out.dtype), torch.empty_like(b, dtype=out.dtype)

    def launch() -> None:
        wide_a.copy_(a)
        wide_b.copy_(b)
        torch.mm(wide_a, wide_b, out=out)

    return launch


def scaled_mm(operands: Operands, *, fast_accum: bool) -> Launch:
    """`torch._scaled_mm` with scales per tensor, or row-wise: [m,1] by [1,n], a single scale repeated over its side."""
    a, b, out, problem = operands.a, operands.b, operands.out, operands.problem
    m, n = out.shape
    scale_a, scale_b = operands.scales()
    refresh: Launch = _nothing
    if problem.scaling == PER_TENSOR:
        scale_a, scale_b = scale_a.view(()), scale_b.view(())
    else:
        # [1,n] and never [n,1], which `_scaled_mm` takes if k == n, with a wrong answer.
        scale_b = scale_b.expand(1, n).contiguous()
        scale_a, refresh = _in_layout(problem, scale_a.expand(m, 1), torch.empty(m, 1, device=a.device))

    def launch() -> None:
        refresh()
        torch._scaled_mm(a, b, scale_a, scale_b, out_dtype=out.dtype, use_fast_accum=fast_accum, out=out)

    return launch


class UpcastWeights:
    """B [k,n] in fp32, and the fp8 codes that it was made of.

    Four bytes an element is the most memory of an emulated kernel, so kernels of one comparison that read the same
    codes share it: `of` returns the one that another kernel still holds. An object holds its codes, so their address
    is not given to other codes while it lives. Codes that were written to since do not find it.
    """

    _alive: ClassVar[weakref.WeakValueDictionary[object, UpcastWeights]] = weakref.WeakValueDictionary()

    def __init__(self, b: torch.Tensor) -> None:
        self.codes = b
        weight = torch.empty(b.t().shape, device=b.device)
        upcast(b.t(), weight)
        self.wide = weight.t()

    @classmethod
    def of(cls, b: torch.Tensor) -> UpcastWeights:
        key = b.data_ptr(), b._version, b.shape, b.stride()
        found = cls._alive.get(key)
        if found is None:
            found = cls._alive[key] = cls(b)
        return found


def emulated_scaled_mm(held: list[UpcastWeights], operands: Operands) -> Launch:
    """What `torch._scaled_mm` computes, by a GEMM in fp32. Its own on a CPU is a scalar loop: 1 s at m = n = k = 256.

    acc = fp32(A) @ fp32(B); D = cast(acc * s_a * s_b). A is upcast in every launch, B once. Products of two e4m3
    numbers are exact in fp32, and D is rounded once. `held` keeps the weights until the next kernel is bound, since the
    check binds and releases one kernel after another.
    """
    a, out = operands.a, operands.out
    scale_a, scale_b = operands.scales()
    weights = UpcastWeights.of(operands.b)
    held[:] = [weights]
    wide_a = torch.empty(a.shape, device=a.device)
    acc = torch.empty(out.shape, device=out.device)

    def launch() -> None:
        upcast(a, wide_a)
        torch.mm(wide_a, weights.wide, out=acc)
        acc.mul_(scale_a)
        torch.mul(acc, scale_b, out=out)

    return launch


def scaled_mm_blockwise(operands: Operands) -> Launch:
    """`torch._scaled_mm_v2` with 1x128 by 128x128 scales: scale_a with m contiguous, scale_b with k.

    The recipes are named, since `torch._scaled_mm` guesses them from shapes. `_scaled_mm` also takes a scale_b that is
    not padded as cuBLASLt reads it, and its answer is then wrong (torch 2.11, k = 640 and 11008, relative error 1.5 and
    0.4).
    """
    from torch.nn.functional import ScalingType, SwizzleType

    a, b, out = operands.a, operands.b, operands.out
    scale_a, scale_b = operands.scales()
    m, groups = scale_a.shape
    scale_a, refresh = _in_layout(operands.problem, scale_a, torch.empty(groups, m, device=a.device).t())
    scale_b = padded_block_scales(scale_b).t()
    by_row, by_block = [ScalingType.BlockWise1x128.value], [ScalingType.BlockWise128x128.value]
    plain = [SwizzleType.NO_SWIZZLE.value]

    def launch() -> None:
        refresh()
        torch._scaled_mm_v2(a, b, [scale_a], by_row, plain, [scale_b], by_block, plain, None, out.dtype, out=out)

    return launch


def scaled_int_mm(operands: Operands) -> Launch:
    """`torch._int_mm`, then zero point, scales and bias as element-wise operations on its int32 product.

    acc = A @ B; acc -= azp_adj | azp * azp_adj (int32); D = cast(acc * s_a * s_b + bias), in fp32
    """
    a, b = operands.a, int_mm_weight(operands.b)
    azp, azp_adj = operands.azp, operands.azp_adj
    per_token = operands.problem.azp is Azp.TOKEN
    acc = torch.empty(operands.out.shape, dtype=torch.int32, device=operands.out.device)
    scale = scale_int32(acc, operands)

    def launch() -> None:
        int_mm(a, b, acc)
        if azp_adj is not None:
            if per_token and azp is not None:
                acc.addcmul_(azp, azp_adj, value=-1)
            else:
                acc.sub_(azp_adj)
        scale()

    return launch


def scale_int32(acc: torch.Tensor, operands: Operands) -> Launch:
    """The launch that makes `out` of its int32 product: `cast(acc * s_a * s_b + bias)`, in fp32."""
    out, bias = operands.out, operands.bias
    scale_a, scale_b = operands.scales()
    scaled = torch.empty(out.shape, dtype=torch.float32, device=out.device)

    def launch() -> None:
        torch.mul(acc, scale_a, out=scaled)
        if bias is None:
            torch.mul(scaled, scale_b, out=out)
        else:
            scaled.mul_(scale_b)
            torch.add(scaled, bias, out=out)

    return launch


@dataclass(frozen=True)
class PyTorchKernel:
    """One name of this provider. What it refuses, it refuses for a measured or documented limit of PyTorch."""

    name: str

    @property
    def parsed(self) -> KernelName:
        return KernelName.parse(self.name)

    @property
    def fast_accum(self) -> bool:
        return self.parsed.variant == "fast_accum"

    def supports(self, problem: Problem, device: Device) -> Support:
        name = self.parsed
        if name.is_baseline:
            return Support.yes()
        limit = _int_mm_limit if name.format is Format.INT8 else _scaled_mm_limit
        reason = name.why_not_under(problem.scaling) or limit(problem, device)
        return Support.no(reason) if reason else Support.yes()

    def prepare(self, problem: Problem, device: Device) -> PreparedKernel:
        gemm, config = self._gemm(problem, device)
        return PreparedKernel(partial(bind, gemm), config)

    def _gemm(self, problem: Problem, device: Device) -> tuple[BindGemm, dict[str, object]]:
        name = self.parsed
        if name.is_baseline:
            return cast_matmul if name.casts_inside else matmul, {}
        if name.format is Format.INT8:
            return scaled_int_mm, {}
        if name.is_blockwise:
            return scaled_mm_blockwise, {"scaling": "1x128 by 128x128"}
        scaling = "per tensor" if problem.scaling == PER_TENSOR else "row-wise"
        if not device.is_cuda:
            return partial(emulated_scaled_mm, []), {"scaling": scaling, "emulated": EMULATION}
        fast = self.fast_accum
        return partial(scaled_mm, fast_accum=fast), {"scaling": scaling, "use_fast_accum": fast}


def _int_mm_limit(problem: Problem, device: Device) -> str | None:
    shape = problem.shape
    if device.is_cuda:
        if shape.m <= 16:
            return f"m={shape.m}: torch._int_mm on a GPU needs m > 16"
        for size, value in (("n", shape.n), ("k", shape.k)):
            if value % 8:
                return f"{size}={value} is not a multiple of 8, which torch._int_mm on a GPU needs"
    return None


def _scaled_mm_limit(problem: Problem, device: Device) -> str | None:
    shape, scaling = problem.shape, problem.scaling
    assert scaling is not None  # `why_not_under`
    if not device.is_cuda:
        return f"PyTorch has no {scaling} product on a CPU" if scaling.is_blockwise else None
    if device.capability is None or device.capability < tensor_cores_since(Format.FP8):
        return f"fp8 needs compute capability 8.9 or newer, and {device.name} has {dotted(device.capability)}"
    for size, value in (("n", shape.n), ("k", shape.k)):
        if value % 16:
            return f"{size}={value} is not a multiple of 16, which torch._scaled_mm on a GPU needs"
    if scaling.is_blockwise:
        if not has_fine_scales(device):
            return (
                "cuBLASLt scales by 128x128 blocks on compute capability 9.0 with CUDA 12.9 or newer, "
                f"and this is {dotted(device.capability)} with CUDA {dotted(device.cuda)}"
            )
        if shape.m % BLOCKWISE_ROWS:
            return f"m={shape.m} is not a multiple of {BLOCKWISE_ROWS}, which cuBLASLt needs for {scaling}"
    return None


kernel = PyTorchKernel

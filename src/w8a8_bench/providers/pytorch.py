"""PyTorch's own GEMMs, on CUDA and on a CPU: 16-bit baselines, `torch._scaled_mm`, `torch._int_mm`. FP8 on a CPU is
emulated by a GEMM in fp32.

Layouts, workspaces and outputs are made in `bind`, so that a launch enqueues the work and nothing else. What PyTorch
offers only as separate operations (the scaling of an int32 product, quantization) is timed as those operations.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import ClassVar

import msgspec
import torch

from w8a8_bench.correctness.quantize import apply_static, quantize_activations, upcast
from w8a8_bench.environment.device import Device, dotted
from w8a8_bench.kernel import Launch, Launches, Support
from w8a8_bench.problem import Activations, ActScale, Azp, Problem, WeightScale, ceil_div
from w8a8_bench.problem.formats import Format
from w8a8_bench.problem.kernel_name import KernelName
from w8a8_bench.problem.operands import Operands

HOPPER = (9, 0)
FP8_SINCE = (8, 9)
"""First compute capability whose tensor cores multiply FP8 (Ada)."""
EMULATION = "operands upcast, multiplied in fp32"
"""How FP8 is multiplied on a CPU; in the record's `config`."""
BLOCKWISE_SINCE_CUDA = (12, 9)
"""cuBLASLt scales by 1x128 and 128x128 blocks since this CUDA, on compute capability 9.0 alone."""


def int_mm(a: torch.Tensor, b: torch.Tensor, out: torch.Tensor) -> None:
    """`out = a @ b` in int32, exactly: a int8 [m,k] row-major, b int8 [k,n] from `int_mm_weight`, out int32 [m,n]."""
    torch._int_mm(a, b, out=out)


def int_mm_weight(b: torch.Tensor) -> torch.Tensor:
    """b int8 [k,n] as `int_mm` takes it: a copy on a CPU at k = 1, where `_int_mm` is wrong for a transposed b."""
    if b.device.type == "cpu" and b.shape[0] == 1:
        return b.clone(memory_format=torch.contiguous_format)
    return b


def _nothing() -> None:
    """What a launch does for a tensor that is ready as it is."""


@dataclass(frozen=True)
class Bound:
    """A prepared kernel: binding is all that is left to do. Each kind overrides `bind_prequantized`."""

    problem: Problem
    config: Mapping[str, object] = field(default_factory=dict)

    def bind_prequantized(self, operands: Operands) -> Launch:
        raise NotImplementedError

    def _in_layout(self, scale: torch.Tensor, buffer: torch.Tensor) -> tuple[torch.Tensor, Launch]:
        """`scale` in the layout of `buffer`, and what a launch must do for it.

        A scale that is given is copied once, here. One that the launch computes is copied in every launch, unless it
        lies in memory as the GEMM wants it.
        """
        if scale.stride() == buffer.stride():
            return scale, _nothing
        buffer.copy_(scale)
        if self.problem.activations is not Activations.DYNAMIC:
            return buffer, _nothing
        return buffer, lambda: buffer.copy_(scale)

    def bind(self, operands: Operands) -> Launches:
        if self.problem.activations is Activations.PREQUANTIZED:
            return Launches(self.bind_prequantized(operands))
        quant, quantized = _bind_quantization(operands)
        gemm = self.bind_prequantized(quantized)

        def total() -> None:
            quant()
            gemm()

        return Launches(total, quant=quant, gemm=gemm)


def _bind_quantization(operands: Operands) -> tuple[Launch, Operands]:
    """A launch that quantizes `operands.a` into buffers, and prequantized operands that read those buffers.

    The formulas' own torch code is what runs, so that its answer is the reference's bit for bit; its temporaries come
    from PyTorch's cache after the first call.
    """
    problem, x, scale, azp = operands.problem, operands.a, operands.scale_a, operands.azp
    inner = msgspec.structs.replace(problem, activations=Activations.PREQUANTIZED)
    if problem.activations is Activations.STATIC:
        if scale is None:
            raise ValueError("static quantization needs scale_a")
        q = apply_static(x, scale, azp, problem.format)

        def quantize_static() -> None:
            q.copy_(apply_static(x, scale, azp, problem.format))

        return quantize_static, replace(operands, problem=inner, a=q)

    buffers = quantize_activations(x, problem)

    def quantize_dynamic() -> None:
        fresh = quantize_activations(x, problem)
        buffers.q.copy_(fresh.q)
        buffers.scale.copy_(fresh.scale)
        if buffers.azp is not None and fresh.azp is not None:
            buffers.azp.copy_(fresh.azp)

    return quantize_dynamic, replace(operands, problem=inner, a=buffers.q, scale_a=buffers.scale, azp=buffers.azp)


def _scales(operands: Operands) -> tuple[torch.Tensor, torch.Tensor]:
    if operands.scale_a is None or operands.scale_b is None:
        raise ValueError("this kernel needs both scales")
    return operands.scale_a, operands.scale_b


class Matmul(Bound):
    """`D = A @ B` on 16-bit operands."""

    def bind_prequantized(self, operands: Operands) -> Launch:
        a, b, out = operands.a, operands.b, operands.out
        return lambda: torch.mm(a, b, out=out)


class CastMatmul(Bound):
    """`D = cast(A) @ cast(B)`: both 8-bit operands are cast in every launch, as the original does."""

    def bind_prequantized(self, operands: Operands) -> Launch:
        a, b, out = operands.a, operands.b, operands.out
        wide_a, wide_b = torch.empty_like(a, dtype=out.dtype), torch.empty_like(b, dtype=out.dtype)

        def launch() -> None:
            wide_a.copy_(a)
            wide_b.copy_(b)
            torch.mm(wide_a, wide_b, out=out)

        return launch


@dataclass(frozen=True)
class ScaledMm(Bound):
    """`torch._scaled_mm` with scales per tensor, or row-wise: [m,1] by [1,n], a single scale repeated over its side."""

    fast_accum: bool = False

    def bind_prequantized(self, operands: Operands) -> Launch:
        a, b, out, fast = operands.a, operands.b, operands.out, self.fast_accum
        m, n = out.shape
        scale_a, scale_b = _scales(operands)
        refresh: Launch = _nothing
        if _is_per_tensor(operands.problem):
            scale_a, scale_b = scale_a.view(()), scale_b.view(())
        else:
            # [1,n] and never [n,1], which `_scaled_mm` takes where k == n, with a wrong answer.
            scale_b = scale_b.expand(1, n).contiguous()
            scale_a, refresh = self._in_layout(scale_a.expand(m, 1), torch.empty(m, 1, device=a.device))

        def launch() -> None:
            refresh()
            torch._scaled_mm(a, b, scale_a, scale_b, out_dtype=out.dtype, use_fast_accum=fast, out=out)

        return launch


class UpcastWeights:
    """B [k,n] in fp32, and the fp8 codes that it was made of.

    Four bytes an element is the most memory of an emulated kernel, so those of one comparison that read the same codes
    share it: `of` returns the one that another kernel still holds. It holds the codes, so that their address is not
    given to other codes while it is there, and it is not found by codes that were written to since.
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


@dataclass(frozen=True)
class EmulatedScaledMm(Bound):
    """What `torch._scaled_mm` computes, by a GEMM in fp32. Its own on a CPU is a scalar loop: 1 s at m = n = k = 256.

    acc = fp32(A) @ fp32(B); D = cast(acc * s_a * s_b). A is upcast in every launch, B once. Products of two e4m3
    numbers are exact in fp32, and D is rounded once.
    """

    last_bound: list[UpcastWeights] = field(default_factory=list)
    """Held until the next `bind`, since the check binds and lets go of one kernel after another."""

    def bind_prequantized(self, operands: Operands) -> Launch:
        a, out = operands.a, operands.out
        scale_a, scale_b = _scales(operands)
        weights = UpcastWeights.of(operands.b)
        self.last_bound[:] = [weights]
        wide_a = torch.empty(a.shape, device=a.device)
        acc = torch.empty(out.shape, device=out.device)

        def launch() -> None:
            upcast(a, wide_a)
            torch.mm(wide_a, weights.wide, out=acc)
            acc.mul_(scale_a)
            torch.mul(acc, scale_b, out=out)

        return launch


def _is_per_tensor(problem: Problem) -> bool:
    scaling = problem.scaling
    return scaling is not None and scaling.weight is WeightScale.TENSOR and scaling.activation is ActScale.TENSOR


class ScaledMmBlockwise(Bound):
    """`torch._scaled_mm_v2` with 1x128 by 128x128 scales: scale_a with m contiguous, scale_b with k.

    The recipes are named, since `torch._scaled_mm` guesses them from shapes. cuBLASLt reads scale_b in columns of a
    multiple of 4 blocks: `_scaled_mm` takes one that is not padded so, and its answer is then wrong (torch 2.11, k =
    640 and 11008, relative error 1.5 and 0.4).
    """

    def bind_prequantized(self, operands: Operands) -> Launch:
        from torch.nn.functional import ScalingType, SwizzleType

        a, b, out = operands.a, operands.b, operands.out
        row_major_a, row_major_b = _scales(operands)
        m, groups = row_major_a.shape
        scale_a, refresh = self._in_layout(row_major_a, torch.empty(groups, m, device=a.device).t())
        padded = torch.zeros(row_major_b.shape[1], ceil_div(groups, 4) * 4, device=a.device)
        padded[:, :groups] = row_major_b.t()
        scale_b = padded.t()
        by_row, by_block = [ScalingType.BlockWise1x128.value], [ScalingType.BlockWise128x128.value]
        plain = [SwizzleType.NO_SWIZZLE.value]

        def launch() -> None:
            refresh()
            torch._scaled_mm_v2(a, b, [scale_a], by_row, plain, [scale_b], by_block, plain, None, out.dtype, out=out)

        return launch


class IntMm(Bound):
    """`torch._int_mm`, then zero point, scales and bias as element-wise operations on its int32 product.

    acc = A @ B; acc -= azp_adj | azp * azp_adj (int32); D = cast(acc * s_a * s_b + bias), in fp32
    """

    def bind_prequantized(self, operands: Operands) -> Launch:
        a, b, out = operands.a, int_mm_weight(operands.b), operands.out
        scale_a, scale_b = _scales(operands)
        azp, azp_adj, bias = operands.azp, operands.azp_adj, operands.bias
        per_token = operands.problem.azp is Azp.TOKEN
        acc = torch.empty(out.shape, dtype=torch.int32, device=out.device)
        scaled = torch.empty(out.shape, dtype=torch.float32, device=out.device)

        def launch() -> None:
            int_mm(a, b, acc)
            if azp_adj is not None:
                if per_token and azp is not None:
                    acc.addcmul_(azp, azp_adj, value=-1)
                else:
                    acc.sub_(azp_adj)
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

    def supports(self, problem: Problem, device: Device) -> Support:
        reason = self._limit(problem, device)
        return Support.no(reason) if reason else Support.yes()

    def prepare(self, problem: Problem, device: Device) -> Bound:
        name = self.parsed
        if name.casts_inside:
            return CastMatmul(problem)
        if name.is_baseline:
            return Matmul(problem)
        if name.format is Format.INT8:
            return IntMm(problem)
        if name.is_blockwise:
            return ScaledMmBlockwise(problem, {"scaling": "1x128 by 128x128"})
        scaling = "per tensor" if _is_per_tensor(problem) else "row-wise"
        if not device.is_cuda:
            return EmulatedScaledMm(problem, {"scaling": scaling, "emulated": EMULATION})
        fast = name.variant == "fast_accum"
        return ScaledMm(problem, {"scaling": scaling, "use_fast_accum": fast}, fast_accum=fast)

    def _limit(self, problem: Problem, device: Device) -> str | None:
        name = self.parsed
        if name.is_baseline:
            return None
        if reason := name.why_not_under(problem.scaling):
            return reason
        if name.format is Format.INT8:
            return _int_mm_limit(problem, device)
        return _scaled_mm_limit(problem, device)


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
    if device.capability is None or device.capability < FP8_SINCE:
        return f"fp8 needs compute capability 8.9 or newer, and {device.name} has {dotted(device.capability)}"
    for size, value in (("n", shape.n), ("k", shape.k)):
        if value % 16:
            return f"{size}={value} is not a multiple of 16, which torch._scaled_mm on a GPU needs"
    if scaling.is_blockwise:
        if device.capability != HOPPER or device.cuda is None or device.cuda < BLOCKWISE_SINCE_CUDA:
            return (
                "cuBLASLt scales by 128x128 blocks on compute capability 9.0 with CUDA 12.9 or newer, "
                f"and this is {dotted(device.capability)} with CUDA {dotted(device.cuda)}"
            )
        if shape.m % 4:
            return f"m={shape.m} is not a multiple of 4, which cuBLASLt needs for {scaling}"
    return None


def kernel(name: str) -> PyTorchKernel:
    return PyTorchKernel(name)

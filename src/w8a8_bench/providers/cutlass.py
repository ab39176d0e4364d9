"""The project's own CUTLASS kernels for Hopper, written in the CuTe DSL (`kernels.cutlass`).

Needs `nvidia-cutlass-dsl` and `apache-tvm-ffi`; whether they are there, `supports` says.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import torch

from w8a8_bench.environment.device import Device, dotted
from w8a8_bench.kernel import Launches, Support
from w8a8_bench.kernels.cutlass import compile_cache, configs
from w8a8_bench.kernels.cutlass.api import HOPPER, LoadedKernel, load_kernel
from w8a8_bench.kernels.cutlass.variant import Variant
from w8a8_bench.problem import Activations, Azp, Problem
from w8a8_bench.problem.kernel_name import KernelName
from w8a8_bench.problem.operands import Operands


@dataclass(frozen=True)
class CutlassPrepared:
    problem: Problem
    kernel: LoadedKernel

    @property
    def config(self) -> Mapping[str, object]:
        return self.kernel.config.to_json()

    def bind(self, operands: Operands) -> Launches:
        scale_a, scale_b = operands.scale_a, operands.scale_b
        assert scale_a is not None and scale_b is not None, "supports refuses dynamic activations"
        if self.problem.scaling is not None and self.problem.scaling.is_blockwise:
            scale_a, scale_b = _column_major(scale_a), _column_major(scale_b)
        # A zero point per tensor is already in azp_adj.
        azp = operands.azp if self.problem.azp is Azp.TOKEN else None
        arguments = (operands.a, operands.b, operands.out, scale_a, scale_b, operands.bias, operands.azp_adj, azp)
        return Launches(partial(self.kernel.launch, *arguments, self.kernel.max_clusters))


def _column_major(scale: torch.Tensor) -> torch.Tensor:
    """A copy whose first dimension is contiguous."""
    return scale.t().contiguous().t()


@dataclass(frozen=True)
class CutlassKernel:
    """One name of this provider."""

    name: str

    def supports(self, problem: Problem, device: Device) -> Support:
        reason = self._limit(problem, device)
        return Support.no(reason) if reason else Support.yes()

    def prepare(self, problem: Problem, device: Device) -> CutlassPrepared:
        return CutlassPrepared(problem, load_kernel(problem, device.index))

    def _limit(self, problem: Problem, device: Device) -> str | None:
        if reason := KernelName.parse(self.name).why_not_under(problem.scaling):
            return reason
        if not device.is_cuda or device.capability is None:
            return "CUTLASS kernels need an NVIDIA GPU; this is a CPU"
        if device.capability != HOPPER:
            has = dotted(device.capability)
            return f"CUTLASS kernels need compute capability 9.0 (Hopper), and {device.name} has {has}"
        if problem.activations is not Activations.PREQUANTIZED:
            return f"{problem.activations.value} activations: CUTLASS kernels take quantized ones only"
        if missing := compile_cache.why_missing():
            return missing
        return configs.why_unsupported(Variant.of(problem), problem.shape)


def kernel(name: str) -> CutlassKernel:
    return CutlassKernel(name)

"""The project's own CUTLASS kernels for Hopper, written in the CuTe DSL (`kernels.cutlass`).

Needs `nvidia-cutlass-dsl` and `apache-tvm-ffi`; whether they are there, `supports` says.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from w8a8_bench.environment.architecture import HOPPER
from w8a8_bench.environment.device import Device, dotted
from w8a8_bench.kernel import Launches, PreparedKernel, Support
from w8a8_bench.kernels.cutlass import compile_cache, configs
from w8a8_bench.kernels.cutlass.api import LoadedKernel, load_kernel, object_of
from w8a8_bench.problem import BLOCKWISE, Activations, Azp, Problem
from w8a8_bench.problem.kernel_name import KernelName
from w8a8_bench.problem.operands import Operands, column_major


def bind(kernel: LoadedKernel, operands: Operands) -> Launches:
    """The launch of a kernel that was chosen and loaded."""
    problem, (scale_a, scale_b) = operands.problem, operands.scales()
    if problem.scaling == BLOCKWISE:
        scale_a, scale_b = column_major(scale_a), column_major(scale_b)
    # A zero point per tensor is already in azp_adj.
    azp = operands.azp if problem.azp is Azp.TOKEN else None
    arguments = (operands.a, operands.b, operands.out, scale_a, scale_b, operands.bias, operands.azp_adj, azp)
    return Launches(partial(kernel.launch, *arguments, kernel.max_clusters))


@dataclass(frozen=True)
class CutlassKernel:
    """One name of this provider."""

    name: str

    @property
    def fast_accum(self) -> bool:
        """All but blockwise sums stay in the tensor core's accumulator, as in vLLM's CUTLASS kernels."""
        return not KernelName.parse(self.name).is_blockwise

    def supports(self, problem: Problem, device: Device) -> Support:
        if reason := KernelName.parse(self.name).why_not_under(problem.scaling):
            return Support.no(reason)
        if not device.is_cuda or device.capability is None:
            return Support.no("CUTLASS kernels need an NVIDIA GPU; this is a CPU")
        if device.capability != HOPPER:
            has = dotted(device.capability)
            return Support.no(f"CUTLASS kernels need compute capability 9.0 (Hopper), and {device.name} has {has}")
        if problem.activations is not Activations.PREQUANTIZED:
            return Support.no(f"{problem.activations.value} activations: CUTLASS kernels take quantized ones only")
        reason = compile_cache.why_missing() or configs.why_unsupported(problem.shape)
        return Support.no(reason) if reason else Support.yes()

    def build_key(self, problem: Problem, device: Device) -> str:
        return object_of(problem, device.index)

    def prepare(self, problem: Problem, device: Device) -> PreparedKernel:
        chosen = load_kernel(problem, device.index)
        return PreparedKernel(partial(bind, chosen), chosen.config.to_json())


kernel = CutlassKernel

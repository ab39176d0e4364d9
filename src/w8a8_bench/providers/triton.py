"""This project's kernels in Triton: scaled and blockwise products, with activations quantized by Triton too.

They are in `w8a8_bench.kernels.triton`, which is imported only if there is a GPU: Triton takes half a second to load.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass

from w8a8_bench.environment.device import Device
from w8a8_bench.kernel import Prepared, Support
from w8a8_bench.problem import Problem
from w8a8_bench.problem.kernel_name import KernelName

IS_INSTALLED = importlib.util.find_spec("triton") is not None


@dataclass(frozen=True)
class TritonKernel:
    """One name of this provider."""

    name: str

    @property
    def fast_accum(self) -> bool:
        """Triton sums in the tensor core's accumulator unless it is told otherwise, as blockwise kernels do."""
        return not KernelName.parse(self.name).is_blockwise

    def supports(self, problem: Problem, device: Device) -> Support:
        if reason := KernelName.parse(self.name).why_not_under(problem.scaling):
            return Support.no(reason)
        if not device.is_cuda or device.capability is None:
            return Support.no("Triton's kernels need an NVIDIA GPU; this is a CPU")
        if not IS_INSTALLED:
            return Support.no("triton is not installed")
        from w8a8_bench.kernels.triton.configs import why_unsupported

        reason = why_unsupported(problem.format, device.capability)
        return Support.no(reason) if reason else Support.yes()

    def build_key(self, problem: Problem, device: Device) -> str:
        from w8a8_bench.kernels.triton.prepare import build_key

        return build_key(problem, device)

    def prepare(self, problem: Problem, device: Device) -> Prepared:
        from w8a8_bench.kernels.triton.prepare import prepare

        return prepare(problem, device)


kernel = TritonKernel

"""Kernel names of the original whose kernels this version does not contain yet. They refuse, and say so."""

from __future__ import annotations

from dataclasses import dataclass

from w8a8_bench.device import Device
from w8a8_bench.kernel import Prepared, Support
from w8a8_bench.names import KernelName
from w8a8_bench.problem import Problem


@dataclass(frozen=True)
class NotBuilt:
    name: str

    def supports(self, problem: Problem, device: Device) -> Support:
        provider = KernelName.parse(self.name).provider
        return Support.no(f"this version has no {provider} kernels yet")

    def prepare(self, problem: Problem, device: Device) -> Prepared:
        raise NotImplementedError(f"{self.name} is not built: ask `supports` first")


def kernel(name: str) -> NotBuilt:
    return NotBuilt(name)

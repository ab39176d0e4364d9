"""One launch of every variant of the CUTLASS kernels on small ragged problems: what `compute-sanitizer` looks at."""

from __future__ import annotations

import sys

import torch

from w8a8_bench.correctness.operand_factory import OperandFactory
from w8a8_bench.environment import detect
from w8a8_bench.problem import GemmShape
from w8a8_bench.problem.distribution import Distribution
from w8a8_bench.problem.kernel_name import KernelName
from w8a8_bench.providers import cutlass, registry

SHAPES = (GemmShape(m=5, n=144, k=528), GemmShape(m=67, n=208, k=1040), GemmShape(m=259, n=400, k=784))
"""Swapped with k split, small tiles, large tiles; none of their sizes a whole number of tiles."""


def main() -> int:
    device = detect.resolve_device("cuda")
    provider = next(one for one in registry.PROVIDERS if one.name == "cutlass")
    launched = 0
    for shape in SHAPES:
        factory = OperandFactory(shape, device.torch_name, data=Distribution.NORMAL.value, seed=0)
        for name in provider.kernels + provider.on_request:
            parsed = KernelName.parse(name)
            problem = parsed.problem(shape, parsed.format, parsed.default_scheme)
            cutlass.kernel(name).prepare(problem, device).bind(factory.make(problem, guarded=True)).total()
            launched += 1
    torch.cuda.synchronize()
    print(f"{launched} launches")
    return 0


if __name__ == "__main__":
    sys.exit(main())

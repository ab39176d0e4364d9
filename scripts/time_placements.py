"""How much a time depends on where its operands lie in memory: `python3 scripts/time_placements.py > FILE.jsonl`.

A kernel that streams weights takes 16.0 or 16.4 us (m=16 n=4096 k=14336, H200) as its process allocated other memory
before, and with it all kernels of the comparison. The same operands are timed

    fresh   in what the allocator gives a new process
    worn    in what it gives after tensors of many sizes came and went, as the shapes of a sweep do
    block   at several places of one large block, which a process could reserve when it starts
"""

from __future__ import annotations

import json
import random
import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

from msgspec import to_builtins

from w8a8_bench.correctness.operand_factory import OperandFactory
from w8a8_bench.environment import detect, versions
from w8a8_bench.environment.device import Device
from w8a8_bench.problem import GemmShape
from w8a8_bench.problem.distribution import Distribution
from w8a8_bench.problem.kernel_name import BASELINE, KernelName
from w8a8_bench.providers import registry
from w8a8_bench.stats import median
from w8a8_bench.timing.cuda_graph import GraphMethod
from w8a8_bench.timing.measures import TIME_COLD
from w8a8_bench.timing.method import rest_after
from w8a8_bench.timing.rotation import Arena

NAMES = ("cutlass_fp8_fp8_bf16_scaled_mm", "cublaslt_fp8_fp8_bf16_scaled_mm_fast_accum", BASELINE)
SHAPES = (GemmShape(m=16, n=4096, k=14336), GemmShape(m=1, n=28672, k=4096), GemmShape(m=128, n=6144, k=4096))
BLOCK_BYTES, PLACES = 32 << 30, 16
SAMPLES, DUTY = 9, 0.5


class PlacedArena(Arena):
    """Takes its memory from a block, from a place on."""

    def __init__(self, block: torch.Tensor, place: int) -> None:
        super().__init__()
        self._block, self._place = block, place

    def memory(self, size: int, device: torch.device) -> torch.Tensor:
        begin, self._place = self._place, self._place + -(-size // 2**21) * 2**21
        return self._block[begin : begin + size]


def times(device: Device, shape: GemmShape, arena: Arena) -> dict[str, float]:
    """Microseconds of each kernel, all on the same operands."""
    factory = OperandFactory(shape, device.torch_name, data=Distribution.NORMAL.value, seed=0)
    method = GraphMethod(device, (TIME_COLD,))
    method.arena = arena
    found = {}
    for name in NAMES:
        parsed = KernelName.parse(name)
        problem = parsed.problem(shape, parsed.format, parsed.default_scheme)
        prepared = registry.get(name).prepare(problem, device)
        sampler = method.ready(prepared.bind, factory.make(problem)).samplers[TIME_COLD]
        taken = []
        for _ in range(SAMPLES):
            started = time.perf_counter()
            sample = sampler.sample()
            rest_after(sample, started, DUTY)
            taken.append(sample.seconds)
        found[name] = round(1e6 * median(taken[2:]), 3)
    return found


def wear() -> list[torch.Tensor]:
    """Allocate and free what a sweep might; some of it stays."""
    rng, held = random.Random(0), []
    for _ in range(40):
        held.append(torch.empty(rng.randint(1, 1500) << 20, dtype=torch.uint8, device="cuda"))
        if len(held) > 8:
            del held[rng.randrange(len(held))]
            torch.cuda.empty_cache()
    return held[::4]


def main() -> int:
    device = detect.resolve_device("cuda")
    print(json.dumps({"kind": "run", "environment": versions.describe(device), "device": to_builtins(device)}))

    def tell(placement: str, shape: GemmShape, arena: Arena, **more: object) -> None:
        line = {"kind": "placement", "placement": placement, **to_builtins(shape), **more}
        print(json.dumps({**line, "us": times(device, shape, arena)}), flush=True)
        torch.cuda.empty_cache()

    for shape in SHAPES:
        tell("fresh", shape, Arena())
    held = wear()
    for shape in SHAPES:
        tell("worn", shape, Arena())
    del held
    torch.cuda.empty_cache()
    block = torch.empty(BLOCK_BYTES, dtype=torch.uint8, device="cuda")
    for number in range(PLACES):
        place = number * (BLOCK_BYTES // PLACES)
        for shape in SHAPES:
            tell("block", shape, PlacedArena(block, place), place_gib=place / 2**30)
    return 0


if __name__ == "__main__":
    sys.exit(main())

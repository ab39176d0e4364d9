"""Looks for sizes at which a kernel takes longer than at a larger size.

    PYTHONPATH=src python3 scripts/find_cliffs.py [--kernels NAME ...] [--nk NxK ...] > results/h200/cliffs.jsonl
    PYTHONPATH=src python3 scripts/find_cliffs.py --along n --at 384x4096 4096x7168 > cliffs_n.jsonl
    PYTHONPATH=src python3 scripts/find_cliffs.py --along k --at 384x4096 64x4096 > cliffs_k.jsonl

m goes from 1 to 512 in steps of 1, and from 8191 to 8193; n from 1024 and k from 512 to 16384 in steps of 128, at MxK
and MxN. Times are `time_cold_l2`'s, along m on the same weights. What seems a cliff, slower than a larger size by more
than `MOST`, is timed again beside that size. A line for each kernel and what else is fixed, with all times; what
remains on stderr and in the exit code.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import replace

import msgspec
import torch
from msgspec import to_builtins

from w8a8_bench.correctness.operand_factory import OperandFactory
from w8a8_bench.environment import detect, versions
from w8a8_bench.environment.device import Device
from w8a8_bench.problem import GemmShape, Problem
from w8a8_bench.problem.distribution import Distribution
from w8a8_bench.problem.kernel_name import KernelName
from w8a8_bench.problem.operands import Operands
from w8a8_bench.providers import registry
from w8a8_bench.stats import median
from w8a8_bench.timing import rotation
from w8a8_bench.timing.cuda_graph import GraphSampler, GraphTimer
from w8a8_bench.timing.method import rest

KERNELS = (
    "cutlass_fp8_fp8_bf16_scaled_mm",
    "cutlass_i8_i8_bf16_scaled_mm",
    "cutlass_fp8_fp8_bf16_scaled_mm_blockwise",
)
NK = "4096x4096 10240x8192"
EDGE = (8191, 8192, 8193)
STEPS = {"n": range(1024, 16385, 128), "k": range(512, 16385, 128)}
MOST = 1.05
SAMPLES, AGAIN = 3, 15
REPLAY_S, DUTY = 1e-3, 0.5


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description="Look for cliffs along m, n or k.")
    parser.add_argument("--kernels", nargs="+", default=list(KERNELS))
    parser.add_argument("--nk", nargs="+", default=NK.split(), help="weights as NxK (default: %(default)s)")
    parser.add_argument("--along", choices=("m", *STEPS), default="m", help="the size that grows (default: m)")
    parser.add_argument("--at", nargs="+", default=[], help="the other two sizes, along n MxK and along k MxN")
    parser.add_argument("--last", type=int, default=512, help="largest m of the steps of 1 (default: %(default)s)")
    args = parser.parse_args(argv)
    if (args.along == "m") != (not args.at):
        parser.error("--at: expected with --along n or k, and only there")
    try:
        device = detect.resolve_device("cuda")
    except detect.DeviceError as error:
        print(f"find_cliffs: {error}", file=sys.stderr)
        return 2
    print(json.dumps({"kind": "run", "environment": versions.describe(device), "device": to_builtins(device)}))
    found = 0
    for name in args.kernels:
        if args.along == "m":
            for nk in args.nk:
                n, k = (int(size) for size in nk.split("x"))
                for ms in (range(1, args.last + 1), EDGE):
                    weights = Weights(device, name, GemmShape(m=ms[-1], n=n, k=k))
                    found += look(weights, "m", list(ms), {"n": n, "k": k})
        other = "k" if args.along == "n" else "n"
        for at in args.at:
            m, size = (int(size) for size in at.split("x"))
            sizes, fixed = list(STEPS[args.along]), {"m": m, other: size}
            found += look(Shapes(device, name, args.along, fixed), args.along, sizes, fixed)
    return int(found > 0)


def look(timed: Weights | Shapes, along: str, sizes: list[int], fixed: dict[str, int]) -> int:
    """Time one kernel at every size, print the line, and count what stays a cliff."""
    times = {size: timed.seconds([size], SAMPLES)[size] for size in sizes}
    cliffs = []
    for size, larger in slower_than_a_larger(times):
        again = timed.seconds([size, larger], AGAIN)
        times |= again
        if again[size] > MOST * again[larger]:
            cliffs.append({along: size, "larger": larger, "ratio": round(again[size] / again[larger], 3)})
    line = {"kind": "cliffs", "kernel": timed.name, **fixed, "first": sizes[0], "last": sizes[-1], "found": cliffs}
    print(json.dumps({**line, "seconds": [float(f"{times[size]:.4g}") for size in sizes]}), flush=True)
    at = " ".join(f"{name}={size}" for name, size in fixed.items())
    for cliff in cliffs:
        said = f"{along}={cliff[along]} takes {cliff['ratio']} of {along}={cliff['larger']}"
        print(f"{timed.name} {at}: {said}", file=sys.stderr)
    print(f"{timed.name} {at} {along}={sizes[0]}..{sizes[-1]}: {len(cliffs)} cliffs", file=sys.stderr)
    return len(cliffs)


def slower_than_a_larger(times: dict[int, float]) -> list[tuple[int, int]]:
    """Each size that is slower than some larger one by more than `MOST`, with the fastest of those."""
    suspects, fastest = [], max(times)
    for size in sorted(times, reverse=True):
        if times[size] > MOST * times[fastest]:
            suspects.append((size, fastest))
        if times[size] < times[fastest]:
            fastest = size
    return suspects


def problem_of(name: str, shape: GemmShape) -> Problem:
    parsed = KernelName.parse(name)
    return parsed.problem(shape, parsed.format, parsed.default_scheme)


def operands_of(device: Device, problem: Problem) -> Operands:
    factory = OperandFactory(problem.shape, device.torch_name, data=Distribution.NORMAL.value, seed=0)
    return factory.make(problem)


def in_turns(samplers: dict[int, GraphSampler], samples: int) -> dict[int, float]:
    """Median period of a launch of each, sampled in turns after one to warm up."""
    taken: dict[int, list[float]] = {size: [] for size in samplers}
    for turn in range(samples + 1):
        for size, sampler in samplers.items():
            seconds = sampler.sample().seconds
            rest(seconds * sampler.size, DUTY)
            if turn:
                taken[size].append(seconds)
    return {size: median(values) for size, values in taken.items()}


class Weights:
    """Operand sets for the largest m, of whose rows smaller ones take the first."""

    def __init__(self, device: Device, name: str, largest: GemmShape) -> None:
        self.name = name
        self._device, self._shape = device, largest
        operands = operands_of(device, problem_of(name, largest))
        weight_bytes = operands.b.numel() * operands.b.element_size()
        self._plan = rotation.plan(weight_bytes, device.l2_bytes)
        self._sets = rotation.Arena().sets(operands, self._plan.sets)
        self._timer = GraphTimer(device)
        self._seconds: float | None = None  # of the m before, by which replays are sized

    def seconds(self, ms: list[int], samples: int) -> dict[int, float]:
        """Median period of a launch at each m, sampled in turns."""
        times = in_turns({m: self._sampler(m) for m in ms}, samples)
        self._seconds = max(times.values())
        return times

    def _sampler(self, m: int) -> GraphSampler:
        problem = problem_of(self.name, msgspec.structs.replace(self._shape, m=m))
        prepared = registry.get(self.name).prepare(problem, self._device)
        with self._timer.on_stream():
            launches = [prepared.bind(first_rows(one, problem)).total for one in self._sets]
            for launch in launches:
                launch()
        self._seconds = self._seconds or self._timer.period(launches, self._plan)
        size = self._plan.launches(self._seconds, REPLAY_S)
        return self._timer.sampler(launches, size, scrub=self._plan.scrub)


class Shapes:
    """Operand sets of their own for each n or k."""

    def __init__(self, device: Device, name: str, along: str, fixed: dict[str, int]) -> None:
        self.name = name
        self._device, self._along, self._fixed = device, along, fixed

    def seconds(self, sizes: list[int], samples: int) -> dict[int, float]:
        """Median period of a launch at each size, sampled in turns."""
        return in_turns({size: self._sampler(size) for size in sizes}, samples)

    def _sampler(self, size: int) -> GraphSampler:
        problem = problem_of(self.name, GemmShape(**self._fixed, **{self._along: size}))
        prepared = registry.get(self.name).prepare(problem, self._device)
        operands, timer = operands_of(self._device, problem), GraphTimer(self._device)
        plan = rotation.plan(rotation.set_bytes(operands), self._device.l2_bytes)
        with timer.on_stream():
            launches = [prepared.bind(one).total for one in rotation.Arena().sets(operands, plan.sets)]
            for launch in launches:
                launch()
        return timer.sampler(launches, plan.launches(timer.period(launches, plan), REPLAY_S), scrub=plan.scrub)


def first_rows(operands: Operands, problem: Problem) -> Operands:
    """The operands of the first tokens."""
    m = problem.shape.m

    def rows(tensor: torch.Tensor | None) -> torch.Tensor | None:
        return tensor[:m] if tensor is not None and tensor.dim() and tensor.shape[0] > 1 else tensor

    scale_a, azp = rows(operands.scale_a), rows(operands.azp)
    return replace(operands, problem=problem, a=operands.a[:m], out=operands.out[:m], scale_a=scale_a, azp=azp)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

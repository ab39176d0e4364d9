"""Looks for numbers of tokens at which a kernel takes longer than at a larger number.

    PYTHONPATH=src python3 scripts/find_cliffs.py [--kernels NAME ...] [--nk NxK ...] > results/h200/cliffs.jsonl

m goes from 1 to 512 in steps of 1, and from 8191 to 8193. Times are `time_cold_l2`'s, the rotation's weights the same
for every m. What seems a cliff, slower than a larger m by more than `MOST`, is timed again beside that m. A line for
each kernel and weight, with all times; what remains on stderr and in the exit code.
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
MOST = 1.05
SAMPLES, AGAIN = 3, 15
REPLAY_S, DUTY = 1e-3, 0.5


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description="Look for cliffs along m.")
    parser.add_argument("--kernels", nargs="+", default=list(KERNELS))
    parser.add_argument("--nk", nargs="+", default=NK.split(), help="weights as NxK (default: %(default)s)")
    parser.add_argument("--last", type=int, default=512, help="largest m of the steps of 1 (default: %(default)s)")
    args = parser.parse_args(argv)
    try:
        device = detect.resolve_device("cuda")
    except detect.DeviceError as error:
        print(f"find_cliffs: {error}", file=sys.stderr)
        return 2
    print(json.dumps({"kind": "run", "environment": versions.describe(device), "device": to_builtins(device)}))
    found = 0
    for name in args.kernels:
        for nk in args.nk:
            n, k = (int(size) for size in nk.split("x"))
            for ms in (range(1, args.last + 1), EDGE):
                found += look(device, name, list(ms), n, k)
    return int(found > 0)


def look(device: Device, name: str, ms: list[int], n: int, k: int) -> int:
    """Time one kernel at every m, print the line, and count what stays a cliff."""
    weights = Weights(device, name, ms[-1], n, k)
    times = {m: weights.seconds([m], SAMPLES)[m] for m in ms}
    cliffs = []
    for m, larger in slower_than_a_larger(times):
        again = weights.seconds([m, larger], AGAIN)
        times |= again
        if again[m] > MOST * again[larger]:
            cliffs.append({"m": m, "larger": larger, "ratio": round(again[m] / again[larger], 3)})
    line = {"kind": "cliffs", "kernel": name, "n": n, "k": k, "first": ms[0], "last": ms[-1], "found": cliffs}
    print(json.dumps({**line, "seconds": [float(f"{times[m]:.4g}") for m in ms]}), flush=True)
    for cliff in cliffs:
        print(f"{name} n={n} k={k}: m={cliff['m']} takes {cliff['ratio']} of m={cliff['larger']}", file=sys.stderr)
    print(f"{name} n={n} k={k} m={ms[0]}..{ms[-1]}: {len(cliffs)} cliffs", file=sys.stderr)
    return len(cliffs)


def slower_than_a_larger(times: dict[int, float]) -> list[tuple[int, int]]:
    """Each m that is slower than some larger one by more than `MOST`, with the fastest of those."""
    suspects, fastest = [], max(times)
    for m in sorted(times, reverse=True):
        if times[m] > MOST * times[fastest]:
            suspects.append((m, fastest))
        if times[m] < times[fastest]:
            fastest = m
    return suspects


class Weights:
    """Operand sets for the largest m, of whose rows smaller ones take the first."""

    def __init__(self, device: Device, name: str, largest: int, n: int, k: int) -> None:
        self._device, self._name = device, name
        self._problem = self._problem_of(GemmShape(m=largest, n=n, k=k))
        operands = OperandFactory(self._problem.shape, device.torch_name, data=Distribution.NORMAL.value, seed=0).make(
            self._problem
        )
        weight_bytes = operands.b.numel() * operands.b.element_size()
        self._plan = rotation.plan(weight_bytes, device.l2_bytes)
        self._sets = rotation.Arena().sets(operands, self._plan.sets)
        self._timer = GraphTimer(device)
        self._seconds: float | None = None  # of the m before, by which replays are sized

    def seconds(self, ms: list[int], samples: int) -> dict[int, float]:
        """Median period of a launch at each m, sampled in turns."""
        samplers = {m: self._sampler(m) for m in ms}
        taken: dict[int, list[float]] = {m: [] for m in ms}
        for turn in range(samples + 1):
            for m, sampler in samplers.items():
                seconds = sampler.sample().seconds
                rest(seconds * sampler.size, DUTY)
                if turn:
                    taken[m].append(seconds)
        times = {m: median(values) for m, values in taken.items()}
        self._seconds = max(times.values())
        return times

    def _sampler(self, m: int) -> GraphSampler:
        problem = self._problem_of(msgspec.structs.replace(self._problem.shape, m=m))
        prepared = registry.get(self._name).prepare(problem, self._device)
        with self._timer.on_stream():
            launches = [prepared.bind(first_rows(one, problem)).total for one in self._sets]
            for launch in launches:
                launch()
        self._seconds = self._seconds or self._timer.period(launches, self._plan)
        size = self._plan.launches(self._seconds, REPLAY_S)
        return self._timer.sampler(launches, size, scrub=self._plan.scrub)

    def _problem_of(self, shape: GemmShape) -> Problem:
        parsed = KernelName.parse(self._name)
        return parsed.problem(shape, parsed.format, parsed.default_scheme)


def first_rows(operands: Operands, problem: Problem) -> Operands:
    """The operands of the first tokens."""
    m = problem.shape.m

    def rows(tensor: torch.Tensor | None) -> torch.Tensor | None:
        return tensor[:m] if tensor is not None and tensor.dim() and tensor.shape[0] > 1 else tensor

    scale_a, azp = rows(operands.scale_a), rows(operands.azp)
    return replace(operands, problem=problem, a=operands.a[:m], out=operands.out[:m], scale_a=scale_a, azp=azp)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

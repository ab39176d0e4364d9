"""How this project's kernels stand against the best of the other libraries, from records and without a GPU.

    python3 scripts/judge_unseen.py FILES.jsonl... [--ours cutlass] [--worst 5]

A cell of ours is held against the fastest other cell of its comparison with the same format, scheme, zero point, bias
and output, by ratios of samples of the same blocks. Below 1, ours is faster. Geometric means over all shapes and over
those with 384 tokens and more, the 99th percentile, the worst, and of weights of 8 MB and more with up to 16 tokens the
time over that of kernels that only read them.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

import msgspec

from w8a8_bench.analysis import metrics
from w8a8_bench.analysis.roofline import read_floor
from w8a8_bench.environment.device import Device
from w8a8_bench.kernel import Status
from w8a8_bench.problem import Activations, Azp, Problem
from w8a8_bench.results import json_lines
from w8a8_bench.results.measured_comparison import MeasuredComparison
from w8a8_bench.results.record import Record
from w8a8_bench.stats import estimate
from w8a8_bench.timing.measures import headline

MANY = 384
FEW, READ_BYTES = 16, 8e6


@dataclass(frozen=True)
class Standing:
    """Our cell and its time, the fastest peer, and our time over the peer's."""

    ours: Record
    seconds: float
    peer: Record
    ratio: float
    device: Device


def group(problem: Problem) -> str:
    azp = "" if problem.azp is Azp.NONE else f", zero point per {problem.azp.value}"
    return f"{problem.format.value} {problem.scaling}{azp}{', bias' if problem.bias else ''}"


def standings(comparison: MeasuredComparison, ours: str) -> Iterator[Standing]:
    """Each cell of `ours` that has peers."""
    timed = [
        record
        for record in comparison.records
        if record.status is Status.OK
        and record.problem.scaling is not None
        and record.problem.activations is Activations.PREQUANTIZED
    ]
    for record in timed:
        measure = headline(record.samples)
        if record.provider != ours or measure is None:
            continue
        ratios = {}
        for peer in timed:
            if peer.provider not in ("cutlass", "triton") and peer.problem == record.problem:
                found = metrics.speedup(record, peer, measure)
                if found is not None:
                    ratios[peer.kernel] = (1 / found.median, peer)
        if ratios:
            # The fastest peer is the one over which ours looks worst.
            ratio, peer = max(ratios.values(), key=lambda one: one[0])
            seconds = estimate(record.samples[measure], record.groups(measure))
            yield Standing(record, seconds, peer, ratio, msgspec.convert(comparison.run.device, Device))


def over_reads(standing: Standing) -> float | None:
    """Our time over that of kernels that only read the weights; None if they are small or tokens many."""
    problem = standing.ours.problem
    if problem.shape.m > FEW or problem.shape.n * problem.shape.k < READ_BYTES:
        return None
    floor = read_floor(problem, standing.device)
    return standing.seconds / floor if floor else None


def main() -> int:
    parser = argparse.ArgumentParser(description="Hold this project's kernels against the best of other libraries.")
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE.jsonl")
    parser.add_argument("--ours", choices=("cutlass", "triton"), default="cutlass")
    parser.add_argument("--worst", type=int, default=5, help="shapes to list of each group (default: 5)")
    args = parser.parse_args()
    groups: dict[str, list[Standing]] = {}
    for path in args.files:
        for comparison in json_lines.read(path).comparisons:
            for standing in standings(comparison, args.ours):
                groups.setdefault(group(standing.ours.problem), []).append(standing)
    if not groups:
        print(f"judge_unseen: no cell of {args.ours} has a peer in these files", file=sys.stderr)
        return 2
    for name, found in groups.items():
        ratios = sorted(one.ratio for one in found)
        many = [one.ratio for one in found if one.ours.problem.shape.m >= MANY]
        reads = [over for one in found if (over := over_reads(one)) is not None]
        print(f"{name}: {len(ratios)} shapes, {statistics.geometric_mean(ratios):.3f}", end="")
        print(f", m >= {MANY} {statistics.geometric_mean(many):.3f}" if many else "", end="")
        print(f", 99% at most {ratios[max(0, round(0.99 * len(ratios)) - 1)]:.3f}, worst {ratios[-1]:.3f}", end="")
        print(f", over reads {statistics.geometric_mean(reads):.3f}" if reads else "")
        for one in sorted(found, key=lambda one: -one.ratio)[: args.worst]:
            print(f"    {one.ratio:.3f}  {one.ours.problem.shape}  {one.peer.kernel}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

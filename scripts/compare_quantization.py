"""Triton's quantization of activations beside copies that move the same bytes, with a cold L2, side by side.

    PYTHONPATH=src python3 scripts/compare_quantization.py > results/h200/quantization.jsonl

A copy reads 2 bytes an element and writes 1, as quantization does: `COPIES` of Triton, from one wave of blocks to a
block for every few KiB, and torch's copy of 3/2 bytes an element to as many. The fastest of them is the copy of a size.
Every launch goes through sets of its own; if they are too small to fill the L2, it is scrubbed before each replay.
A line for each kernel and size; the greatest ratio of each kernel, and its longest time at few tokens, on stderr.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import product
from statistics import median

import torch
import triton
import triton.language as tl
from msgspec import to_builtins

from w8a8_bench.correctness.quantize import torch_dtype
from w8a8_bench.environment import detect, versions
from w8a8_bench.kernel import Launch
from w8a8_bench.kernels.triton.quantize import plan_apply_static, plan_quantize, quantize
from w8a8_bench.problem import ActScale, Azp, ceil_div
from w8a8_bench.problem.formats import Format
from w8a8_bench.problem.memory import MOST_QUANTIZATIONS
from w8a8_bench.timing import rotation
from w8a8_bench.timing.cuda_graph import REPLAY_S, GraphTimer
from w8a8_bench.timing.method import rest

M, K, MANY = (16, 2048, 8192), (4096, 8192, 14336), 2048
DYNAMIC = (
    (Format.FP8, ActScale.TOKEN, Azp.NONE),
    (Format.FP8, ActScale.GROUP, Azp.NONE),
    (Format.FP8, ActScale.TENSOR, Azp.NONE),
    (Format.INT8, ActScale.TOKEN, Azp.NONE),
    (Format.INT8, ActScale.TOKEN, Azp.TOKEN),
    (Format.INT8, ActScale.TENSOR, Azp.NONE),
)
LENGTHS, WARPS, WAVES = (1024, 2048, 4096, 8192), (4, 8), (8, 16, None)
"""Elements and warps of a block, and blocks a multiprocessor; None: no block has a second turn."""
COPIES = tuple(product(LENGTHS, WARPS, WAVES))
SAMPLES, DUTY = 15, 0.5


@triton.jit
def narrow(x, q, count, turns, LENGTH: tl.constexpr):
    """q[i] = the low byte of x[i], `count` elements, in strides of all blocks."""
    at = tl.program_id(0).to(tl.int64) * LENGTH + tl.arange(0, LENGTH)
    for _ in range(turns):
        tl.store(q + at, tl.load(x + at, mask=at < count, other=0).to(tl.int8), mask=at < count)
        at += tl.num_programs(0) * LENGTH


def copy(x: torch.Tensor, q: torch.Tensor, sm_count: int, length: int, warps: int, waves: int | None) -> Launch:
    source, to, count = x.view(torch.int16), q.view(torch.int8), x.numel()
    blocks = ceil_div(count, length)
    if waves is not None:
        blocks = min(blocks, waves * sm_count)
    turns = ceil_div(count, length * blocks)
    return lambda: narrow[(blocks,)](source, to, count, turns, length, num_warps=warps)


def copies(x: torch.Tensor, q: torch.Tensor, sm_count: int) -> dict[str, Launch]:
    found = {
        f"{length} x {warps} warps, {waves} waves": copy(x, q, sm_count, length, warps, waves)
        for length, warps, waves in COPIES
    }
    source, to = torch.empty(2, 3 * x.numel() // 2, dtype=torch.uint8, device=x.device)
    found["torch"] = lambda: to.copy_(source)
    return found


def quantizations(x: torch.Tensor, q: torch.Tensor) -> dict[str, Launch]:
    found: dict[str, Launch] = {}
    for fmt, activation, azp in DYNAMIC:
        out = quantize(x, fmt, activation, azp)
        calls, _ = plan_quantize(x, fmt, activation, azp, out=replace(out, q=q.view(out.q.dtype)))
        name = f"{fmt.value} per {activation.value}" + (", zero point" if azp is Azp.TOKEN else "")
        found[name] = partial(in_turn, calls)
    for fmt in (Format.FP8, Format.INT8):
        scale = torch.full((1, 1), 0.01, device=x.device)
        found[f"{fmt.value} static"] = plan_apply_static(x, scale, None, fmt, out=q.view(torch_dtype(fmt)))[0]
    return found


def operands(m: int, k: int, device: str) -> tuple[torch.Tensor, torch.Tensor]:
    """x bf16 [m,k], normal, and room for its codes."""
    return torch.randn(m, k, device=device).bfloat16(), torch.empty(m, k, dtype=torch.int8, device=device)


def in_turn(calls: Sequence[Launch]) -> None:
    for call in calls:
        call()


def seconds(
    timer: GraphTimer, rows: Mapping[str, list[Launch]], plan: rotation.RotationPlan, samples: int
) -> dict[str, float]:
    """The median of `samples` periods of each, taken in turns."""
    samplers = {}
    for name, launches in rows.items():
        with timer.on_stream():
            for launch in launches:
                launch()
        size = plan.launches(timer.period(launches, plan), REPLAY_S)
        samplers[name] = timer.sampler(launches, size, scrub=plan.scrub)
    taken: dict[str, list[float]] = {name: [] for name in samplers}
    for _ in range(samples):
        for name, sampler in samplers.items():
            started = time.perf_counter()
            taken[name].append(sampler.sample().seconds)
            rest(time.perf_counter() - started, DUTY)
    return {name: median(values) for name, values in taken.items()}


def main() -> int:
    try:
        device = detect.resolve_device("cuda")
    except detect.DeviceError as error:
        print(f"compare_quantization: {error}", file=sys.stderr)
        return 2
    print(json.dumps({"kind": "run", "environment": versions.describe(device), "device": to_builtins(device)}))
    timer, summary = GraphTimer(device), {}
    for m, k in product(M, K):
        plan = rotation.plan(3 * m * k, device.l2_bytes, MOST_QUANTIZATIONS)
        sets = [operands(m, k, device.torch_name) for _ in range(plan.sets)]
        of_copies = by_name(copies(x, q, device.sm_count or 1) for x, q in sets)
        first = seconds(timer, of_copies, plan, samples=3)
        fastest = sorted(first, key=lambda name: first[name])[:3]
        of_kernels = by_name(quantizations(x, q) for x, q in sets)
        times = seconds(timer, of_kernels | {name: of_copies[name] for name in fastest}, plan, SAMPLES)
        best = min(fastest, key=lambda name: times[name])
        for name in of_kernels:
            line = {"kind": "quantization", "kernel": name, "m": m, "k": k, "seconds": times[name]}
            line |= {"copy_seconds": times[best], "copy": best, "ratio": round(times[name] / times[best], 4)}
            print(json.dumps(line | {"sets": plan.sets, "scrubbed": plan.scrub}), flush=True)
            summary.setdefault(name, []).append((m, times[name], times[name] / times[best]))
        torch.cuda.empty_cache()
    for name, rows in summary.items():
        many = max(ratio for m, _, ratio in rows if m >= MANY)
        few = max(time for m, time, _ in rows if m < MANY)
        print(f"{name}: at most {many:.3f} of a copy at m >= {MANY}, {1e6 * few:.2f} us at m={min(M)}", file=sys.stderr)
    return 0


def by_name(of_sets: Iterable[Mapping[str, Launch]]) -> dict[str, list[Launch]]:
    """Launches over all sets by name, of those of each set."""
    found: dict[str, list[Launch]] = {}
    for launches in of_sets:
        for name, launch in launches.items():
            found.setdefault(name, []).append(launch)
    return found


if __name__ == "__main__":
    sys.exit(main())

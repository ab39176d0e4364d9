"""How near GEMMs of few tokens come to kernels that only read the weights: `time_cold_l2`, side by side.

    PYTHONPATH=src python3 scripts/compare_with_reads.py [--kernels NAME ...] > results/h200/few_tokens.jsonl

The other kernels read the weights once and write nothing: `READS` of them, from one wave of blocks that walk the
weights to a block for every few KiB, with 16 to 128 bytes of a thread in flight. The best at each size is the floor.
A line for each size, m and kernel; the least and greatest ratio of each kernel on stderr.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from functools import partial
from itertools import product

import torch
import triton
import triton.language as tl
from cold_times import SHAPES, ColdTimer
from msgspec import to_builtins

from w8a8_bench.correctness.operand_factory import OperandFactory
from w8a8_bench.environment import detect, versions
from w8a8_bench.kernel import Launches
from w8a8_bench.problem import ceil_div
from w8a8_bench.problem.distribution import Distribution
from w8a8_bench.problem.kernel_name import KernelName
from w8a8_bench.problem.operands import Operands
from w8a8_bench.providers import registry

KERNELS = (
    "cutlass_fp8_fp8_bf16_scaled_mm",
    "cutlass_fp8_fp8_bf16_scaled_mm_blockwise",
    "cutlass_i8_i8_bf16_scaled_mm",
)
MOST_TOKENS = 16
WORDS, WARPS, WAVES = (1024, 2048, 4096, 8192), (4, 8, 16), (1, 2, 4, None)
"""32-bit words and warps of a block, and blocks a multiprocessor; None: no block has a second turn."""
READS = tuple(read for read in product(WORDS, WARPS, WAVES) if 4 <= read[0] // (32 * read[1]) <= 32)
SAMPLES = 9


@triton.jit
def read_words(data, sink, count, turns, WORDS: tl.constexpr):
    """OR of `count` 32-bit words, in strides of all blocks; stored if it is what it never is."""
    seen = tl.zeros((WORDS,), dtype=tl.int32)
    at = tl.program_id(0) * WORDS + tl.arange(0, WORDS)
    for _ in range(turns):
        seen |= tl.load(data + at, mask=at < count, other=0)
        at += tl.num_programs(0) * WORDS
    tl.store(sink + at * 0, seen, mask=seen == 0x5EED5EED)


def bind_read(read: tuple[int, int, int | None], sm_count: int, sink: torch.Tensor, operands: Operands) -> Launches:
    words, warps, waves = read
    data = operands.b.t().view(torch.int32)
    count = data.numel()
    blocks = ceil_div(count, words)
    if waves is not None:
        blocks = min(blocks, waves * sm_count)
    turns = ceil_div(count, words * blocks)
    return Launches(lambda: read_words[(blocks,)](data, sink, count, turns, words, num_warps=warps))


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description="Compare GEMMs of few tokens with kernels that only read the weights.")
    parser.add_argument("--kernels", nargs="+", default=list(KERNELS))
    args = parser.parse_args(argv)
    try:
        device = detect.resolve_device("cuda")
    except detect.DeviceError as error:
        print(f"compare_with_reads: {error}", file=sys.stderr)
        return 2
    print(json.dumps({"kind": "run", "environment": versions.describe(device), "device": to_builtins(device)}))
    sink = torch.zeros(1, dtype=torch.int32, device=device.torch_name)
    ratios: dict[str, list[float]] = {name: [] for name in args.kernels}
    fastest_of: dict[tuple[int, int], list[tuple[int, int, int | None]]] = {}
    for shape, name in product([shape for shape in SHAPES if shape.m <= MOST_TOKENS], args.kernels):
        parsed = KernelName.parse(name)
        problem = parsed.problem(shape, parsed.format, parsed.default_scheme)
        operands = OperandFactory(shape, device.torch_name, data=Distribution.NORMAL.value, seed=0).make(problem)
        timer = ColdTimer(device, operands)
        reads = {read: partial(bind_read, read, device.sm_count or 1, sink) for read in READS}
        if (shape.n, shape.k) not in fastest_of:
            first = timer.seconds(reads, samples=2)
            fastest_of[shape.n, shape.k] = sorted(first, key=lambda read: first[read])[:4]
        fastest = fastest_of[shape.n, shape.k]
        kernel = registry.get(name).prepare(problem, device)
        times = timer.seconds({name: kernel.bind, **{read: reads[read] for read in fastest}}, SAMPLES)
        best = min(fastest, key=lambda read: times[read])
        ratios[name].append(times[name] / times[best])
        line = {"kind": "against_reads", "kernel": name, "m": shape.m, "n": shape.n, "k": shape.k}
        line |= {"seconds": times[name], "read_seconds": times[best], "ratio": round(ratios[name][-1], 4)}
        line |= {"read": dict(zip(("words", "warps", "blocks_of_sm"), best, strict=True))}
        print(json.dumps(line), flush=True)
        torch.cuda.empty_cache()
    for name, values in ratios.items():
        print(f"{name}: {min(values):.3f} to {max(values):.3f} of the best read", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

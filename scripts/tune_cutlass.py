"""Measure configurations of the CUTLASS kernels on this GPU, and write the table that `heuristic.choose` reads first.

    python3 scripts/tune_cutlass.py --families scaled_mm --records tuning.jsonl
    python3 scripts/tune_cutlass.py --families blockwise --nk 2112x7168 4096x4096 --m 1 16 64 --dry-run
    python3 scripts/tune_cutlass.py --csv scripts/development.csv --m 384 1536 --screen --records fit.jsonl

Of all tiles that make sense, the `--most` that the model predicts fastest are timed as `time_cold_l2` is, by a replayed
graph over rotating operand sets. The fastest few are timed again in shuffled blocks beside the heuristic's choice. The
best of them enters the table only if it is faster than that choice by `WORTH`, so that the table holds what the
heuristic misses and not what noise made. What is chosen at one m serves all m down to the next smaller one that was
measured.
`--records` keeps every time, a problem a line: what `scripts/fit_cutlass.py` fits the model to, and judges it by on
weights that the fit has not seen. `--screen` times every candidate three times and chooses nothing, which is enough for
that; `--part 1/2` takes every other problem, for one of two GPUs (`CUDA_VISIBLE_DEVICES`).
"""

from __future__ import annotations

import argparse
import csv
import itertools
import json
import os
import random
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import torch

from w8a8_bench.bench.time_cells import make_method
from w8a8_bench.correctness.operand_factory import OperandFactory
from w8a8_bench.environment import detect, versions
from w8a8_bench.environment.device import Device
from w8a8_bench.kernels.cutlass import compile_cache, configs, fitted, heuristic, occupancy, tuned
from w8a8_bench.kernels.cutlass.api import load_kernel
from w8a8_bench.kernels.cutlass.geometry import Occupancy, TileConfig
from w8a8_bench.kernels.cutlass.variant import SM90A, Variant
from w8a8_bench.problem import BLOCKWISE, SCHEMES, GemmShape, Problem
from w8a8_bench.problem.distribution import Distribution
from w8a8_bench.problem.formats import Format
from w8a8_bench.problem.operands import Operands
from w8a8_bench.providers.cutlass import bind
from w8a8_bench.stats import median
from w8a8_bench.timing.measures import TIME_COLD, Timer
from w8a8_bench.timing.method import Method, Sampler, rest
from w8a8_bench.timing.settings import Settings

NK = "6144x4096 4096x4096 28672x4096 4096x14336 8192x8192"
"""The weights of Llama 3.1 8B's layers, and a square."""

MS = (1, 8, 16, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 2048, 4096, 8192)
FAMILIES = ("scaled_mm", "blockwise")
MOST = 24
"""Candidates for a problem. The model errs by about a tenth, of the best and of the others."""

RASTERS = (8, 16)
SCREENING_SAMPLES, FITTING_SAMPLES = 2, 3
FINALISTS = 3
FINAL_BLOCKS = 15
WORTH = 0.98
"""Most of the heuristic's time that a choice may take to enter the table: repeated runs agree within 1%."""

DUTY = 0.5


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description="Tune the CUTLASS kernels for this GPU.")
    parser.add_argument("--families", nargs="+", choices=FAMILIES, default=list(FAMILIES))
    parser.add_argument("--nk", nargs="+", default=NK.split(), help="weights as NxK (default: %(default)s)")
    parser.add_argument("--csv", type=Path, help="a file with columns n and k, whose weights are taken instead")
    parser.add_argument("--m", nargs="+", type=int, default=list(MS))
    parser.add_argument("--most", type=int, default=MOST, help="candidates for a problem (default: %(default)s)")
    parser.add_argument("--records", type=Path, help="append every time to this JSON Lines file")
    parser.add_argument("--dry-run", action="store_true", help="leave the table as it is")
    parser.add_argument("--screen", action="store_true", help="time all candidates and choose none")
    parser.add_argument("--part", default="1/1", help="which of how many parts of the problems (default: %(default)s)")
    args = parser.parse_args(argv)
    first, parts = (int(number) for number in args.part.split("/"))
    if args.screen and not args.records:
        parser.error("--screen: expected --records FILE, which is all that it writes")
    if parts > 1 and not args.screen:
        parser.error(f"--part {args.part}: expected --screen with it, since the table wants every m of its weights")
    try:
        device = detect.resolve_device("cuda")
    except detect.DeviceError as error:
        parser.error(str(error))
    table = Path(tuned.__file__).with_name(tuned.TABLES.get((SM90A, device.name, device.sm_count or 0), ""))
    if not table.is_file() and not (args.dry_run or args.screen):
        parser.error(f"no table for {device.name} with {device.sm_count} multiprocessors: add one to tuned.TABLES")
    sizes = [tuple(int(size) for size in nk.split("x")) for nk in args.nk]
    if args.csv:
        with args.csv.open(newline="", encoding="utf-8") as file:
            sizes = list(dict.fromkeys((int(row["n"]), int(row["k"])) for row in csv.DictReader(file)))
    problems = [problem_of(family, m, n, k) for n, k in sizes for family in args.families for m in args.m]
    problems = problems[first - 1 :: parts]
    if args.records and not args.records.exists():
        about = {"environment": versions.describe(device), "device": msgspec.to_builtins(device)}
        args.records.write_text(json.dumps({"kind": "run", **about}) + "\n", encoding="utf-8")
    compile_all(problems, occupancy.of_device(device.index), args.most)
    if args.screen:
        for problem in problems:
            operands, method = made_ready(problem, device)
            tiles = candidates(problem, occupancy.of_device(device.index), args.most)
            write_times(args.records, problem, screen(tiles, method, problem, device, operands, FITTING_SAMPLES))
        return 0
    for family, (n, k) in itertools.product(args.families, sizes):
        by_m = [(m, tune(problem_of(family, m, n, k), device, args.most, args.records)) for m in sorted(args.m)]
        if not args.dry_run:
            write(table, device, family, n, k, by_m)
    return 0


def candidates(problem: Problem, gpu: Occupancy, most: int) -> list[TileConfig]:
    """The heuristic's choice and what the model predicts fastest: of each tile, split and schedule one cluster."""
    best: dict[object, tuple[float, TileConfig]] = {}
    variant, few = Variant.of(problem), problem.m <= fitted.FEW
    load = heuristic.slower(fitted.of(variant, few=few).rates, problem.m, problem.n, problem.k)
    for one in heuristic.costs(variant, gpu, few, configs.tilings):
        tile = one.config
        if configs.legal(tile, problem):
            alike = (tile.tile_m, tile.tile_n, tile.swap, tile.split_k, tile.schedule)
            predicted = one.seconds(problem.m, problem.n, problem.k, load)
            best[alike] = min(best.get(alike, (predicted, tile)), (predicted, tile), key=lambda pair: pair[0])
    fastest = [tile for _, tile in sorted(best.values(), key=lambda pair: pair[0])][:most]
    large = [replace(tile, raster=raster) for tile in fastest[:FINALISTS] if not tile.swap for raster in RASTERS]
    return list(dict.fromkeys([heuristic.predicted_best(problem, gpu), *fastest, *large]))


def compile_all(problems: Iterable[Problem], gpu: Occupancy, most: int) -> None:
    """Compile what `tune` asks for, all at once: a process that compiles takes seconds to begin."""
    builds = {(Variant.of(one), tile): None for one in problems for tile in candidates(one, gpu, most)}
    started = time.perf_counter()
    for (_, tile), text in compile_cache.compile_many(builds, jobs=os.cpu_count() or 1).items():
        print(f"not compiled: {tile}: {text[-300:]}", file=sys.stderr)
    print(f"{len(builds)} builds in {time.perf_counter() - started:.0f} s", file=sys.stderr)


def problem_of(family: str, m: int, n: int, k: int) -> Problem:
    """FP8 with channel-wise weights and token-wise activations, or with blocks."""
    return Problem.of(
        shape=GemmShape(m=m, n=n, k=k),
        format=Format.FP8,
        out=Format.BF16,
        scaling=BLOCKWISE if family == "blockwise" else SCHEMES[3],
    )


def tune(problem: Problem, device: Device, most: int, records: Path | None) -> TileConfig | None:
    """The configuration that beats the heuristic's for this problem, or None."""
    gpu = occupancy.of_device(device.index)
    variant = Variant.of(problem)
    default = heuristic.predicted_best(problem, gpu)
    operands, method = made_ready(problem, device)
    screened = screen(candidates(problem, gpu, most), method, problem, device, operands, SCREENING_SAMPLES)
    finalists = sorted(screened, key=lambda tile: screened[tile])[:FINALISTS]
    finals = blocks([default, *(tile for tile in finalists if tile != default)], method, problem, device, operands)
    best = min(finals, key=lambda tile: finals[tile])
    keep = finals[best] < WORTH * finals[default]
    said = f"heuristic {finals[default] * 1e6:.2f} us, best {finals[best] * 1e6:.2f} us"
    print(f"{tuned.family(variant)} {problem.shape}: {said}{f': {tuned.to_json(best)}' if keep else ''}", flush=True)
    if records is not None:
        write_times(records, problem, {**screened, **finals})
    torch.cuda.empty_cache()
    return best if keep else None


def made_ready(problem: Problem, device: Device) -> tuple[Operands, Method]:
    """Operands for a problem, and a method to time kernels on them."""
    torch.cuda.empty_cache()
    factory = OperandFactory(problem.shape, device.torch_name, data=Distribution.NORMAL.value, seed=0)
    return factory.make(problem), make_method(device, Settings(timer=Timer.GRAPH, measures=(TIME_COLD,)))


def write_times(path: Path, problem: Problem, seconds: dict[TileConfig, float]) -> None:
    """Append a problem's times to the records."""
    times = [[tuned.to_json(tile), float(f"{value:.5g}")] for tile, value in seconds.items()]
    row = {"family": tuned.family(Variant.of(problem)), "m": problem.m, "n": problem.n, "k": problem.k, "times": times}
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")


def screen(
    tiles: list[TileConfig], method: Method, problem: Problem, device: Device, operands: Operands, count: int
) -> dict[TileConfig, float]:
    """Median seconds of `count` samples of each that is compiled, in an order of no meaning."""
    variant = Variant.of(problem)
    order = random.Random(0).sample(tiles, len(tiles))
    return {
        tile: median(samples(sampler(method, problem, tile, device, operands), count))
        for tile in order
        if compile_cache.object_path((variant, tile)).exists()
    }


def sampler(method: Method, problem: Problem, tile: TileConfig, device: Device, operands: Operands) -> Sampler:
    bind_tile = partial(bind, load_kernel(problem, device.index, tile))
    bind_tile(operands).total()
    return method.ready(bind_tile, operands).samplers[TIME_COLD]


def samples(sampler: Sampler, count: int) -> list[float]:
    """`count` samples in seconds after one to warm up."""
    taken = [sampler.sample().seconds for _ in range(count + 1)]
    rest(sum(taken) * sampler.size, DUTY)
    return taken[1:]


def blocks(
    tiles: Iterable[TileConfig], method: Method, problem: Problem, device: Device, operands: Operands
) -> dict[TileConfig, float]:
    """Median seconds of each, all sampled once a block in shuffled order."""
    samplers = {tile: sampler(method, problem, tile, device, operands) for tile in tiles}
    taken: dict[TileConfig, list[float]] = {tile: [] for tile in samplers}
    order = random.Random(0)
    for _ in range(FINAL_BLOCKS):
        for tile in order.sample(list(samplers), len(samplers)):
            taken[tile] += samples(samplers[tile], 1)
    return {tile: median(values) for tile, values in taken.items()}


def write(table: Path, device: Device, family: str, n: int, k: int, by_m: list[tuple[int, TileConfig | None]]) -> None:
    """Put the choices for one family, n and k into the table, in place of what it held for them, a choice a line.

    If the heuristic is as good at an m, that m has no choice (null), so that a larger m's choice does not serve it.
    """
    old = json.loads(table.read_text(encoding="utf-8"))["choices"]
    rows = [row for row in old if (row["family"], row["n"], row["k"]) != (family, n, k)]
    if any(tile is not None for _, tile in by_m):
        choices = [[m, tile and tuned.to_json(tile)] for m, tile in by_m]
        rows.append({"family": family, "n": n, "k": k, "by_m": choices})
    rows.sort(key=lambda row: (row["family"], row["n"], row["k"]))
    about = versions.describe(device)
    stack = ", ".join(f"{name} {about[name]}" for name in ("driver", "torch") if about.get(name))
    note = f"Measured by scripts/tune_cutlass.py, last on {time.strftime('%Y-%m-%d')}: {stack}."
    table.write_text(render(device.name, note, rows), encoding="utf-8")


def render(device: str, note: str, rows: list[dict[str, Any]]) -> str:
    """The table as JSON."""
    blocks = []
    for row in rows:
        head = json.dumps({name: row[name] for name in ("family", "n", "k")})[:-1]
        lines = ",\n".join(f"  {json.dumps(choice)}" for choice in row["by_m"])
        blocks.append(f'{head}, "by_m": [\n{lines}\n]}}')
    choices = ",\n".join(blocks)
    head = f'"device": {json.dumps(device)},\n"arch": "{SM90A}",\n"note": {json.dumps(note)}'
    return f'{{\n{head},\n"choices": [\n{choices}\n]\n}}\n'


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""Measures tile configurations of the Triton kernels on this GPU, and keeps the fastest for later sweeps.

    PYTHONPATH=src python3 scripts/tune_triton.py [--csv SHAPES] [--kinds int8 fp8 blockwise] [--candidates 48]
    PYTHONPATH=src python3 scripts/tune_triton.py --out FILE
    PYTHONPATH=src python3 scripts/tune_triton.py --csv scripts/development.csv --candidates 12 --records FILE

Choices go into the cache of this machine (`W8A8_BENCH_CACHE`), from which `configs.choose` takes them; with --out,
into a table like the package's own. `--records` keeps every time, a problem a line, for fitting a model of the choice;
with it alone, nothing else is written.

At each shape the most promising candidates are timed once, cold, as the benchmark times; then the fastest few again, in
turns. Choices are written as they are found, and those of other shapes stay: `--missing` goes on with a run that was
cut short.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from cold_times import SHAPES, ColdTimer, shapes_of
from msgspec import to_builtins
from triton.errors import TritonError

from w8a8_bench.correctness.operand_factory import OperandFactory
from w8a8_bench.correctness.quantize import torch_dtype
from w8a8_bench.environment import detect, versions
from w8a8_bench.environment.device import Device
from w8a8_bench.kernels.triton import configs
from w8a8_bench.kernels.triton.blockwise_mm import plan_blockwise_mm
from w8a8_bench.kernels.triton.configs import ChosenConfig, Gemm, TritonConfig, candidates
from w8a8_bench.kernels.triton.launch import Call
from w8a8_bench.kernels.triton.prepare import gemm_of, prepare_as
from w8a8_bench.kernels.triton.scaled_mm import plan_scaled_mm
from w8a8_bench.problem import BLOCK, BLOCKWISE, PER_TENSOR, GemmShape, Problem, ceil_div
from w8a8_bench.problem.formats import Format
from w8a8_bench.timing.method import Bind

KINDS = {"int8": (Format.INT8, PER_TENSOR), "fp8": (Format.FP8, PER_TENSOR), "blockwise": (Format.FP8, BLOCKWISE)}
FINALISTS, FINAL_SAMPLES = 6, 7


def problem_of(kind: str, shape: GemmShape) -> Problem:
    fmt, scaling = KINDS[kind]
    return Problem.of(shape=shape, format=fmt, out=Format.BF16, scaling=scaling)


def plan_unscaled(gemm: Gemm, a: torch.Tensor, b: torch.Tensor, config: TritonConfig) -> Call:
    """A launch of the GEMM with scales of 1 and bf16 output."""
    m, n, k = gemm.shape.m, gemm.shape.n, gemm.shape.k
    if gemm.blockwise:
        blocks = ceil_div(k, BLOCK)
        scale_a = torch.ones(m, blocks, device=a.device)
        scale_b = torch.ones(blocks, ceil_div(n, BLOCK), device=a.device)
        call, _ = plan_blockwise_mm(a, b, scale_a, scale_b, torch.bfloat16, config=config)
    else:
        one = torch.ones(1, 1, device=a.device)
        call, _ = plan_scaled_mm(a, b, one, one, torch.bfloat16, config=config)
    return call


def compile_one(job: tuple[Gemm, TritonConfig]) -> str | None:
    """Compile into Triton's cache on disk; what went wrong, or None. Host tensors: only their alignment matters."""
    gemm, config = job
    m, n, k, dtype = gemm.shape.m, gemm.shape.n, gemm.shape.k, torch_dtype(gemm.format)
    a, weight = torch.empty(m, k, dtype=dtype), torch.empty(n, k, dtype=dtype)
    try:
        plan_unscaled(gemm, a, weight.t(), config).compile()
    except TritonError as error:
        return f"{gemm} {config}: {error}"
    return None


def what_is_compiled(job: tuple[Gemm, TritonConfig]) -> tuple[object, ...]:
    """Equal for jobs that compile to the same code: Triton tells sizes of 1 and multiples of 16 from others."""
    gemm, config = job
    sizes = (gemm.shape.m, gemm.shape.n, gemm.shape.k)
    told = [(size == 1, size % 16 == 0) for size in sizes]
    return (gemm.format, gemm.blockwise, config, *told, gemm.shape.k % config.tile_k == 0)


def compile_all(jobs: list[tuple[Gemm, TritonConfig]], processes: int) -> None:
    started = time.perf_counter()
    jobs = list({what_is_compiled(job): job for job in jobs}.values())
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        failures = [failure for failure in pool.imap_unordered(compile_one, jobs, chunksize=4) if failure]
    for failure in failures:
        print(f"tune_triton: {failure}", file=sys.stderr)
    print(f"compiled {len(jobs)} launches in {time.perf_counter() - started:.0f} s", file=sys.stderr)


def tune(device: Device, problem: Problem, count: int) -> dict[TritonConfig, float]:
    """Seconds of the most promising configurations for `problem`, the fastest of them first."""
    gemm = gemm_of(problem, device)
    operands = OperandFactory(problem.shape, device.torch_name, data="normal", seed=0).make(problem)
    timer = ColdTimer(device, operands)

    def bind(config: TritonConfig) -> Bind:
        return prepare_as(ChosenConfig(config, "tuning"), gemm, device).bind

    times: dict[TritonConfig, float] = {}
    for config in candidates(gemm)[:count]:
        try:
            times.update(timer.seconds({config: bind(config)}, samples=1))
        except TritonError as error:
            print(f"tune_triton: {problem.shape} {config}: {error}", file=sys.stderr)
    finalists = sorted(times, key=lambda config: times[config])[:FINALISTS]
    final = timer.seconds({config: bind(config) for config in finalists}, samples=FINAL_SAMPLES)
    return dict(
        [*sorted(final.items(), key=lambda pair: pair[1]), *((c, s) for c, s in times.items() if c not in final)]
    )


def record(path: Path, device: Device, problem: Problem, times: dict[TritonConfig, float]) -> None:
    """Append what was timed at a problem; before the first, where."""
    if not path.exists():
        about = {"environment": versions.describe(device), "device": to_builtins(device)}
        path.write_text(json.dumps({"kind": "run", **about}) + "\n", encoding="utf-8")
    row = {**row_of(problem), "times": [[config.to_json(), seconds] for config, seconds in times.items()]}
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")


def key_of(row: dict[str, object]) -> tuple[object, ...]:
    return tuple(row[name] for name in ("format", "blockwise", "k", "n", "m"))


def write(path: Path, device: Device, rows: list[dict[str, object]]) -> None:
    """The whole table, a line a row, replaced at once."""
    about = versions.describe(device)
    stack = ", ".join(f"{name} {about[name]}" for name in ("driver", "torch", "triton") if about.get(name))
    note = f"Measured by scripts/tune_triton.py on {time.strftime('%Y-%m-%d')}: {stack}."
    lines = ",\n".join(json.dumps(row) for row in sorted(rows, key=lambda row: tuple(map(str, key_of(row)))))
    text = f'{{\n"gpu": {json.dumps(device.name)},\n"note": {json.dumps(note)},\n"rows": [\n{lines}\n]\n}}\n'
    new = path.with_suffix(".new")
    new.write_text(text, encoding="utf-8")
    new.replace(path)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Tune the Triton kernels for this GPU.")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--csv", type=Path, help="shapes, in columns m, n, k (default: 35 shapes of five layers)")
    parser.add_argument("--candidates", type=int, default=48, help="configurations timed at a shape (default: 48)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes that compile")
    parser.add_argument("--missing", action="store_true", help="only what the table or the cache does not hold yet")
    parser.add_argument("--out", type=Path, help="write a table, such as the package's own, and not into the cache")
    parser.add_argument("--records", type=Path, help="append every time to this JSON Lines file, not into the cache")
    args = parser.parse_args(arguments)
    try:
        device = detect.resolve_device("cuda")
    except detect.DeviceError as error:
        print(f"tune_triton: {error}", file=sys.stderr)
        return 2
    old = json.loads(args.out.read_text()) if args.out and args.out.exists() else {"gpu": device.name, "rows": []}
    rows = {key_of(row): row for row in old["rows"] if old["gpu"] == device.name}

    def is_there(problem: Problem) -> bool:
        if args.out:
            return key_of(row_of(problem)) in rows
        return configs.choose(gemm_of(problem, device), device.name).source != "estimate"

    problems = [
        problem_of(kind, shape) for kind in args.kinds for shape in (shapes_of(args.csv) if args.csv else SHAPES)
    ]
    todo = [problem for problem in problems if not (args.missing and is_there(problem))]
    gemms = [gemm_of(problem, device) for problem in todo]
    compile_all([(gemm, config) for gemm in gemms for config in candidates(gemm)[: args.candidates]], args.jobs)
    for problem in todo:
        times = tune(device, problem, args.candidates)
        config, seconds = next(iter(times.items()))
        if args.records:
            record(args.records, device, problem, times)
        if args.out:
            row = {**row_of(problem), "time_s": float(f"{seconds:.4g}"), "config": config.to_json()}
            rows[key_of(row)] = row
            write(args.out, device, list(rows.values()))
        elif not args.records and not configs.keep(
            gemm_of(problem, device), device.name, config, tried=args.candidates
        ):
            return 1
        print(f"{problem.format.value} {problem.scaling} {problem.shape}: {seconds * 1e6:.2f} us {config}", flush=True)
    return 0


def row_of(problem: Problem) -> dict[str, object]:
    """What a row is found by."""
    shape, scaling = problem.shape, problem.scaling
    assert scaling is not None
    sizes = {"m": shape.m, "n": shape.n, "k": shape.k}
    return {"format": problem.format.value, "blockwise": scaling.is_blockwise, **sizes}


if __name__ == "__main__":
    sys.exit(main())

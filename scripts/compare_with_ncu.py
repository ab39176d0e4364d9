"""Hold `time_cold_l2` and `time_kernel` against Nsight Compute, on GEMMs from 3 us to 3 ms.

    python3 scripts/compare_with_ncu.py > results/h200/ncu_agreement.jsonl

Nsight Compute counts SM cycles, nanoseconds and bytes read from DRAM at the clocks and with the caches as they are
(`--clock-control none --cache-control none`): of single launches out of a rotation of operand sets, and of whole graphs
of N and of 2N launches, whose difference is N launches without what begins and ends a graph. It brings the GPU to rest
before and after each single launch, so that the graphs are the fairer witness of short ones.

Asked for, of `time_cold_l2` by the graphs: cycles within 2%, or 0.3 us, of the time measured at the clock measured; or
the time itself within as much, since what is bound by memory takes the same time at another clock. And where the
operands exceed a tenth of the L2, at least 95% of their bytes read from DRAM by the single launches. `time_kernel` and
the single launches stand beside it.
"""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from functools import partial

import torch

from w8a8_bench import environment, stats
from w8a8_bench.comparison import Cell, Comparison, LabelledShape
from w8a8_bench.device import Device
from w8a8_bench.kernel import Launch
from w8a8_bench.make_operands import OperandFactory
from w8a8_bench.measures import TIME_COLD, TIME_KERNEL, Timer
from w8a8_bench.names import KernelName
from w8a8_bench.problem import GemmShape, Problem
from w8a8_bench.providers import registry
from w8a8_bench.runner import run_comparison
from w8a8_bench.settings import Settings, StopRule
from w8a8_bench.timing import device_code, rotation
from w8a8_bench.timing.cuda_graph import GraphTimer

BF16, FP8 = "pytorch_bf16_bf16_bf16_matmul-no-scales", "pytorch_fp8_fp8_bf16_scaled_mm"
GEMMS = [
    (kernel, GemmShape(m=m, n=n, k=k))
    for kernel, m, n, k in (
        *((FP8, 16, 1024, 1024), (BF16, 16, 2048, 2048), (FP8, 16, 4096, 4096), (BF16, 16, 4096, 4096)),
        *((FP8, 64, 11008, 4096), (FP8, 256, 4096, 4096), (BF16, 512, 4096, 4096), (FP8, 512, 22016, 4096)),
        *((BF16, 1024, 8192, 8192), (FP8, 2048, 8192, 8192), (FP8, 8192, 8192, 8192), (BF16, 8192, 16384, 8192)),
    )
]
PROFILED = 5
"""Launches that Nsight Compute looks at; medians are compared."""

METRICS = {"cycles": "sm__cycles_elapsed.max", "read": "dram__bytes_read.sum", "duration": "gpu__time_duration.sum"}
SINGLE, GRAPHS = "--single", "--graphs"
SIZE = "launches: "


def main(argv: list[str]) -> int:
    device = environment.resolve_device("cuda")
    if argv:
        launch_all(device, graphs=argv == [GRAPHS])
        return 0
    print(json.dumps({"kind": "run", "environment": environment.describe(device), "device": device.to_json()}))
    periods = [measure(TIME_COLD, device, kernel, shape) for kernel, shape in GEMMS]
    kernels = [measure(TIME_KERNEL, device, kernel, shape) for kernel, shape in GEMMS]
    torch.cuda.empty_cache()
    good = True
    for row in zip(GEMMS, periods, kernels, count_graphs(), count_single(), strict=True):
        (kernel, shape), period, alone, graph, single = row
        operand_bytes = (shape.m * shape.k + shape.n * shape.k) * KernelName.parse(kernel).format.n_bytes
        line = {
            "kind": "agreement",
            "kernel": kernel,
            "m": shape.m,
            "n": shape.n,
            "k": shape.k,
            "time_cold_l2": {"seconds": period[0], "clock_mhz": period[1], "ncu": graph, **compare(period, graph)},
            "time_kernel": {"seconds": alone[0], "clock_mhz": alone[1], "ncu": single, **compare(alone, single)},
            "dram_read_over_operands": single["read"] / operand_bytes,
            "exceeds_a_tenth_of_l2": operand_bytes > (device.l2_bytes or 0) / 10,
        }
        cold = line["dram_read_over_operands"] >= 0.95 or not line["exceeds_a_tenth_of_l2"]
        agrees = compare(period, graph)["agrees"]
        good &= bool(cold and agrees)
        print(json.dumps(line), flush=True)
        shown = "  ".join(
            f"{name} {1e6 * seconds:8.2f} us @ {clock:.0f}, ncu {1e-3 * counted['duration']:8.2f} us, "
            f"cycles {compare((seconds, clock), counted)['cycles_off']:+.1%}"
            for name, (seconds, clock), counted in (("period", period, graph), ("kernel", alone, single))
        )
        verdict = "ok" if cold and agrees else "FAIL"
        print(
            f"{kernel[8:22]} {shape!s:24} {shown}  read {line['dram_read_over_operands']:.2f}  {verdict}",
            file=sys.stderr,
        )
    return 0 if good else 1


def compare(measured: tuple[float, float], counted: dict[str, float]) -> dict[str, object]:
    """How far Nsight Compute is from a time at a clock (MHz), in cycles and in time, and whether one of them agrees."""
    seconds, clock = measured
    cycles_off = counted["cycles"] / (seconds * clock * 1e6) - 1
    time_off = counted["duration"] * 1e-9 / seconds - 1
    agrees = any(abs(off) <= 0.02 or abs(off) * seconds <= 0.3e-6 for off in (cycles_off, time_off))
    return {"cycles_off": cycles_off, "time_off": time_off, "agrees": agrees}


def measure(name: str, device: Device, kernel: str, shape: GemmShape) -> tuple[float, float]:
    """Medians of a measure in seconds and of the SM clock in MHz, as the benchmark takes them."""
    problem = default_problem(kernel, shape)
    settings = Settings(timer=Timer.GRAPH, measures=(name,), stop=StopRule(12, 12, 0.01))
    (record,), _ = run_comparison(Comparison(0, LabelledShape(shape), (Cell(kernel, problem),)), device, settings)
    if name not in record.samples:
        raise SystemExit(f"{kernel} at {shape}: {record.status.value}: {record.reason}")
    return stats.median(record.samples[name]), stats.median(record.clock_mhz[name])


def default_problem(kernel: str, shape: GemmShape) -> Problem:
    name = KernelName.parse(kernel)
    return name.problem(shape, name.format, name.default_scheme)


def launch_all(device: Device, *, graphs: bool) -> None:
    """For Nsight Compute: each GEMM through its rotation, the profiler on for a few single launches or two graphs."""
    marks, timer = device_code.load(device), GraphTimer(device)
    for kernel, shape in GEMMS:
        problem = default_problem(kernel, shape)
        operands = OperandFactory(shape, device.torch_name, data="normal", seed=0).make(problem)
        plan = rotation.plan(rotation.set_bytes(operands), device.l2_bytes)
        prepared = registry.get(kernel).prepare(problem, device)
        launches = [prepared.bind(one).total for one in rotation.Arena().sets(operands, max(plan.sets, PROFILED))]
        go(launches + launches)
        torch.cuda.synchronize()
        if graphs:
            once = launches * max(1, 100 // len(launches))
            looked_at = [partial(timer.replay, timer.capture(partial(go, once * times))) for times in (1, 2)]
            print(f"{SIZE}{len(once)}", flush=True)
        else:
            looked_at = launches[:PROFILED]
        torch.cuda.cudart().cudaProfilerStart()
        for one in looked_at:
            marks.spin_cycles(1)  # tells what belongs to one from what belongs to the next
            torch.cuda.synchronize()
            one()
            torch.cuda.synchronize()
        torch.cuda.cudart().cudaProfilerStop()
        del operands, launches, looked_at
        torch.cuda.empty_cache()


def go(launches: list[Launch]) -> None:
    for launch in launches:
        launch()


def count_single() -> list[dict[str, float]]:
    """For each GEMM, medians over single launches; the kernels of one launch are summed."""
    counted, _ = count_with_ncu(SINGLE, PROFILED)
    return [{name: stats.median([one[name] for one in of_gemm]) for name in METRICS} for of_gemm in counted]


def count_graphs() -> list[dict[str, float]]:
    """For each GEMM, a graph of 2N launches less one of N, over N."""
    counted, sizes = count_with_ncu(GRAPHS, 2)
    pairs = zip(counted, sizes, strict=True)
    return [{name: (twice[name] - once[name]) / size for name in METRICS} for (once, twice), size in pairs]


def count_with_ncu(what: str, each: int) -> tuple[list[list[dict[str, float]]], list[int]]:
    """What Nsight Compute counts, `each` times a GEMM; and the sizes that the run printed."""
    command = ["ncu", "--csv", "--page", "raw", "--print-units", "base", "--clock-control", "none"]
    command += ["--cache-control", "none", "--profile-from-start", "off", "--metrics", ",".join(METRICS.values())]
    command += ["--graph-profiling", "graph"] if what == GRAPHS else []
    answer = subprocess.run([*command, sys.executable, __file__, what], capture_output=True, text=True, check=False)
    lines = [line for line in answer.stdout.splitlines() if line.startswith('"')]
    if answer.returncode or len(lines) < 2:
        raise SystemExit(f"ncu failed ({answer.returncode}): {answer.stdout[-500:]} {answer.stderr[-500:]}")
    groups: list[dict[str, float]] = []
    for row in list(csv.DictReader(lines))[1:]:  # the first holds the units
        if row["Kernel Name"].startswith("spin_cycles"):
            groups.append(dict.fromkeys(METRICS, 0.0))
        else:
            for name, metric in METRICS.items():
                groups[-1][name] += float(row[metric].replace(",", ""))
    if len(groups) != len(GEMMS) * each:
        raise SystemExit(f"ncu saw {len(groups)} launches: expected {len(GEMMS) * each}")
    sizes = [int(line.removeprefix(SIZE)) for line in answer.stdout.splitlines() if line.startswith(SIZE)]
    return [groups[first : first + each] for first in range(0, len(groups), each)], sizes


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

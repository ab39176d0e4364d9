"""Hold `time_kernel` against Nsight Compute, on GEMMs from 3 us to 3 ms, and look for their operands in DRAM.

    python3 scripts/compare_with_ncu.py > results/h200/ncu_agreement.jsonl

Nsight Compute counts SM cycles, nanoseconds and bytes read from DRAM of single launches from a rotation of operand
sets, at the clocks and with the caches as they are (`--clock-control none --cache-control none`). Its window is wider
than a kernel: of spins of any length on every multiprocessor it counts about 0.8 us and 1,500 cycles more than CUPTI
(H200). That is measured first, and taken off each kernel; the lines hold what was counted, too.

Asked for: cycles within 2%, or 0.3 us, of `time_kernel` at the clock of its own samples. And where the operands exceed
a tenth of the L2, at least 95% of their bytes read from DRAM.
"""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from collections.abc import Iterator
from functools import partial

import torch

from w8a8_bench import environment, stats
from w8a8_bench.comparison import Cell, Comparison, LabelledShape
from w8a8_bench.device import Device
from w8a8_bench.kernel import Launch
from w8a8_bench.make_operands import OperandFactory
from w8a8_bench.measures import TIME_KERNEL, Timer
from w8a8_bench.names import KernelName
from w8a8_bench.problem import GemmShape, Problem
from w8a8_bench.providers import registry
from w8a8_bench.runner import run_comparison
from w8a8_bench.settings import Settings, StopRule
from w8a8_bench.timing import device_code, rotation
from w8a8_bench.timing.cuda_graph import GraphTimer
from w8a8_bench.timing.profiler import KernelSampler

BF16, FP8 = "pytorch_bf16_bf16_bf16_matmul-no-scales", "pytorch_fp8_fp8_bf16_scaled_mm"
GEMMS = [
    (kernel, GemmShape(m=m, n=n, k=k))
    for kernel, m, n, k in (
        *((FP8, 16, 1024, 1024), (BF16, 16, 2048, 2048), (FP8, 16, 4096, 4096), (BF16, 16, 4096, 4096)),
        *((FP8, 64, 11008, 4096), (FP8, 256, 4096, 4096), (BF16, 512, 4096, 4096), (FP8, 512, 22016, 4096)),
        *((BF16, 1024, 8192, 8192), (FP8, 2048, 8192, 8192), (FP8, 8192, 8192, 8192), (BF16, 8192, 16384, 8192)),
    )
]
SPINS_US = (3, 10, 30, 100)
PROFILED = 5
"""Launches of each that Nsight Compute looks at in a process."""
PROCESSES = 4
"""Of each side: medians over them are compared. Where a process's operands come to lie in memory moves the times of all
its launches, one GEMM's by 6% (H200)."""

METRICS = {"cycles": "sm__cycles_elapsed.max", "read": "dram__bytes_read.sum", "duration": "gpu__time_duration.sum"}
KERNELS = "kernels"
LAUNCHES, MEASURE = "--launches", "--measure"
"""What a process of Nsight Compute runs, and what one that measures does: it prints what it measured."""

Measured = tuple[float, float]
"""Median seconds, and SM clock in MHz."""
Counted = dict[str, float]
"""Of one launch: `METRICS`, and its number of kernels."""


def main(argv: list[str]) -> int:
    device = environment.resolve_device("cuda")
    if argv == [LAUNCHES]:
        launch_all(device)
        return 0
    if argv == [MEASURE]:
        spins = [measure_spin(device, microseconds) for microseconds in SPINS_US]
        print(json.dumps(spins + [measure(device, kernel, shape) for kernel, shape in GEMMS]))
        return 0
    print(json.dumps({"kind": "run", "environment": environment.describe(device), "device": device.to_json()}))
    each = [(measure_in_process(), count_with_ncu()) for _ in range(PROCESSES)]
    all_measured = [
        (stats.median([one[0] for one in values]), stats.median([one[1] for one in values]))
        for values in zip(*(measured for measured, _ in each), strict=True)
    ]
    counted = [
        {name: stats.median([one[name] for one in counts]) for name in counts[0]}
        for counts in zip(*(counts for _, counts in each), strict=True)
    ]
    spins, gemms = all_measured[: len(SPINS_US)], all_measured[len(SPINS_US) :]
    window = window_of(spins, counted[: len(SPINS_US)])
    for microseconds, (seconds, clock), ncu in zip(SPINS_US, spins, counted, strict=False):
        line = {"kind": "spin", "microseconds": microseconds, "seconds": seconds, "clock_mhz": clock, "ncu": ncu}
        print(json.dumps(line), flush=True)
    print(json.dumps({"kind": "window", **window}), flush=True)
    good = True
    for (kernel, shape), measured, ncu in zip(GEMMS, gemms, counted[len(SPINS_US) :], strict=True):
        operand_bytes = (shape.m * shape.k + shape.n * shape.k) * KernelName.parse(kernel).format.n_bytes
        line = {
            "kind": "agreement",
            "kernel": kernel,
            "m": shape.m,
            "n": shape.n,
            "k": shape.k,
            "time_kernel": {"seconds": measured[0], "clock_mhz": measured[1]},
            "ncu": ncu,
            **compare(measured, ncu, window),
            "dram_read_over_operands": ncu["read"] / operand_bytes,
            "exceeds_a_tenth_of_l2": operand_bytes > (device.l2_bytes or 0) / 10,
        }
        cold = line["dram_read_over_operands"] >= 0.95 or not line["exceeds_a_tenth_of_l2"]
        good &= bool(cold and line["agrees"])
        print(json.dumps(line), flush=True)
        print(
            f"{kernel[8:22]} {shape!s:24} {1e6 * measured[0]:8.2f} us @ {measured[1]:.0f} MHz, ncu "
            f"{1e-3 * ncu['duration']:8.2f} us in {ncu[KERNELS]:.0f} kernels, without its window: cycles "
            f"{line['cycles_off']:+.1%}, time {line['time_off']:+.1%}  read {line['dram_read_over_operands']:.2f}  "
            f"{'ok' if cold and line['agrees'] else 'FAIL'}",
            file=sys.stderr,
        )
    return 0 if good else 1


def window_of(spins: list[Measured], counted: list[Counted]) -> dict[str, float]:
    """How much more Nsight Compute counts of a kernel than CUPTI: cycles and nanoseconds."""
    pairs = list(zip(spins, counted, strict=True))
    return {
        "cycles": stats.median([ncu["cycles"] - seconds * clock * 1e6 for (seconds, clock), ncu in pairs]),
        "duration": stats.median([ncu["duration"] - seconds * 1e9 for (seconds, _), ncu in pairs]),
    }


def compare(measured: Measured, counted: Counted, window: dict[str, float]) -> dict[str, object]:
    """How far Nsight Compute is from a time at a clock, in cycles and in time, and whether the cycles agree."""
    seconds, clock = measured
    cycles, duration = (counted[name] - counted[KERNELS] * window[name] for name in ("cycles", "duration"))
    cycles_off, time_off = cycles / (seconds * clock * 1e6) - 1, duration * 1e-9 / seconds - 1
    agrees = abs(cycles_off) <= 0.02 or abs(cycles_off) * seconds <= 0.3e-6
    return {"cycles_off": cycles_off, "time_off": time_off, "agrees": agrees}


def measure(device: Device, kernel: str, shape: GemmShape) -> Measured:
    """`time_kernel` as the benchmark takes it."""
    problem = default_problem(kernel, shape)
    settings = Settings(timer=Timer.GRAPH, measures=(TIME_KERNEL,), stop=StopRule(12, 12, 0.01))
    (record,), _ = run_comparison(Comparison(0, LabelledShape(shape), (Cell(kernel, problem),)), device, settings)
    if TIME_KERNEL not in record.samples:
        raise SystemExit(f"{kernel} at {shape}: {record.status.value}: {record.reason}")
    return stats.median(record.samples[TIME_KERNEL]), stats.median(record.clock_mhz[TIME_KERNEL])


def measure_spin(device: Device, microseconds: int) -> Measured:
    timer = GraphTimer(device)
    spin = spin_everywhere(device, microseconds)
    sampler = KernelSampler(timer, [spin], rotation.Plan(1, 0, scrub=False))
    samples = [sampler.sample() for _ in range(7)]
    clocks = [one.clock_mhz for one in samples if one.clock_mhz is not None]
    return stats.median([one.seconds for one in samples]), stats.median(clocks)


def spin_everywhere(device: Device, microseconds: int) -> Launch:
    """On each multiprocessor, as a GEMM has its blocks."""
    return partial(device_code.load(device).spin_ns, 1000 * microseconds, device.sm_count or 1)


def measure_in_process() -> list[Measured]:
    """What a fresh process measures of each spin and GEMM."""
    answer = subprocess.run([sys.executable, __file__, MEASURE], capture_output=True, text=True, check=False)
    if answer.returncode:
        raise SystemExit(f"a process that measures failed ({answer.returncode}): {answer.stderr[-500:]}")
    return [(seconds, clock) for seconds, clock in json.loads(answer.stdout.splitlines()[-1])]


def default_problem(kernel: str, shape: GemmShape) -> Problem:
    name = KernelName.parse(kernel)
    return name.problem(shape, name.format, name.default_scheme)


def launch_all(device: Device) -> None:
    """For Nsight Compute: the spins, then each GEMM through its rotation, the profiler on for a few launches."""
    code = device_code.load(device)
    spent = torch.zeros(2, dtype=torch.int64, device=device.torch_name)
    for launches in launches_of_each(device):
        torch.cuda.cudart().cudaProfilerStart()
        for launch in launches[:PROFILED]:
            code.spin_apart(1, spent)  # tells what belongs to one from what belongs to the next
            torch.cuda.synchronize()
            launch()
            torch.cuda.synchronize()
        torch.cuda.cudart().cudaProfilerStop()


def launches_of_each(device: Device) -> Iterator[list[Launch]]:
    for microseconds in SPINS_US:
        yield [spin_everywhere(device, microseconds)] * PROFILED
    for kernel, shape in GEMMS:
        problem = default_problem(kernel, shape)
        operands = OperandFactory(shape, device.torch_name, data="normal", seed=0).make(problem)
        plan = rotation.plan(rotation.set_bytes(operands), device.l2_bytes)
        prepared = registry.get(kernel).prepare(problem, device)
        launches = [prepared.bind(one).total for one in rotation.Arena().sets(operands, max(plan.sets, PROFILED))]
        for launch in launches + launches:
            launch()
        torch.cuda.synchronize()
        yield launches
        del operands, launches
        torch.cuda.empty_cache()


def count_with_ncu() -> list[Counted]:
    """What Nsight Compute counts in one process of a launch of each, its kernels summed: medians over the launches."""
    command = ["ncu", "--csv", "--page", "raw", "--print-units", "base", "--clock-control", "none"]
    command += ["--cache-control", "none", "--profile-from-start", "off", "--metrics", ",".join(METRICS.values())]
    answer = subprocess.run([*command, sys.executable, __file__, LAUNCHES], capture_output=True, text=True, check=False)
    lines = [line for line in answer.stdout.splitlines() if line.startswith('"')]
    if answer.returncode or len(lines) < 2:
        raise SystemExit(f"ncu failed ({answer.returncode}): {answer.stdout[-500:]} {answer.stderr[-500:]}")
    groups: list[Counted] = []
    for row in list(csv.DictReader(lines))[1:]:  # the first holds the units
        if row["Kernel Name"].startswith("spin_apart"):
            groups.append(dict.fromkeys([*METRICS, KERNELS], 0.0))
            continue
        groups[-1][KERNELS] += 1
        for name, metric in METRICS.items():
            groups[-1][name] += float(row[metric].replace(",", ""))
    expected = (len(SPINS_US) + len(GEMMS)) * PROFILED
    if len(groups) != expected:
        raise SystemExit(f"ncu saw {len(groups)} launches: expected {expected}")
    each = [groups[first : first + PROFILED] for first in range(0, len(groups), PROFILED)]
    return [{name: stats.median([one[name] for one in launches]) for name in launches[0]} for launches in each]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

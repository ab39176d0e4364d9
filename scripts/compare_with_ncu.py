"""Hold `time_kernel` against Nsight Compute, on GEMMs from 3 us to 3 ms, and look for their operands in DRAM.

    python3 scripts/compare_with_ncu.py > results/h200/ncu_agreement.jsonl

Nsight Compute counts SM cycles, nanoseconds and bytes read from DRAM of single launches from a rotation of operand
sets, at the clocks and with the caches as they are (`--clock-control none --cache-control none`). Its window is wider
than a kernel: of spins of any length on every multiprocessor it counts about 0.9 us and 1,700 cycles more than CUPTI
(H200). And its own work before each launch evicts the kernel's code, which for a GEMM takes some 0.2 us more (by CUPTI,
0.3 to 1 us after other kernels that evict all of it). So the window is measured on the smallest GEMMs, spins beside
them, and taken off each kernel; the lines hold what was counted, too.

What is the same on both sides: the launches, and the memory of their operands, for where these lie moves the times of
GEMMs that are bound by memory by up to 6% (H200). This process holds the memory, and the two that it starts, one after
the other, map it. What is not: Nsight Compute lets the GPU rest between launches, so that the other side rests, too.
If the power limit decides, the multiprocessors' clocks differ by 1 to 2%. The cycles are the mean of all
multiprocessors, and `time_kernel`'s clock is the median.

Asked for: cycles within 2%, or 0.3 us, of `time_kernel` at the clock of its own samples. And if the operands exceed
a tenth of the L2, at least 95% of their bytes read from DRAM.
"""

from __future__ import annotations

import csv
import ctypes
import json
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch
from cuda.bindings import driver
from msgspec import to_builtins

from w8a8_bench import stats
from w8a8_bench.correctness.operand_factory import OperandFactory
from w8a8_bench.environment import detect, versions
from w8a8_bench.environment.device import Device
from w8a8_bench.kernel import Launch
from w8a8_bench.problem import GemmShape, Problem
from w8a8_bench.problem.kernel_name import KernelName
from w8a8_bench.providers import registry
from w8a8_bench.timing import device_code, rotation
from w8a8_bench.timing.cuda_graph import GraphTimer
from w8a8_bench.timing.method import rest
from w8a8_bench.timing.profiler import KernelSampler

HANDLE_BYTES, LAZY_PEER_ACCESS = 64, 1
"""CU_IPC_HANDLE_SIZE, and CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS, the one flag that there is."""

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
SMALLEST = [(kernel, GemmShape(m=16, n=size, k=size)) for kernel in (FP8, BF16) for size in (256, 512)]
PROFILED = 11
"""Launches of each that Nsight Compute looks at in a process."""
PROCESSES = 3
"""Of each side: medians over them are compared."""
SAMPLES, DUTY = 9, 0.1
"""Profiled replays of each, and the share of the time that they take, beside rests."""
MEMORY_BYTES = 12 << 30
"""Of all operand sets of the largest GEMM."""

METRICS = {"cycles": "sm__cycles_elapsed.avg", "read": "dram__bytes_read.sum", "duration": "gpu__time_duration.sum"}
KERNELS = "kernels"
LAUNCHES, MEASURE = "--launches", "--measure"
"""What a process of Nsight Compute runs, and what one that measures does, in memory whose handle follows."""

Measured = tuple[float, float]
"""Median seconds, and SM clock in MHz."""
Counted = dict[str, float]
"""Of one launch: `METRICS`, and its number of kernels."""


def main(argv: list[str]) -> int:
    device = detect.resolve_device("cuda")
    if argv[:1] == [LAUNCHES]:
        launch_all(device, SharedMemory(device, argv[1]))
        return 0
    if argv[:1] == [MEASURE]:
        print(json.dumps(measure_all(device, SharedMemory(device, argv[1]))))
        return 0
    print(json.dumps({"kind": "run", "environment": versions.describe(device), "device": to_builtins(device)}))
    memory = torch.empty(MEMORY_BYTES, dtype=torch.uint8, device=device.torch_name)
    handle = ok(driver.cuIpcGetMemHandle(memory.data_ptr()))
    shared = ctypes.string_at(handle.getPtr(), HANDLE_BYTES).hex()
    each = [(measure_in_process(shared), count_with_ncu(shared)) for _ in range(PROCESSES)]
    all_measured = [
        (stats.median([one[0] for one in values]), stats.median([one[1] for one in values]))
        for values in zip(*(measured for measured, _ in each), strict=True)
    ]
    counted = [
        {name: stats.median([one[name] for one in counts]) for name in counts[0]}
        for counts in zip(*(counts for _, counts in each), strict=True)
    ]
    pairs = list(zip(all_measured, counted, strict=True))
    spins, pairs = pairs[: len(SPINS_US)], pairs[len(SPINS_US) :]
    smallest, gemms = pairs[: len(SMALLEST)], pairs[len(SMALLEST) :]
    window = window_of(smallest)
    for of, some in (("spin", spins), ("smallest", smallest)):
        for (seconds, clock), ncu in some:
            print(json.dumps({"kind": of, "seconds": seconds, "clock_mhz": clock, "ncu": ncu}), flush=True)
        print(json.dumps({"kind": f"window of {of}", **window_of(some)}), flush=True)
    good = True
    for (kernel, shape), (measured, ncu) in zip(GEMMS, gemms, strict=True):
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


def window_of(pairs: list[tuple[Measured, Counted]]) -> dict[str, float]:
    """How much more Nsight Compute counts of a kernel than CUPTI: cycles and nanoseconds."""
    cycles = [(ncu["cycles"] - seconds * clock * 1e6) / ncu[KERNELS] for (seconds, clock), ncu in pairs]
    duration = [(ncu["duration"] - seconds * 1e9) / ncu[KERNELS] for (seconds, _), ncu in pairs]
    return {"cycles": stats.median(cycles), "duration": stats.median(duration)}


def compare(measured: Measured, counted: Counted, window: dict[str, float]) -> dict[str, object]:
    """How far Nsight Compute is from a time at a clock, in cycles and in time, and whether the cycles agree."""
    seconds, clock = measured
    cycles, duration = (counted[name] - counted[KERNELS] * window[name] for name in ("cycles", "duration"))
    cycles_off, time_off = cycles / (seconds * clock * 1e6) - 1, duration * 1e-9 / seconds - 1
    agrees = abs(cycles_off) <= 0.02 or abs(cycles_off) * seconds <= 0.3e-6
    return {"cycles_off": cycles_off, "time_off": time_off, "agrees": agrees}


class SharedMemory(rotation.Arena):
    """An arena in memory that another process holds: the same places of it for the same operands."""

    def __init__(self, device: Device, handle: str) -> None:
        super().__init__()
        torch.zeros(1, device=device.torch_name)  # makes PyTorch's context the current one
        opened = driver.CUipcMemHandle()
        ctypes.memmove(opened.getPtr(), bytes.fromhex(handle), HANDLE_BYTES)
        self._address = int(ok(driver.cuIpcOpenMemHandle(opened, LAZY_PEER_ACCESS)))
        self._device = device
        self._taken = 0

    def memory(self, size: int, device: torch.device) -> torch.Tensor:
        if self._taken + size > MEMORY_BYTES:
            raise SystemExit(f"{self._taken + size} bytes of operand sets: MEMORY_BYTES is {MEMORY_BYTES}")
        taken = SimpleNamespace(
            __cuda_array_interface__={
                "shape": (size,),
                "typestr": "|u1",
                "data": (self._address + self._taken, False),
                "version": 3,
            }
        )
        self._taken += size
        return torch.as_tensor(taken, device=device)

    def launches_of_each(self) -> Iterator[tuple[list[Launch], rotation.RotationPlan]]:
        """Of each spin and GEMM, warmed up: its rotation."""
        for microseconds in SPINS_US:
            # On each multiprocessor, as a GEMM has its blocks.
            spin = partial(device_code.load(self._device).spin_ns, 1000 * microseconds, self._device.sm_count or 1)
            yield [spin] * PROFILED, rotation.RotationPlan(1, 0, scrub=False)
        for kernel, shape in SMALLEST + GEMMS:
            problem = default_problem(kernel, shape)
            operands = OperandFactory(shape, self._device.torch_name, data="normal", seed=0).make(problem)
            plan = rotation.plan(rotation.set_bytes(operands), self._device.l2_bytes)
            prepared = registry.get(kernel).prepare(problem, self._device)
            sets = self.sets(operands, max(plan.sets, PROFILED))
            launches = [prepared.bind(one).total for one in sets]
            for launch in launches + launches:
                launch()
            torch.cuda.synchronize()
            yield launches, plan
            self._copies.clear()
            self._taken = 0


def ok(answer: tuple[Any, ...]) -> Any:
    """The value of a driver call's answer."""
    result, *values = answer
    if int(result) != 0:
        raise SystemExit(f"CUDA says {result.name}")
    return values[0]


def measure_all(device: Device, memory: SharedMemory) -> list[Measured]:
    """`time_kernel` of each spin and GEMM, and the clock of its samples."""
    timer = GraphTimer(device)
    measured = []
    for launches, plan in memory.launches_of_each():
        with timer.on_stream():
            for launch in launches:
                launch()  # what a first call on this stream sets up must not be captured
        sampler = KernelSampler(timer, launches, plan)
        samples = []
        for _ in range(1 + SAMPLES):
            samples.append(sampler.sample())
            rest(samples[-1].seconds * sampler.size, DUTY)
        clocks = [one.clock_mhz for one in samples[1:] if one.clock_mhz is not None]
        measured.append((stats.median([one.seconds for one in samples[1:]]), stats.median(clocks)))
    return measured


def measure_in_process(shared: str) -> list[Measured]:
    """What a fresh process measures of each spin and GEMM."""
    command = [sys.executable, __file__, MEASURE, shared]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    if answer.returncode:
        raise SystemExit(f"a process that measures failed ({answer.returncode}): {answer.stderr[-500:]}")
    return [(seconds, clock) for seconds, clock in json.loads(answer.stdout.splitlines()[-1])]


def default_problem(kernel: str, shape: GemmShape) -> Problem:
    name = KernelName.parse(kernel)
    return name.problem(shape, name.format, name.default_scheme)


def launch_all(device: Device, memory: SharedMemory) -> None:
    """For Nsight Compute: the spins, then each GEMM through its rotation, the profiler on for a few launches."""
    code = device_code.load(device)
    spent = torch.zeros(2, dtype=torch.int64, device=device.torch_name)
    for launches, _ in memory.launches_of_each():
        torch.cuda.cudart().cudaProfilerStart()
        for launch in launches[:PROFILED]:
            code.spin_apart(1, spent)  # tells what belongs to one from what belongs to the next
            torch.cuda.synchronize()
            launch()
            torch.cuda.synchronize()
        torch.cuda.cudart().cudaProfilerStop()


def count_with_ncu(shared: str) -> list[Counted]:
    """What Nsight Compute counts in one process of a launch of each, its kernels summed: medians over the launches."""
    command = ["ncu", "--csv", "--page", "raw", "--print-units", "base", "--clock-control", "none"]
    command += ["--cache-control", "none", "--profile-from-start", "off", "--metrics", ",".join(METRICS.values())]
    command += [sys.executable, __file__, LAUNCHES, shared]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
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
    expected = (len(SPINS_US) + len(SMALLEST) + len(GEMMS)) * PROFILED
    if len(groups) != expected:
        raise SystemExit(f"ncu saw {len(groups)} launches: expected {expected}")
    each = [groups[first : first + PROFILED] for first in range(0, len(groups), PROFILED)]
    return [{name: stats.median([one[name] for one in launches]) for name in launches[0]} for launches in each]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

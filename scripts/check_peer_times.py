"""Times vLLM's, SGLang's and DeepGEMM's kernels by a dozen lines of its own, and compares the benchmark's times.

    python3 scripts/check_peer_times.py RECORDS.jsonl > results/h200/peer_times.jsonl

For every kernel and shape of theirs in the records. `period` and `call` share nothing with the benchmark but memory:
where operands lie moves a time by several percent (vLLM's blockwise m=16 n=28672 k=4096 takes 40 to 47 us as its
weights are allocated, DeepGEMM's m=1 n=4096 k=14336 24.7 to 27.1 us as its scales are), so that both ways are timed
here on the same operands, and allocate their scales from the pool of one stream, one after the other. They must
agree within 3%, or 0.4 us, in one of three tries, since one graph in a hundred is 4% slower than the next of the same
launches; if one does not, the exit code is 1. The record's own time, of another process's memory, stands beside.
"""

from __future__ import annotations

import glob
import importlib
import importlib.util
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

from msgspec import to_builtins

from w8a8_bench.correctness.operand_factory import OperandFactory
from w8a8_bench.environment import detect, versions
from w8a8_bench.environment.device import Device
from w8a8_bench.kernel import Status
from w8a8_bench.problem import Activations, Azp, Problem
from w8a8_bench.problem.formats import Format
from w8a8_bench.problem.operands import Operands
from w8a8_bench.providers import registry
from w8a8_bench.results import json_lines
from w8a8_bench.results.record import Record
from w8a8_bench.stats import median
from w8a8_bench.timing import rotation
from w8a8_bench.timing.cuda_graph import REPLAY_S, GraphTimer
from w8a8_bench.timing.measures import TIME_COLD
from w8a8_bench.timing.method import rest

PEERS = ("vllm", "sglang", "deepgemm")
WITHIN, OR_SECONDS, TRIES = 0.03, 0.4e-6, 3


def period(launches: list[Callable[[], object]]) -> float:
    """Seconds a launch of a row in a replayed graph of some 5 ms, each launch on operands of its own.

    The median of three graphs: a row falls into a pattern on the multiprocessors and keeps it, and about one in a
    hundred was 4% slower than the next graph of the very same launches (H100).
    """
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)

    def seconds(work: Callable[[], object]) -> float:
        begin.record()
        work()
        end.record()
        torch.cuda.synchronize()
        return 1e-3 * begin.elapsed_time(end)

    first = min(seconds(launch) for launch in [*launches, *launches])
    rounds = max(1, round(5e-3 / (first * len(launches))))
    periods = []
    for _ in range(3):
        graph = torch.cuda.CUDAGraph()
        outputs: list[object] = [None] * len(launches)  # what is returned has memory of its own, as what is written has
        with torch.cuda.graph(graph):
            for number in range(len(launches) * rounds):
                place = number % len(launches)
                outputs[place] = None
                outputs[place] = launches[place]()
        taken = []
        for _ in range(20):
            taken.append(seconds(graph.replay))
            time.sleep(taken[-1])  # large GEMMs without rest run into the power cap
        periods.append(statistics.median(taken[5:]) / (rounds * len(launches)))
    return statistics.median(periods)


def call(provider: str, problem: Problem, operands: Operands) -> Callable[[], object]:
    """A launch of the library on A, the weight and D of an operand set, with scales and a bias of its own."""
    m, n, k = problem.shape.m, problem.shape.n, problem.shape.k
    a, w, out = operands.a, operands.b.t(), operands.out
    assert problem.scaling is not None
    if provider == "deepgemm":
        columns = torch.empty_strided((m, -(-k // 128)), (1, -(-m // 4) * 4), device="cuda").fill_(1e-3)
        scale_b = torch.full((-(-n // 128), -(-k // 128)), 1e-3, device="cuda")
        gemm = importlib.import_module("deep_gemm").fp8_gemm_nt
        return lambda: gemm((a, columns), (w, scale_b), out)
    granularity = {"tensor": 1, "token": m, "channel": n}
    if problem.scaling.is_blockwise:
        scale_a = torch.full((-(-k // 128), m), 1e-3, device="cuda").t()
        scale_b = torch.full((-(-n // 128), -(-k // 128)), 1e-3, device="cuda").t()
    elif provider == "sglang":  # a scale for every token and channel, also where they are all the same
        scale_a, scale_b = torch.full((m,), 1e-3, device="cuda"), torch.full((n,), 1e-3, device="cuda")
    else:
        scale_a = torch.full((granularity[problem.scaling.activation.value], 1), 1e-3, device="cuda")
        scale_b = torch.full((1, granularity[problem.scaling.weight.value]), 1e-3, device="cuda")
    bias = torch.randn(n, device="cuda").to(out.dtype) if problem.bias else None
    if provider == "sglang":
        operators = torch.ops.sgl_kernel
        if problem.scaling.is_blockwise:
            return lambda: operators.fp8_blockwise_scaled_mm(a, w.t(), scale_a, scale_b, out.dtype)
        gemm = operators.int8_scaled_mm if problem.format is Format.INT8 else operators.fp8_scaled_mm
        return lambda: gemm(a, w.t(), scale_a, scale_b, out.dtype, bias)
    if problem.azp is Azp.NONE:
        return lambda: torch.ops._C.cutlass_scaled_mm(out, a, w.t(), scale_a, scale_b, bias)
    adjustment = torch.randint(-99, 99, (n,), dtype=torch.int32, device="cuda")
    azp = torch.randint(-99, 99, (m,), dtype=torch.int32, device="cuda") if problem.azp is Azp.TOKEN else None
    return lambda: torch.ops._C.cutlass_scaled_mm_azp(out, a, w.t(), scale_a, scale_b, adjustment, azp, bias)


def load_libraries() -> None:
    """vLLM's and SGLang's operators, and the way to a DeepGEMM, of what is installed."""
    spec = importlib.util.find_spec("sgl_kernel")
    for place in spec.submodule_search_locations or () if spec else ():
        folder = "sm90" if torch.cuda.get_device_capability() == (9, 0) else "sm100"
        for file in glob.glob(f"{place}/{folder}/common_ops*.so"):
            torch.ops.load_library(file)
    spec = importlib.util.find_spec("vllm")
    for place in spec.submodule_search_locations or () if spec else ():
        sys.path.append(f"{place}/third_party")  # its copy of deep_gemm, if there is no other
        for file in sorted(glob.glob(f"{place}/_C*.so"), reverse=True):
            if not hasattr(torch.ops._C, "cutlass_scaled_mm"):
                torch.ops.load_library(file)


def benchmarks(
    timer: GraphTimer, device: Device, record: Record, plan: rotation.RotationPlan, sets: list[Operands]
) -> float:
    """`time_cold_l2` as the benchmark takes it, on operand sets that are given."""
    bind = registry.get(record.kernel).prepare(record.problem, device).bind
    with timer.on_stream():
        launches = [bind(one).total for one in sets]
        for launch in launches:
            launch()
    size = plan.launches(timer.period(launches, plan), REPLAY_S)
    sampler = timer.sampler(launches, size, scrub=plan.scrub)
    taken = []
    for _ in range(20):
        taken.append(sampler.sample().seconds)
        rest(size * taken[-1], 0.5)
    return median(taken)


def main(words: list[str]) -> int:
    try:
        (path,) = words
        records = json_lines.read(path).records
        device = detect.resolve_device("cuda")
    except (ValueError, OSError, detect.DeviceError) as error:
        print(f"check_peer_times: expected the name of a file with records, and a GPU: {error}", file=sys.stderr)
        return 2
    load_libraries()
    print(json.dumps({"kind": "run", "environment": versions.describe(device), "device": to_builtins(device)}))
    timer = GraphTimer(device)
    count = apart = 0
    for record in records:
        asked = record.provider in PEERS and record.problem.activations is Activations.PREQUANTIZED
        if not asked or record.status is not Status.OK or TIME_COLD not in record.samples:
            continue
        operands = OperandFactory(record.problem.shape, device.torch_name, data="normal", seed=0).make(record.problem)
        plan = rotation.plan(rotation.set_bytes(operands), device.l2_bytes)
        sets = rotation.Arena().sets(operands, plan.sets)
        tries, agrees = 0, False
        while not agrees and tries < TRIES:
            theirs = benchmarks(timer, device, record, plan, sets)
            with timer.on_stream():
                launches = [call(record.provider, record.problem, one) for one in sets]
            mine = period(launches)
            tries, agrees = tries + 1, abs(theirs - mine) <= max(WITHIN * mine, OR_SECONDS)
        count, apart = count + 1, apart + (not agrees)
        shape = record.problem.shape
        sizes = {"m": shape.m, "n": shape.n, "k": shape.k}
        line = {"kind": "agreement", "kernel": record.kernel, **sizes, "agrees": agrees}
        line |= {"tries": tries, "benchmark_s": theirs, "script_s": mine, "record_s": median(record.samples[TIME_COLD])}
        print(json.dumps(line), flush=True)
        if not agrees:
            print(f"{shape} {record.kernel}: {1e6 * theirs:.2f} us, and {1e6 * mine:.2f} here", file=sys.stderr)
    print(f"{apart} of {count} further apart than {WITHIN:.0%} and {1e6 * OR_SECONDS:g} us", file=sys.stderr)
    return int(apart > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

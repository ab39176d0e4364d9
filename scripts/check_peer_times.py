"""Times vLLM's and DeepGEMM's kernels anew in a dozen lines, and holds the times of a results file against them.

    python3 scripts/check_peer_times.py RECORDS.jsonl

On the GPU that the records are from. `period` and the calls of the libraries share nothing with the benchmark. Asked
for: within 3%, or 0.4 us. Exit code 1 where one is not.
"""

from __future__ import annotations

import glob
import importlib
import importlib.util
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

from w8a8_bench import store
from w8a8_bench.formats import Format
from w8a8_bench.kernel import Status
from w8a8_bench.measures import TIME_COLD
from w8a8_bench.problem import Activations, Azp, Problem
from w8a8_bench.record import Record
from w8a8_bench.stats import median

WITHIN, OR_SECONDS = 0.03, 0.4e-6


def period(launches: list[Callable[[], object]]) -> float:
    """Seconds a launch of a row in a replayed graph of some 5 ms, each launch on operands of its own."""
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)

    def seconds(work: Callable[[], object]) -> float:
        begin.record()
        work()
        end.record()
        torch.cuda.synchronize()
        return 1e-3 * begin.elapsed_time(end)

    first = min(seconds(launch) for launch in [*launches, *launches])
    rounds = max(1, round(5e-3 / (first * len(launches))))
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for launch in launches * rounds:
            launch()
    taken = []
    for _ in range(40):
        taken.append(seconds(graph.replay))
        time.sleep(taken[-1])  # large GEMMs without rest run into the power cap
    return statistics.median(taken[10:]) / (rounds * len(launches))


def launches(record: Record) -> list[Callable[[], object]]:
    """Calls of the library on so many operand sets that they are five times the L2."""
    problem, shape = record.problem, record.problem.shape
    one_set = shape.m * shape.k + shape.k * shape.n + 2 * shape.m * shape.n
    cache = torch.cuda.get_device_properties(0).L2_cache_size
    return [call(record.provider, problem) for _ in range(min(max(-(-5 * cache // one_set), 2), 1024))]


def call(provider: str, problem: Problem) -> Callable[[], object]:
    m, n, k = problem.shape.m, problem.shape.n, problem.shape.k
    a, w = eight_bits(m, k, problem.format), eight_bits(n, k, problem.format)
    out = torch.empty(m, n, dtype=torch.bfloat16 if problem.out is Format.BF16 else torch.float16, device="cuda")
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
    else:
        scale_a = torch.full((granularity[problem.scaling.activation.value], 1), 1e-3, device="cuda")
        scale_b = torch.full((1, granularity[problem.scaling.weight.value]), 1e-3, device="cuda")
    bias = torch.randn(n, device="cuda").to(out.dtype) if problem.bias else None
    if problem.azp is Azp.NONE:
        return lambda: torch.ops._C.cutlass_scaled_mm(out, a, w.t(), scale_a, scale_b, bias)
    adjustment = torch.randint(-99, 99, (n,), dtype=torch.int32, device="cuda")
    azp = torch.randint(-99, 99, (m,), dtype=torch.int32, device="cuda") if problem.azp is Azp.TOKEN else None
    return lambda: torch.ops._C.cutlass_scaled_mm_azp(out, a, w.t(), scale_a, scale_b, adjustment, azp, bias)


def eight_bits(rows: int, columns: int, fmt: Format) -> torch.Tensor:
    """Normal values over the range of the format: the time of a large product depends on its data."""
    x = torch.randn(rows, columns, device="cuda")
    x *= (127 if fmt is Format.INT8 else 448) / x.abs().max()
    return x.round_().to(torch.int8) if fmt is Format.INT8 else x.to(torch.float8_e4m3fn)


def load_vllm() -> None:
    spec = importlib.util.find_spec("vllm")
    for place in spec.submodule_search_locations or () if spec else ():
        sys.path.append(f"{place}/third_party")  # of its copy of deep_gemm, where there is no other
        for file in sorted(glob.glob(f"{place}/_C*.so"), reverse=True):
            if not hasattr(torch.ops._C, "cutlass_scaled_mm"):
                torch.ops.load_library(file)


def main(path: str) -> int:
    load_vllm()
    apart = 0
    for record in store.read(path).records:
        asked = record.provider in ("vllm", "deepgemm") and record.problem.activations is Activations.PREQUANTIZED
        if not asked or record.status is not Status.OK or TIME_COLD not in record.samples:
            continue
        theirs, mine = median(record.samples[TIME_COLD]), period(launches(record))
        agrees = abs(theirs - mine) <= max(WITHIN * mine, OR_SECONDS)
        apart += not agrees
        verdict = "" if agrees else "  APART"
        print(
            f"{record.problem.shape!s:<24} {record.kernel:<46} {1e6 * theirs:9.2f} us  here {1e6 * mine:9.2f} us  "
            f"{theirs / mine:.3f}x{verdict}",
            flush=True,
        )
    print(f"{apart} further apart than {WITHIN:.0%} and {1e6 * OR_SECONDS:g} us")
    return int(apart > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))

"""What cuBLASLt's search could find: a short look at every algorithm on offer, and samples of the ten fastest.

    python3 scripts/time_cublaslt_algorithms.py [--csv SHAPES] > results/calibration/cublaslt_search_h200.jsonl
    python3 scripts/time_cublaslt_algorithms.py --judge FILE.jsonl

The first line is the environment; then comes a line for each product of `peers.csv`: per tensor and per token and
channel in FP8, blockwise, INT8. `--judge` says how much slower than the best of all samples the choice of
`providers.cublaslt` is, with the constants that stand there, and how long it takes.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

from cold_times import SHAPES, shapes_of

from w8a8_bench.problem import BLOCKWISE, PER_TENSOR, GemmShape, Scaling
from w8a8_bench.problem.kernel_name import KernelName

SAMPLED, SAMPLES = 10, 5
FAST = "cublaslt_fp8_fp8_bf16_scaled_mm_fast_accum"
PRODUCTS = (
    (FAST, PER_TENSOR),
    (FAST, Scaling.parse("channel-w-token-a")),
    ("cublaslt_i8_i8_bf16_scaled_mm", PER_TENSOR),
    ("cublaslt_fp8_fp8_bf16_scaled_mm_blockwise", BLOCKWISE),
)


def measure(shape: GemmShape, name: str, scaling: Scaling, device: Any) -> dict[str, object] | None:
    """Looks and samples of one product, in seconds, and what they cost; None if cuBLASLt does not take it."""
    import torch

    from w8a8_bench.correctness.operand_factory import OperandFactory
    from w8a8_bench.providers import cublaslt
    from w8a8_bench.timing.cuda_graph import GraphMethod
    from w8a8_bench.timing.measures import TIME_COLD
    from w8a8_bench.timing.method import rest
    from w8a8_bench.timing.settings import DEFAULT_DUTY

    parsed = KernelName.parse(name)
    problem = parsed.problem(shape, parsed.format, scaling)
    if cublaslt.why_unsupported(parsed, problem, device):
        return None
    kernel = cublaslt.kernel(name)
    library = cublaslt._library(device.index)
    workspace = torch.empty(cublaslt.WORKSPACE_BYTES, dtype=torch.uint8, device=device.torch_name)
    operands = OperandFactory(shape, device.torch_name, data="normal", seed=0).make(problem)
    scales = {"scale_a": workspace.data_ptr(), "scale_b": workspace.data_ptr(), "bias": None}
    product = cublaslt.describe(library, problem, **scales, fast_accum=kernel.fast_accum)
    offers = library.algorithms(product, workspace_bytes=cublaslt.WORKSPACE_BYTES, count=cublaslt.OFFERED)
    binds = [partial(cublaslt.bind, library, o, workspace=workspace, fast_accum=kernel.fast_accum) for o in offers]
    method = GraphMethod(device, (TIME_COLD,))
    started = time.perf_counter()
    looks = [method.period(bind, operands) for bind in binds]
    looked = time.perf_counter()
    order = sorted(range(len(looks)), key=looks.__getitem__)[:SAMPLED]
    samplers = {index: method.ready(binds[index], operands).samplers[TIME_COLD] for index in order}
    samples: dict[int, list[float]] = {index: [] for index in order}
    for _ in range(SAMPLES):
        for index, sampler in samplers.items():
            begun = time.perf_counter()
            samples[index].append(sampler.sample().seconds)
            rest(time.perf_counter() - begun, DEFAULT_DUTY)
    sampled = time.perf_counter()
    return {
        **{size: getattr(shape, size) for size in "mnk"},
        "kernel": name,
        "scheme": str(scaling),
        "looks": looks,
        "samples": samples,
        "look_s": looked - started,
        "sample_s": (sampled - looked) / (len(order) * SAMPLES),
    }


def judge(path: Path) -> None:
    """Print what the choice costs, in time and in speed."""
    from w8a8_bench.providers.cublaslt import FINAL_SAMPLES, FINALISTS, NEAR

    slower, seconds = [], []
    for line in path.read_text(encoding="utf-8").splitlines()[1:]:
        product = json.loads(line)
        looks, samples = product["looks"], {int(index): taken for index, taken in product["samples"].items()}
        medians = {index: statistics.median(taken) for index, taken in samples.items()}
        near = [index for index in samples if looks[index] <= NEAR * min(looks)][:FINALISTS]
        best = min(near, key=lambda index: statistics.median(samples[index][:FINAL_SAMPLES]))
        chosen = best if len(near) > 1 else near[0]
        slower.append(medians[chosen] / min(medians.values()))
        seconds.append(product["look_s"] + (product["sample_s"] * FINAL_SAMPLES * len(near) if len(near) > 1 else 0.0))
    print(f"{len(slower)} products: the choice takes {statistics.geometric_mean(slower):.4f} times as long as the best")
    print(f"(geometric mean; {max(slower):.3f} at most), and {statistics.mean(seconds):.3f} s a product")


def main() -> int:
    parser = argparse.ArgumentParser(description="Time all algorithms that cuBLASLt offers.")
    parser.add_argument("--csv", type=Path, help="shapes, in columns m, n, k (default: 35 shapes of five layers)")
    parser.add_argument("--judge", type=Path, metavar="FILE", help="judge what was measured before; needs no GPU")
    args = parser.parse_args()
    if args.judge:
        judge(args.judge)
        return 0
    from w8a8_bench.environment import detect, versions

    try:
        device = detect.resolve_device("cuda")
    except detect.DeviceError as error:
        print(f"time_cublaslt_algorithms: {error}", file=sys.stderr)
        return 2
    print(json.dumps({"environment": versions.describe(device), "device": device.name}), flush=True)
    for shape in shapes_of(args.csv) if args.csv else SHAPES:
        for name, scaling in PRODUCTS:
            if found := measure(shape, name, scaling, device):
                print(json.dumps(found), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

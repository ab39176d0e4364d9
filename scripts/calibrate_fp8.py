"""Measures how far FP8 products of `torch._scaled_mm` lie from float64 on this GPU: the constants of `oracle.py`.

    PYTHONPATH=src python3 scripts/calibrate_fp8.py > fp8_accumulation.jsonl

One line for each k, data and way of accumulating: the standard deviation and the largest of |D - ref| over
sqrt(sum_k A^2 B^2), fp32 output, 2048 x 2048 elements.
"""

from __future__ import annotations

import json
import sys

import torch

from w8a8_bench.correctness.operand_factory import OperandFactory
from w8a8_bench.environment import detect, versions
from w8a8_bench.problem import PER_TENSOR, GemmShape
from w8a8_bench.problem.kernel_name import KernelName

ELEMENTS = 2048
SIZES_OF_K = (16, 64, 128, 512, 1024, 2048, 4096, 8192, 16384, 32768, 65536)


def measure(k: int, data: str, fast: bool) -> dict[str, object]:
    shape = GemmShape(m=ELEMENTS, n=ELEMENTS, k=k)
    name = KernelName.parse("pytorch_fp8_fp8_bf16_scaled_mm")
    operands = OperandFactory(shape, "cuda", data=data, seed=0).make(name.problem(shape, name.format, PER_TENSOR))
    one = torch.ones((), device="cuda")
    d = torch._scaled_mm(operands.a, operands.b, one, one, out_dtype=torch.float32, use_fast_accum=fast)
    a, b = operands.a.double(), operands.b.double()
    error = (d.double() - a @ b) / (a.square() @ b.square()).sqrt()
    return {
        "k": k,
        "data": data,
        "accumulation": "fast" if fast else "precise",
        "standard_deviation": float(f"{error.std().item():.3g}"),
        "largest": float(f"{error.abs().max().item():.3g}"),
    }


def main() -> int:
    try:
        device = detect.resolve_device("cuda")
    except detect.DeviceError as error:
        print(f"calibrate_fp8: {error}", file=sys.stderr)
        return 2
    print(json.dumps({"device": device.name, **versions.describe(device)}))
    for data in ("normal", "outliers"):
        for k in SIZES_OF_K:
            for fast in (False, True):
                print(json.dumps(measure(k, data, fast)), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

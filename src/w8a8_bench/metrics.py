"""What is computed from a record when it is shown, and how a number is written."""

from __future__ import annotations

from w8a8_bench.formats import W8A8_FORMATS
from w8a8_bench.problem import BLOCK, Activations, ActScale, Azp, Problem, WeightScale, ceil_div
from w8a8_bench.record import Record
from w8a8_bench.stats import Ratio, paired_ratio

BASELINE = "pytorch_bf16_bf16_bf16_matmul-no-scales"
"""What speed-ups are over: the 16-bit product that W8A8 replaces, its operands already cast."""


def flops(problem: Problem) -> int:
    """Multiply-adds count as two; scaling, zero point, bias and quantization are excluded."""
    shape = problem.shape
    return 2 * shape.m * shape.n * shape.k


def bytes_moved(problem: Problem) -> int:
    """Each input read once and the output written once, scales, bias and zero points included.

    A that is quantized inside the timed region is read in bf16; its quantized form is no input.
    """
    m, n, k = problem.shape.m, problem.shape.n, problem.shape.k
    inside = problem.activations is not Activations.PREQUANTIZED
    total = m * k * (2 if inside else problem.format.n_bytes) + k * n * problem.format.n_bytes
    total += m * n * problem.out.n_bytes
    if problem.scaling is not None and problem.format in W8A8_FORMATS:
        of_b = {
            WeightScale.TENSOR: 1,
            WeightScale.CHANNEL: n,
            WeightScale.BLOCK: ceil_div(k, BLOCK) * ceil_div(n, BLOCK),
        }
        of_a = {ActScale.TENSOR: 1, ActScale.TOKEN: m, ActScale.GROUP: m * ceil_div(k, BLOCK)}
        total += 4 * of_b[problem.scaling.weight]
        if problem.activations is not Activations.DYNAMIC:
            total += 4 * of_a[problem.scaling.activation]
            total += 4 * m if problem.azp is Azp.TOKEN else 0
    total += 4 * n if problem.azp is not Azp.NONE else 0
    total += n * problem.out.n_bytes if problem.bias else 0
    return total


def tflops(problem: Problem, seconds: float) -> float:
    return flops(problem) / seconds / 1e12


def speedup(record: Record, baseline: Record, measure: str) -> Ratio | None:
    """Time of the baseline over that of the record, from samples of the same block; None where either has none."""
    if measure not in record.samples or measure not in baseline.samples:
        return None
    return paired_ratio(baseline.samples[measure], baseline.blocks, record.samples[measure], record.blocks)


def format_time(seconds: float) -> str:
    """Four significant digits in the unit that keeps them near 1 to 1000: `5.312 us`."""
    for unit, scale in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)):
        if seconds >= scale:
            return f"{seconds / scale:#.4g} {unit}".replace(". ", " ")
    return f"{seconds / 1e-9:#.4g} ns".replace(". ", " ")

"""What is worked out from records when they are shown: operations, bytes, TFLOP/s, speed-ups, times as text."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from w8a8_bench.kernel import Status
from w8a8_bench.names import KernelName
from w8a8_bench.problem import BLOCK, Activations, ActScale, Azp, Problem, WeightScale, ceil_div
from w8a8_bench.record import ComparisonEnd, Record
from w8a8_bench.stats import Difference, Ratio, paired_difference, paired_ratio

BASELINE = "pytorch_bf16_bf16_bf16_matmul-no-scales"
"""The kernel that speed-ups are over."""

WORD_BYTES = 4
"""Of scales (fp32), zero points and their adjustments (int32)."""

UNQUANTIZED_BYTES = 2
"""Of an element of A that is quantized inside the timed region: it starts in bf16."""


def flops(problem: Problem) -> int:
    """Multiply-adds count as two; scaling, bias and quantization are excluded."""
    shape = problem.shape
    return 2 * shape.m * shape.n * shape.k


def bytes_moved(problem: Problem) -> int:
    """Each input read once and the output written once: the least that a kernel moves, not what it does move.

    Scales and zero points that are computed inside the timed region are no inputs.
    """
    shape = problem.shape
    quantized_inside = problem.activations is not Activations.PREQUANTIZED
    a = shape.m * shape.k * (UNQUANTIZED_BYTES if quantized_inside else problem.format.n_bytes)
    b = shape.k * shape.n * problem.format.n_bytes
    out = shape.m * shape.n * problem.out.n_bytes
    bias = shape.n * problem.out.n_bytes if problem.bias else 0
    return a + b + out + bias + WORD_BYTES * (_scale_words(problem) + _azp_words(problem))


def _scale_words(problem: Problem) -> int:
    if problem.scaling is None:
        return 0
    shape = problem.shape
    k_blocks = ceil_div(shape.k, BLOCK)
    of_weights = {
        WeightScale.TENSOR: 1,
        WeightScale.CHANNEL: shape.n,
        WeightScale.BLOCK: k_blocks * ceil_div(shape.n, BLOCK),
    }
    of_activations = {ActScale.TENSOR: 1, ActScale.TOKEN: shape.m, ActScale.GROUP: shape.m * k_blocks}
    given = problem.activations is not Activations.DYNAMIC
    return of_weights[problem.scaling.weight] + (of_activations[problem.scaling.activation] if given else 0)


def _azp_words(problem: Problem) -> int:
    """Zero points, and `azp_adj[n]` beside them."""
    if problem.azp is Azp.NONE:
        return 0
    points = problem.shape.m if problem.azp is Azp.TOKEN else 1
    return problem.shape.n + (points if problem.activations is not Activations.DYNAMIC else 0)


def tflops(problem: Problem, seconds: float) -> float:
    """10^12 operations a second."""
    return flops(problem) / seconds / 1e12


def speedup(record: Record, baseline: Record, measure: str) -> Ratio | None:
    """How many times faster `record` is than `baseline`, from samples of the same blocks; above 1 is faster.

    None where one of them is not `ok`, lacks the measure, or shares no block with the other. Raises ValueError for
    records of different comparisons.
    """
    if not _comparable(record, baseline, measure):
        return None
    return paired_ratio(
        baseline.samples[measure],
        baseline.blocks[measure],
        record.samples[measure],
        record.blocks[measure],
        process_of_block=record.processes,
    )


def prequantized_twin(record: Record, records: Iterable[Record]) -> Record | None:
    """The record among `records` of the same kernel and problem with activations quantized beforehand.

    None for a record that is its own twin, and where the twin was not planned.
    """
    if record.problem.activations is Activations.PREQUANTIZED:
        return None
    wanted = record.comparison, record.kernel, replace(record.problem, activations=Activations.PREQUANTIZED)
    return next((other for other in records if (other.comparison, other.kernel, other.problem) == wanted), None)


def quantization_cost(record: Record, twin: Record, measure: str) -> Difference | None:
    """Seconds that quantizing A inside the timed region adds: `record` minus its `prequantized_twin`, block by block.

    Not the quantization alone: after it the GEMM finds A in the L2, so that the two need not add up. It may be below
    zero by noise. None and ValueError as `speedup`.
    """
    if not _comparable(record, twin, measure):
        return None
    return paired_difference(
        record.samples[measure],
        record.blocks[measure],
        twin.samples[measure],
        twin.blocks[measure],
        process_of_block=record.processes,
    )


def _comparable(record: Record, other: Record, measure: str) -> bool:
    """Whether both were measured. Raises ValueError for records of different comparisons.

    Blocks of different comparisons have the same numbers but were not taken together.
    """
    where, other_where = _where(record), _where(other)
    if where != other_where:
        raise ValueError(f"comparison {where} against {other_where}: samples are paired within one comparison")
    return all(r.status is Status.OK and measure in r.samples for r in (record, other))


def noise_floor(end: ComparisonEnd, records: Iterable[Record], measure: str) -> Ratio | None:
    """The duplicate's time over that of the kernel that it duplicates: identical code, so that what differs is noise.

    None where nothing was duplicated, or the cell itself has no time.
    """
    taken, cell = end.duplicate_samples(measure), end.duplicate.get("cell")
    named = (r for r in records if KernelName.parse(r.kernel).text_for(r.problem) == cell)
    original = next(named, None)
    if taken is None or original is None or original.status is not Status.OK or measure not in original.samples:
        return None
    return paired_ratio(
        *taken, original.samples[measure], original.blocks[measure], process_of_block=original.processes
    )


def _where(record: Record) -> str:
    return f"{record.comparison} ({record.problem.shape})"


def format_time(seconds: float) -> str:
    """Four significant digits with the unit that keeps them readable: `13.42 us`."""
    value, decimals, unit, _ = _scaled(seconds)
    return f"{value:.{decimals}f} {unit}"


def format_difference(difference: Difference) -> str:
    """With its sign and half the width of its interval, in one unit: `+2.713 us ±0.021`."""
    value, decimals, unit, scale = _scaled(abs(difference.median))
    text = f"{'-' if difference.median < 0 else '+'}{value:.{decimals}f} {unit}"
    if difference.interval is None:
        return text
    low, high = difference.interval
    return f"{text} ±{(high - low) / 2 / scale:.{decimals}f}"


def _scaled(seconds: float) -> tuple[float, int, str, float]:
    """The number to show, its decimals for four significant digits, its unit, and the unit in seconds."""
    digits, _, exponent_text = f"{seconds:.3e}".partition("e")
    exponent = int(exponent_text)
    # Of the rounded number, so that 999.96 us becomes 1.000 ms and not 1000 us.
    thousands = max(-3, min(0, exponent // 3))
    unit = {0: "s", -1: "ms", -2: "us", -3: "ns"}[thousands]
    shift = exponent - 3 * thousands
    return float(digits) * 10.0**shift, max(0, 3 - shift), unit, 10.0 ** (3 * thousands)

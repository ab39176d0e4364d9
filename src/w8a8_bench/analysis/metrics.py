"""What is worked out from records when they are shown: operations, bytes, TFLOP/s, speed-ups, times as text."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from msgspec.structs import replace

from w8a8_bench.kernel import Status
from w8a8_bench.problem import Activations
from w8a8_bench.results.record import ComparisonEnd, Record
from w8a8_bench.stats import Estimate, paired_difference, paired_ratio


def speedup(record: Record, baseline: Record, measure: str) -> Estimate | None:
    """How many times faster `record` is than `baseline`, from samples of the same blocks; above 1 is faster.

    None if one of them is not `ok`, lacks the measure, or shares no block with the other. Raises ValueError for
    records of different comparisons.
    """
    return _paired(paired_ratio, baseline, record, measure, record.processes)


def prequantized_twin(record: Record, records: Iterable[Record]) -> Record | None:
    """The record among `records` of the same kernel and problem with activations quantized beforehand.

    None for a record that is its own twin, and if the twin was not planned.
    """
    if record.problem.activations is Activations.PREQUANTIZED:
        return None
    wanted = record.comparison, record.kernel, replace(record.problem, activations=Activations.PREQUANTIZED)
    return next((other for other in records if (other.comparison, other.kernel, other.problem) == wanted), None)


def quantization_cost(record: Record, twin: Record, measure: str) -> Estimate | None:
    """Seconds that quantizing A inside the timed region adds: `record` minus its `prequantized_twin`, block by block.

    Not the quantization alone: after it the GEMM finds A in the L2, so that the two need not add up. It may be below
    zero by noise. None and ValueError as `speedup`.
    """
    return _paired(paired_difference, record, twin, measure, record.processes)


def _paired(
    of: Callable[..., Estimate | None], a: Record, b: Record, measure: str, processes: tuple[int, ...]
) -> Estimate | None:
    """`of` the samples of both; None if not both were measured. Raises ValueError for records of different comparisons.

    Blocks of different comparisons have the same numbers but were not taken together.
    """
    where, other_where = (f"{r.comparison} ({r.problem.shape})" for r in (a, b))
    if where != other_where:
        raise ValueError(f"comparison {where} against {other_where}: samples are paired within one comparison")
    if not all(r.status is Status.OK and measure in r.samples for r in (a, b)):
        return None
    return of(a.samples[measure], a.blocks[measure], b.samples[measure], b.blocks[measure], processes)


def duplicate(end: ComparisonEnd, records: Iterable[Record], measure: str) -> tuple[Record, Record] | None:
    """The record of a comparison's baseline, and that record with the samples that were taken of it a second time.

    None if nothing was duplicated, or the cell itself has no time.
    """
    taken, cell = end.duplicate_samples(measure), end.duplicate.get("cell")
    original = next((record for record in records if record.text == cell), None)
    if not taken or not taken[0] or original is None or original.status is not Status.OK:
        return None
    if not original.samples.get(measure):
        return None
    return original, replace(original, samples={measure: taken[0]}, blocks={measure: taken[1]})


def noise_floor(end: ComparisonEnd, records: Iterable[Record], measure: str) -> Estimate | None:
    """The duplicate's time over that of the kernel that it duplicates: identical code, so that what differs is noise.

    None if there is no `duplicate`.
    """
    twice = duplicate(end, records, measure)
    if twice is None:
        return None
    original, again = twice
    return _paired(paired_ratio, again, original, measure, original.processes)

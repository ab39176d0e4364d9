"""A row a cell: all that reports show of it, worked out from its record by `metrics`, `roofline` and `stats`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from w8a8_bench import stats
from w8a8_bench.analysis import metrics
from w8a8_bench.analysis.roofline import Roofline, roofline
from w8a8_bench.environment.device import Device
from w8a8_bench.kernel import Status
from w8a8_bench.problem import work
from w8a8_bench.problem.kernel_name import BASELINE
from w8a8_bench.report.comparable_runs import ResultSet
from w8a8_bench.results.record import Record
from w8a8_bench.timing.measures import HOST_LAUNCH, MEANINGS, part

QUANT, GEMM = PARTS = ("quant", "gemm")
GEMM_ALONE = tuple(part(measure, GEMM) for measure in MEANINGS if measure != HOST_LAUNCH)
UNKNOWN = Roofline(of_peak=None, of_reads=None)


@dataclass(frozen=True, kw_only=True)
class Times:
    """One measure of an `ok` cell. Times are in seconds; what is not known, or has no meaning for it, is None.

    seconds       the median of one process, the mean of the processes' medians of several
    interval      its 95% interval, and `half_width` half of that over `seconds`
    clock_mhz     median SM clock of the samples
    tflops        of the whole launch, or of the GEMM alone
    speedup       over the bf16 baseline, from samples of the same blocks
    limit         how near the device's limit: percent of the compute peak at that clock, or of the read-only floor
    cost          what quantizing inside the timed region adds to the same kernel prequantized, from the same blocks
    """

    samples: int
    seconds: float
    interval: stats.Interval | None
    half_width: float | None
    clock_mhz: float | None = None
    tflops: float | None = None
    speedup: stats.Estimate | None = None
    limit: Roofline = UNKNOWN
    cost: stats.Estimate | None = None


NO_ENDS = (None, None)

NUMBERS: Mapping[str, Callable[[Times], float | None]] = {
    "seconds": lambda times: times.seconds,
    "seconds_low": lambda times: (times.interval or NO_ENDS)[0],
    "seconds_high": lambda times: (times.interval or NO_ENDS)[1],
    "half_width": lambda times: times.half_width,
    "samples": lambda times: times.samples,
    "clock_mhz": lambda times: times.clock_mhz,
    "tflops": lambda times: times.tflops,
    "speedup": lambda times: times.speedup.median if times.speedup else None,
    "speedup_low": lambda times: (times.speedup.interval or NO_ENDS)[0] if times.speedup else None,
    "speedup_high": lambda times: (times.speedup.interval or NO_ENDS)[1] if times.speedup else None,
    "percent_of_peak": lambda times: times.limit.of_peak,
    "percent_of_reads": lambda times: times.limit.of_reads,
    "quantization_cost_seconds": lambda times: times.cost.median if times.cost else None,
    "quantization_cost_seconds_low": lambda times: (times.cost.interval or NO_ENDS)[0] if times.cost else None,
    "quantization_cost_seconds_high": lambda times: (times.cost.interval or NO_ENDS)[1] if times.cost else None,
}
"""The columns of a measure, by the names that the page and CSV give them."""


@dataclass(frozen=True)
class CellRow:
    """One cell. `times` is empty if the record is not `ok`: such samples are not shown."""

    record: Record
    times: Mapping[str, Times]


def make_rows(results: ResultSet) -> tuple[tuple[CellRow, ...], ...]:
    """Rows of every comparison of `results`, parallel to `results.comparisons`."""
    device = results.device
    return tuple(tuple(rows_of(comparison.records, device)) for comparison in results.comparisons)


def measures_of(records: Sequence[Record]) -> tuple[str, ...]:
    """Measures that any of `records` has, the headline first; parts of a launch are not among them."""
    present = {name for record in records for name in record.samples}
    return tuple(name for name in MEANINGS if name in present)


def rows_of(records: Sequence[Record], device: Device | None) -> Iterator[CellRow]:
    """Rows of the records of one comparison."""
    baselines = {record.problem.shape: record for record in records if record.kernel == BASELINE}
    for record in records:
        if record.status is not Status.OK:
            yield CellRow(record, {})
            continue
        twin = metrics.prequantized_twin(record, records)
        baseline = baselines.get(record.problem.shape)
        yield CellRow(record, {name: _times(record, name, baseline, twin, device) for name in _shown(record)})


def _shown(record: Record) -> list[str]:
    every = [name for measure in MEANINGS for name in (measure, *(part(measure, which) for which in PARTS))]
    return [name for name in every if record.samples.get(name)]


def _times(record: Record, measure: str, baseline: Record | None, twin: Record | None, device: Device | None) -> Times:
    samples = record.samples[measure]
    groups = record.groups(measure) if record.processes else None
    clocks = record.clock_mhz.get(measure)
    seconds = stats.estimate(samples, groups)
    whole = measure in MEANINGS and measure != HOST_LAUNCH
    product = whole or measure in GEMM_ALONE
    return Times(
        samples=len(samples),
        seconds=seconds,
        interval=stats.interval(samples, groups),
        half_width=stats.half_width(samples, groups),
        clock_mhz=stats.median(clocks) if clocks else None,
        tflops=work.tflops(record.problem, seconds) if product else None,
        speedup=metrics.speedup(record, baseline, measure) if whole and baseline else None,
        limit=roofline(record, measure, device) if whole and device else UNKNOWN,
        cost=metrics.quantization_cost(record, twin, measure) if whole and twin else None,
    )

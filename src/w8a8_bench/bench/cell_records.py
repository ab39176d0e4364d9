"""The records of a comparison that was measured in this process."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from w8a8_bench.bench.cell_run import CellRun, CellRuns
from w8a8_bench.correctness.check import Verdict
from w8a8_bench.correctness.sqnr import Scheme, scheme_of
from w8a8_bench.environment.telemetry import POWER_CAP
from w8a8_bench.kernel import Status
from w8a8_bench.problem.formats import Format
from w8a8_bench.problem.kernel_name import KernelName
from w8a8_bench.results.record import CheckError, Duplicate, Record
from w8a8_bench.timing.method import Sample

Samples = Mapping[str, Sequence[Sample]]
"""By measure, one sample a block."""


def make_record(run: CellRun, cells: CellRuns, sqnr_db: Mapping[Scheme, dict[str, float]]) -> Record:
    """What became of one cell."""
    kept = run.samples if run.status in (Status.OK, Status.IMPLAUSIBLE) else {}
    samples = _seconds(kept)
    clocks = {
        measure: tuple(sample.clock_mhz for sample in values if sample.clock_mhz is not None)
        for measure, values in kept.items()
    }
    timed = run.timed if kept else None
    scheme = scheme_of(run.cell.problem)
    return Record(
        comparison=cells.comparison.index,
        kernel=run.cell.kernel,
        provider=KernelName.parse(run.cell.kernel).provider,
        problem=run.cell.problem,
        labels=dict(cells.comparison.where.labels),
        status=run.status,
        reason=run.reason,
        error=_error(run.verdict),
        config=run.config,
        samples=samples,
        blocks=_blocks(samples),
        launches_per_sample={m: sampler.launches for m, sampler in timed.samplers.items()} if timed else {},
        clock_mhz={measure: values for measure, values in clocks.items() if len(values) == len(samples[measure])},
        rotation=dict(timed.rotation) if timed else {},
        flags=tuple(_flags(run, cells)),
        scheme_sqnr_db=dict(sqnr_db.get(scheme, {})) if scheme else {},
    )


def duplicate_of(run: CellRun | None, taken: Samples) -> Duplicate:
    """The second set of samples of the cell that was timed twice; empty if there is none."""
    if run is None or not taken:
        return {}
    samples = _seconds(taken)
    return {"kernel": run.cell.kernel, "cell": run.cell.text, "samples": samples, "blocks": _blocks(samples)}


def _seconds(taken: Samples) -> dict[str, tuple[float, ...]]:
    return {measure: tuple(sample.seconds for sample in values) for measure, values in taken.items()}


def _blocks(samples: Mapping[str, Sequence[float]]) -> dict[str, tuple[int, ...]]:
    return {measure: tuple(range(len(values))) for measure, values in samples.items()}


def _flags(run: CellRun, cells: CellRuns) -> list[str]:
    flags = []
    if run.cell.problem.format is Format.FP8 and not cells.device.is_cuda:
        flags.append("emulated")
    seconds = [sample.seconds for sample in run.samples.get(cells.settings.headline, ())]
    if run.alive and seconds and not cells.settings.stop.settled(seconds):
        flags.append("unsettled")
    capped = [POWER_CAP in (look.throttle or ()) for look in run.looks if look]
    if run.alive and capped and sum(capped) > len(capped) / 2:
        flags.append("power_capped")
    return flags


def _error(verdict: Verdict | None) -> CheckError | None:
    """The figures of a check; None if an answer held NaN or infinity, which the reason then says."""
    if verdict is None or not (math.isfinite(verdict.relative_error) and math.isfinite(verdict.worst)):
        return None
    figures: CheckError = {"relative": verdict.relative_error, "worst": verdict.worst}
    return figures if verdict.rows is None else {**figures, "rows": verdict.rows}

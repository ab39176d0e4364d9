"""One comparison in this process: every cell prepared and checked, all timed block by block, all checked again."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable

import torch

from w8a8_bench.bench.cell_records import duplicate_of, make_record
from w8a8_bench.bench.cell_run import CellRuns, InHand, Progress
from w8a8_bench.bench.check_cells import CellChecks
from w8a8_bench.bench.time_cells import DUPLICATE, CellTiming
from w8a8_bench.environment.device import Device
from w8a8_bench.environment.watch import Watch
from w8a8_bench.kernel import Kernel
from w8a8_bench.problem.comparison import Comparison
from w8a8_bench.providers import registry
from w8a8_bench.results.record import ComparisonEnd, Record
from w8a8_bench.timing.rotation import ReservedMemory
from w8a8_bench.timing.settings import Settings


def run_comparison(
    comparison: Comparison,
    device: Device,
    settings: Settings,
    *,
    progress: Progress = lambda phase, what, done: None,
    in_hand: InHand = lambda cell, step: None,
    kernels: Callable[[str], Kernel] = registry.get,
    reserved: ReservedMemory | None = None,
) -> tuple[list[Record], ComparisonEnd]:
    """Measure every cell of `comparison` on `device`, in this process. A cell's fault becomes its status. Operands that
    are timed lie in what is `reserved`, if there is room.

    Raises DeviceLost if a kernel's fault is the whole process's, as an illegal memory access on a GPU is.
    """
    # Libraries launch on the current GPU, whatever their operands' device, and fault elsewhere.
    with torch.cuda.device(device.index) if device.is_cuda else contextlib.nullcontext():
        cells = CellRuns(comparison, device, settings, progress, in_hand, reserved)
        try:
            return _run(cells, kernels)
        finally:
            cells.let_go()


def _run(cells: CellRuns, kernels: Callable[[str], Kernel]) -> tuple[list[Record], ComparisonEnd]:
    """The order of things in one comparison."""
    comparison, device, settings = cells.comparison, cells.device, cells.settings
    if device.is_cuda:
        torch.cuda.reset_peak_memory_stats(device.index)
    checks = CellChecks(cells, kernels)
    timing = CellTiming(cells, weights_of=checks.check_all())
    checked = time.perf_counter()
    timing.bind_all()
    bound = time.perf_counter()
    with Watch(device, workers=settings.workers) as watch:
        taken = timing.take_blocks(watch)
    timed = time.perf_counter()
    checks.check_again()
    ended = time.perf_counter()
    records = [make_record(run, cells, checks.sqnr_db) for run in cells.all]
    seconds = {
        "preparing": cells.prepared_s + bound - checked,
        "checking": checked - cells.budget.started - cells.prepared_s + ended - timed,
        "timing": timed - bound - cells.rested_s,
        "resting": cells.rested_s,
        "other": time.perf_counter() - ended,
    }
    return records, ComparisonEnd(
        index=comparison.index,
        shape=comparison.shape,
        labels=dict(comparison.where.labels),
        seconds=seconds,
        blocks=taken.blocks,
        cells=len(records),
        duplicate=duplicate_of(timing.duplicated, taken.samples.get(DUPLICATE, {})),
        machine={**watch.to_json(), "voided_blocks": taken.voided, "settling_rounds": taken.settling},
        memory_bytes=torch.cuda.max_memory_reserved(device.index) if device.is_cuda else None,
    )

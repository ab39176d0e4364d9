"""One comparison in this process: every cell prepared and checked, all timed block by block, all checked again."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial

import torch

from w8a8_bench.comparison import Cell, Comparison
from w8a8_bench.data import Data
from w8a8_bench.device import Device
from w8a8_bench.formats import Format
from w8a8_bench.kernel import Kernel, Launch, Launches, Prepared, Status
from w8a8_bench.make_operands import OperandFactory
from w8a8_bench.names import KernelName
from w8a8_bench.operands import Operands
from w8a8_bench.problem import GemmShape
from w8a8_bench.providers import registry
from w8a8_bench.record import ComparisonEnd, Record
from w8a8_bench.reference import Oracle, Verdict, check, poison
from w8a8_bench.settings import Settings
from w8a8_bench.timing.blocks import run_blocks
from w8a8_bench.timing.host import TIME_HOST, HostTimer

CHECK_SEED_OFFSET = 0x5EED
"""The check's operands come from another seed than the timed ones, and always from normal data."""

Progress = Callable[[str, str, float], None]
"""Told what is going on: phase (`prepare`, `check`, `time`), cell or block, and how much of the comparison is done."""


@dataclass
class _CellRun:
    """A cell on its way through the comparison. A status other than OK is final, and nothing is run after it."""

    cell: Cell
    kernel: Kernel | None = None
    prepared: Prepared | None = None
    operands: Operands | None = None
    launches: Launches | None = None
    status: Status = Status.OK
    reason: str = ""
    verdict: Verdict | None = None
    config: dict[str, object] = field(default_factory=dict)
    launches_per_sample: dict[str, int] = field(default_factory=dict)
    samples: Mapping[str, list[float]] = field(default_factory=dict)

    def stop(self, status: Status, reason: str) -> None:
        self.status, self.reason, self.launches = status, reason, None

    @property
    def alive(self) -> bool:
        return self.status is Status.OK


@dataclass(frozen=True)
class _Budget:
    """Wall time of a comparison. Its first half is for the checks, so that what was checked has time to be timed."""

    started: float
    seconds: float | None

    def deadline(self, share: float) -> float | None:
        return None if self.seconds is None else self.started + share * self.seconds

    def skip_if_spent(self, run: _CellRun, share: float, what: str) -> None:
        deadline = self.deadline(share)
        if deadline is not None and time.perf_counter() > deadline:
            part = "the budget" if share == 1 else "half the budget"
            run.stop(Status.SKIPPED, f"{part} of {self.seconds:g} s was spent before this cell was {what}")


def run_comparison(
    comparison: Comparison,
    device: Device,
    settings: Settings,
    *,
    progress: Progress = lambda phase, what, done: None,
    kernels: Callable[[str], Kernel] = registry.get,
) -> tuple[list[Record], ComparisonEnd]:
    """Measure every cell of `comparison` on `device`, in this process. A cell's fault becomes its status."""
    started = time.perf_counter()
    budget = _Budget(started, settings.budget_s)
    runs = [_CellRun(cell) for cell in comparison.cells]
    timer, oracle = HostTimer(device), Oracle()

    _check_all(runs, comparison.shape, kernels, oracle, device, timer, budget, settings, progress)
    oracle.clear()
    checked = time.perf_counter()

    timed = OperandFactory(comparison.shape, device.torch_name, data=settings.data.value, seed=settings.seed)
    for run in runs:
        if run.alive:
            progress("prepare", run.cell.text, 0.5)
            if any(other.launches for other in runs):  # at least one is timed, however long the checks took
                budget.skip_if_spent(run, 1.0, "timed")
            if run.alive:
                _guarded(run, device, partial(_bind, run, timed, timer))
    bound = time.perf_counter()

    blocks = _time(runs, timer, device, settings, budget.deadline(1.0), progress)
    timed_at = time.perf_counter()

    for run in runs:
        if run.alive:
            progress("check", run.cell.text, 1.0)
            _guarded(run, device, partial(_check_again, run, oracle, timer))
    ended = time.perf_counter()

    shape, labels = comparison.shape, dict(comparison.where.labels)
    records = [_record(run, comparison.index, labels, device, settings) for run in runs]
    seconds = {"setup": bound - checked, "check": checked - started + ended - timed_at, "timing": timed_at - bound}
    return records, ComparisonEnd(
        index=comparison.index, shape=shape, labels=labels, seconds=seconds, blocks=blocks, cells=len(records)
    )


def _check_all(
    runs: list[_CellRun],
    shape: GemmShape,
    kernels: Callable[[str], Kernel],
    oracle: Oracle,
    device: Device,
    timer: HostTimer,
    budget: _Budget,
    settings: Settings,
    progress: Progress,
) -> None:
    """Prepare every cell and check it on operands of the check's own, which are let go of at the end."""
    own = OperandFactory(shape, device.torch_name, data=Data.NORMAL.value, seed=settings.seed + CHECK_SEED_OFFSET)
    for position, run in enumerate(runs):
        progress("check", run.cell.text, 0.5 * position / len(runs))
        if not _refused(run, device, kernels, budget):
            _guarded(run, device, partial(_prepare_and_check, run, own, oracle, device, timer))


def _refused(run: _CellRun, device: Device, kernels: Callable[[str], Kernel], budget: _Budget) -> bool:
    """Whether the cell ends before anything ran: its kernel refuses, or the checks' half of the budget is spent."""
    run.kernel = kernels(run.cell.kernel)
    support = run.kernel.supports(run.cell.problem, device)
    if not support:
        run.stop(Status.UNSUPPORTED, support.reason)
    else:
        budget.skip_if_spent(run, 0.5, "checked")
    return not run.alive


def _guarded(run: _CellRun, device: Device, step: Callable[[], None]) -> None:
    """Run one step of a cell; whatever it raises becomes the cell's status. Nothing is hidden: the text is kept."""
    try:
        step()
        if device.is_cuda:
            torch.cuda.synchronize(device.index)
    except (MemoryError, torch.OutOfMemoryError) as error:
        run.stop(Status.OUT_OF_MEMORY, _one_line(error))
    except Exception as error:
        text = _one_line(error)
        status = Status.OUT_OF_MEMORY if "not enough memory" in text else Status.FAILED
        run.stop(status, text)


def _one_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def _prepare_and_check(run: _CellRun, own: OperandFactory, oracle: Oracle, device: Device, timer: HostTimer) -> None:
    """Prepare the kernel and judge its answer on the check's own operands, in a guarded output."""
    assert run.kernel is not None
    run.prepared = run.kernel.prepare(run.cell.problem, device)
    run.config = dict(run.prepared.config)
    operands = own.make(run.cell.problem, guarded=True)
    launches = run.prepared.bind(operands)
    launches.total()
    timer.synchronize()
    _judge(run, check(operands, oracle, fast_accum=_is_fast(run)))


def _check_again(run: _CellRun, oracle: Oracle, timer: HostTimer) -> None:
    """Judge one more launch on the operands that were timed: what was measured must still compute the answer."""
    assert run.launches is not None and run.operands is not None
    poison(run.operands.out)
    run.launches.total()
    timer.synchronize()
    _judge(run, check(run.operands, oracle, fast_accum=_is_fast(run)), when="after timing: ")


def _judge(run: _CellRun, verdict: Verdict, when: str = "") -> None:
    if not verdict.ok:
        run.verdict = verdict
        run.stop(Status.INCORRECT, when + verdict.reason)
    elif run.verdict is None:
        run.verdict = verdict  # of the check's own data: the error that is shown must not depend on `--data`


def _is_fast(run: _CellRun) -> bool:
    """Whether FP8 products may be summed in the tensor core's own short accumulator.

    `_fast_accum` kernels say so in their name, and CUTLASS kernels sum so as vLLM's do; blockwise ones promote to fp32.
    """
    name = KernelName.parse(run.cell.kernel)
    return name.variant == "fast_accum" or (name.provider in ("cutlass", "vllm") and not name.is_blockwise)


def _bind(run: _CellRun, timed: OperandFactory, timer: HostTimer) -> None:
    """Bind the kernel to the timed operands and find how many launches make a sample."""
    assert run.prepared is not None
    run.operands = timed.make(run.cell.problem)
    run.launches = run.prepared.bind(run.operands)
    for measure, launch in _measures(run.launches).items():
        run.launches_per_sample[measure] = timer.calibrate(launch)


def _measures(launches: Launches) -> dict[str, Launch]:
    parts = {TIME_HOST: launches.total, f"{TIME_HOST}_quant": launches.quant, f"{TIME_HOST}_gemm": launches.gemm}
    return {measure: launch for measure, launch in parts.items() if launch is not None}


def _time(
    runs: list[_CellRun],
    timer: HostTimer,
    device: Device,
    settings: Settings,
    deadline: float | None,
    progress: Progress,
) -> int:
    """Time all cells that are left. A cell that raises is out, and the blocks begin anew without it."""
    while True:
        alive = {index: run for index, run in enumerate(runs) if run.alive}
        broken: list[_CellRun] = []

        def one(run: _CellRun, broken: list[_CellRun] = broken) -> dict[str, float]:
            taken: dict[str, float] = {}

            def sample() -> None:
                assert run.launches is not None
                for measure, launch in _measures(run.launches).items():
                    taken[measure] = timer.sample(launch, run.launches_per_sample[measure])

            if run.alive:
                _guarded(run, device, sample)
                if not run.alive:
                    broken.append(run)
            return taken if run.alive else {}

        result = run_blocks(
            {index: partial(one, run) for index, run in alive.items()},
            rule=settings.stop,
            headline=TIME_HOST,
            deadline=deadline,
            seed=settings.seed,
            after_block=lambda block: progress("time", f"block {block}", 0.5 + 0.5 * block / settings.stop.max_blocks),
        )
        if broken:
            continue
        for index, run in alive.items():
            run.samples = result.samples[index]
        return result.blocks


def _record(run: _CellRun, index: int, labels: Mapping[str, str | int], device: Device, settings: Settings) -> Record:
    flags = []
    if run.cell.problem.format is Format.FP8 and not device.is_cuda:
        flags.append("emulated")
    if run.alive and not settings.stop.settled(run.samples[TIME_HOST]):
        flags.append("unsettled")
    samples = {measure: tuple(values) for measure, values in run.samples.items()} if run.alive else {}
    return Record(
        comparison=index,
        kernel=run.cell.kernel,
        provider=KernelName.parse(run.cell.kernel).provider,
        problem=run.cell.problem,
        labels=dict(labels),
        status=run.status,
        reason=run.reason,
        error=_error(run.verdict),
        config=run.config,
        samples=samples,
        blocks=tuple(range(max((len(values) for values in samples.values()), default=0))),
        launches_per_sample=run.launches_per_sample if run.alive else {},
        clock_mhz=None,
        flags=tuple(flags),
    )


def _error(verdict: Verdict | None) -> dict[str, float] | None:
    """The figures of a check; none where an answer held NaN or infinity, which the reason then says."""
    if verdict is None or not (math.isfinite(verdict.relative_error) and math.isfinite(verdict.worst)):
        return None
    return {"relative": verdict.relative_error, "worst": verdict.worst}

"""One comparison, whatever its kernels do to the worker: every cell gets a status, and what can be measured is.

A kernel that costs its worker is tried once more alone. Where that costs a worker too, the cell is left out, with the
reason, and the rest of the comparison is measured without it; else the comparison is measured again as it was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

from msgspec.structs import replace

from w8a8_bench.bench.device_workers import Finished, Workers
from w8a8_bench.bench.process import Progress, SweepRefused, WorkerLost
from w8a8_bench.environment.device import Device
from w8a8_bench.kernel import FAULTS, Status
from w8a8_bench.problem.comparison import Cell, Comparison
from w8a8_bench.problem.kernel_name import KernelName
from w8a8_bench.problem.memory import comparison_bytes, most_sets, rotation_bytes
from w8a8_bench.results.record import ComparisonEnd, Record
from w8a8_bench.timing.measures import TIME_COLD, TIME_KERNEL
from w8a8_bench.timing.settings import Settings, StopRule

FAILURES = 3
"""Comparisons running in which a kernel fails before it is left out of the rest."""

ALONE = StopRule(min_blocks=1, max_blocks=1)
"""A cell that is tried alone is not measured: whether it ends is what is asked."""


class FailureCounts:
    """Which kernels failed on the last comparisons running. A kernel counts under each of its schemes apart.

    `broken` are cells that are known to be broken before they are measured.
    """

    def __init__(
        self, records: Iterable[Record] = (), broken: Mapping[Cell, tuple[Status, str]] = MappingProxyType({})
    ) -> None:
        self.broken = broken
        self._failures: dict[str, int] = {}
        self._last: dict[str, str] = {}
        self.note(records)

    def note(self, records: Iterable[Record]) -> list[str]:
        """Take in what became of cells; returns those that are left out from now on, with the reason."""
        left_out = []
        for record in records:
            text = Cell(record.kernel, record.problem).text
            if record.status in FAULTS:
                self._failures[text] = self._failures.get(text, 0) + 1
                self._last[text] = f"{record.status.value}: {record.reason}"
                if self._failures[text] == FAILURES:
                    left_out.append(f"{text} is {self.why_left_out(Cell(record.kernel, record.problem))}")
            elif record.status is Status.OK:
                self._failures.pop(text, None)
        return left_out

    def why_left_out(self, cell: Cell) -> str | None:
        if self._failures.get(cell.text, 0) < FAILURES:
            return None
        return f"left out, since it failed on {FAILURES} comparisons running; on the last: {self._last[cell.text]}"


def within_memory(comparison: Comparison, device: Device, settings: Settings) -> Settings | str:
    """`settings` with rotations that `device` has room for; if it has none for the least of them, why not."""
    problems = [cell.problem for cell in comparison.cells]
    needed, l2_bytes = comparison_bytes(problems, cuda=device.is_cuda), device.l2_bytes or 0
    if any(measure in (TIME_COLD, TIME_KERNEL) for measure in settings.measures):
        most = most_sets(problems, l2_bytes, device.available_bytes - needed)
        settings = replace(settings, most_sets=most)
        needed += rotation_bytes(problems, l2_bytes, most)
    if needed <= device.available_bytes:
        return settings
    return (
        f"{comparison.shape} needs about {needed / 2**30:.1f} GiB and {device.name} has "
        f"{device.available_bytes / 2**30:.1f} GiB free: choose a smaller shape or fewer kernels"
    )


def refuse_too_large(comparisons: Sequence[Comparison], device: Device, settings: Settings) -> None:
    """Raise SweepRefused if no comparison fits the device; one that does not beside others is recorded as such."""
    fitted = [within_memory(comparison, device, settings) for comparison in comparisons]
    reasons = [reason for reason in fitted if isinstance(reason, str)]
    if reasons and len(reasons) == len(fitted):
        raise SweepRefused(reasons[0])


def measure_with_retries(
    workers: Workers,
    comparison: Comparison,
    settings: Settings,
    failures: FailureCounts,
    *,
    progress: Progress,
    said: Callable[[str], None],
) -> Finished:
    """Measure `comparison` on the device of `workers`.

    Raises SweepRefused or WorkerLost if the device does not come back.
    """
    attempts = _Attempts(workers, comparison, settings, progress, said)
    for place, cell in enumerate(comparison.cells):
        if cell in failures.broken:
            attempts.stopped[place] = failures.broken[cell]
        elif reason := failures.why_left_out(cell):
            attempts.stopped[place] = Status.SKIPPED, reason
    fitted = within_memory(comparison, workers.device, settings)
    if isinstance(fitted, str):
        attempts.stopped = dict.fromkeys(range(len(comparison.cells)), (Status.OUT_OF_MEMORY, fitted))
    else:
        attempts.settings = fitted
    return attempts.measure()


@dataclass
class _Attempts:
    """The attempts at one comparison. `stopped` are the places of cells that are out, each with status and reason."""

    workers: Workers
    comparison: Comparison
    settings: Settings
    progress: Progress
    said: Callable[[str], None]
    stopped: dict[int, tuple[Status, str]] = field(default_factory=dict)
    suspects: set[int] = field(default_factory=set)
    losses: int = 0
    unexplained: int = 0

    def measure(self) -> Finished:
        """The records of all cells: those that were measured, and those that were stopped before they could be."""
        result, comparison, device = self._measure_what_is_left(), self.comparison, self.workers.device
        measured = iter(result.records if result else ())
        records = [
            _unmeasured(comparison, cell, *self.stopped[index]) if index in self.stopped else next(measured)
            for index, cell in enumerate(comparison.cells)
        ]
        if result:
            end = replace(result.end, cells=len(records))
        else:
            labels = dict(comparison.where.labels)
            end = ComparisonEnd(
                index=comparison.index, shape=comparison.shape, labels=labels, seconds={}, blocks=0, cells=len(records)
            )
        if self.losses:
            end = replace(end, machine={**end.machine, "workers_lost": self.losses})
        name = device.uuid or device.kind
        return Finished(comparison, tuple(replace(record, device=name) for record in records), end)

    def _measure_what_is_left(self) -> Finished | None:
        """What was measured of the cells that are left in the end; None if none is."""
        while left := [place for place in range(len(self.comparison.cells)) if place not in self.stopped]:
            try:
                return self.workers.run(self._part(left), self.settings, self.progress)
            except WorkerLost as lost:
                self._learn(left, lost)
        return None

    def _learn(self, left: Sequence[int], lost: WorkerLost) -> None:
        """Decide what is out of the next attempt."""
        self.losses += 1
        suspect = None if lost.cell is None else left[lost.cell]
        if suspect is None:
            self.unexplained += 1
            if self.unexplained > 1:
                self.stopped.update(dict.fromkeys(left, (lost.status, lost.reason)))
            self._tell("no kernel", lost, "the shape is left out" if self.unexplained > 1 else "another goes on")
        elif suspect in self.suspects:
            self._leave_out(suspect, lost)
        else:
            self.suspects.add(suspect)
            alone = " alone" if len(left) > 1 else ""
            self._tell(self.comparison.cells[suspect].text, lost, f"it is tried once more{alone}")
            if alone:
                self._try_alone(suspect)

    def _try_alone(self, suspect: int) -> None:
        try:
            self.workers.run(self._part([suspect]), replace(self.settings, stop=ALONE, processes=1), self.progress)
        except WorkerLost as lost:
            self.losses += 1
            self._leave_out(suspect, lost)

    def _leave_out(self, suspect: int, lost: WorkerLost) -> None:
        self.stopped[suspect] = lost.status, lost.reason
        self._tell(f"{self.comparison.cells[suspect].text} again", lost, "it is left out of this shape")

    def _tell(self, whose: str, lost: WorkerLost, then: str) -> None:
        self.said(f"a worker was lost at {self.comparison.shape}, running {whose}: {lost.reason}; {then}")

    def _part(self, places: Sequence[int]) -> Comparison:
        return replace(self.comparison, cells=tuple(self.comparison.cells[place] for place in places))


def _unmeasured(comparison: Comparison, cell: Cell, status: Status, reason: str) -> Record:
    return Record(
        comparison=comparison.index,
        kernel=cell.kernel,
        provider=KernelName.parse(cell.kernel).provider,
        problem=cell.problem,
        labels=dict(comparison.where.labels),
        status=status,
        reason=reason,
        error=None,
        config={},
        samples={},
        blocks={},
        launches_per_sample={},
        clock_mhz={},
        flags=(),
    )

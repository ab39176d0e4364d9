"""The parent's side of a sweep: deals comparisons out to the devices, and records what becomes of each. Touches none.

A kernel that costs its worker is tried once more alone. Where that costs a worker too, the cell is left out, with the
reason, and the rest of the comparison is measured without it; else the comparison is measured again as it was.
"""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from w8a8_bench.comparison import Cell, Comparison
from w8a8_bench.device import Device
from w8a8_bench.kernel import FAULTS, Status
from w8a8_bench.measures import TIME_COLD, TIME_KERNEL
from w8a8_bench.memory import comparison_bytes, most_sets, rotation_bytes
from w8a8_bench.names import KernelName
from w8a8_bench.record import ComparisonEnd, Record
from w8a8_bench.settings import Settings, StopRule
from w8a8_bench.sweep.merge import merge_measures, merge_processes
from w8a8_bench.sweep.process import Limits, Progress, SweepRefused, Worker, WorkerLost

FAILURES = 3
"""Comparisons running in which a kernel fails before it is left out of the rest."""

ALONE = StopRule(min_blocks=1, max_blocks=1)
"""A cell that is tried alone is not measured: whether it ends is what is asked."""


@dataclass(frozen=True)
class Finished:
    """One comparison, with its records in the order of its cells."""

    comparison: Comparison
    records: tuple[Record, ...]
    end: ComparisonEnd


class Team:
    """The workers of one device. Use as a context manager: leaving it ends them.

    One is enough unless the measures or the rigor ask for fresh processes: then each has its own, started once and
    idle while another works.
    """

    def __init__(self, wanted: str, limits: Limits | None = None) -> None:
        self._wanted, self._limits = wanted, limits
        self._workers = {(0, 0): Worker(wanted, limits)}

    def __enter__(self) -> Team:
        return self

    def __exit__(self, *raised: object) -> None:
        for worker in list(self._workers.values()):
            worker.__exit__(*raised)

    @property
    def first(self) -> Worker:
        return self._workers[0, 0]

    @property
    def device(self) -> Device:
        return self.first.hello()[0]

    def run(self, comparison: Comparison, settings: Settings, progress: Progress) -> Finished:
        """Have `comparison` measured by as many processes as `settings` ask for. Raises WorkerLost, its worker anew."""
        processes = []
        for process in range(settings.processes):
            passes = [
                self._run((process, number), comparison, one, progress)
                for number, one in enumerate(replace(settings, process=process).passes())
            ]
            processes.append(merge_measures(passes))
        records, end = merge_processes(processes, settings)
        return Finished(comparison, tuple(records), end)

    def _run(
        self, which: tuple[int, int], comparison: Comparison, settings: Settings, progress: Progress
    ) -> tuple[list[Record], ComparisonEnd]:
        if which not in self._workers:
            self._workers[which] = Worker(self._wanted, self._limits)
            self._workers[which].hello()
        own = len(self._workers)
        try:
            return self._workers[which].run(comparison, replace(settings, workers=own), progress)
        except WorkerLost:
            self._workers[which].restart()
            raise


def within_memory(comparison: Comparison, device: Device, settings: Settings) -> Settings | str:
    """`settings` with rotations that `device` has room for; where it has none for the least of them, why not."""
    problems = [cell.problem for cell in comparison.cells]
    needed, l2_bytes = comparison_bytes(problems), device.l2_bytes or 0
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
    """Raise SweepRefused where no comparison fits the device; one that does not beside others is recorded as such."""
    fitted = [within_memory(comparison, device, settings) for comparison in comparisons]
    reasons = [reason for reason in fitted if isinstance(reason, str)]
    if reasons and len(reasons) == len(fitted):
        raise SweepRefused(reasons[0])


class Standing:
    """Which kernels failed on the last comparisons running. A kernel counts under each of its schemes apart."""

    def __init__(self, records: Iterable[Record] = ()) -> None:
        self._failures: dict[str, int] = {}
        self._last: dict[str, str] = {}
        self.note(records)

    def note(self, records: Iterable[Record]) -> list[str]:
        """Take in what became of cells; returns those that are left out from now on, with the reason."""
        left_out = []
        for record in records:
            text = Cell(record.kernel, record.problem).text
            if record.status in FAULTS or record.status is Status.COMPILE_ERROR:
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


def run_sweep(
    teams: Sequence[Team],
    comparisons: Sequence[Comparison],
    settings: Settings,
    *,
    progress: Progress,
    finished: Callable[[Finished], None],
    said: Callable[[str], None] = lambda line: None,
    before: Iterable[Record] = (),
) -> None:
    """Run `comparisons`, each whole on the first of `teams` that is free, in order where there is one.

    Every callback is called in this thread: `progress` while cells are measured, `finished` with each comparison, and
    `said` with what the user should know meanwhile. `before` are the records of the sweep that this one goes on with.
    Raises what callbacks raise, and SweepRefused or WorkerLost where a device is gone for good.
    """
    dealer = _Dealer(comparisons, settings, Standing(before), progress, finished, said)
    for team in teams:
        threading.Thread(target=dealer.work, args=(team,), daemon=True).start()
    dealer.serve(len(teams))


class _Dealer:
    """Comparisons on their way to teams, each in a thread of its own, and what comes back to the thread that serves."""

    def __init__(
        self,
        comparisons: Sequence[Comparison],
        settings: Settings,
        standing: Standing,
        progress: Progress,
        finished: Callable[[Finished], None],
        said: Callable[[str], None],
    ) -> None:
        self._waiting = deque(comparisons)
        self._settings, self._standing = settings, standing
        self._progress, self._finished, self._said = progress, finished, said
        self._events: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._changed = threading.Condition()
        self._in_hand = 0
        self._working = 0
        self._gone: BaseException | None = None

    def serve(self, teams: int) -> None:
        """Call what the teams' threads ask for until they have ended. Raises what made a device be given up."""
        self._working = teams
        while self._working:
            self._events.get()()
        if self._gone is not None and self._waiting:
            raise self._gone

    def work(self, team: Team) -> None:
        """In a team's own thread: one comparison after another."""
        try:
            while comparison := self._next():
                try:
                    result = self._survive(team, comparison)
                except (SweepRefused, WorkerLost):
                    self._put_back(comparison)  # for another device, or for the next run
                    raise
                # Waited for, so that printing and writing are not beside what is timed next.
                done = threading.Event()
                self._events.put(partial(self._ended_comparison, result, done))
                done.wait()
        except BaseException as error:
            self._events.put(partial(self._give_up, error))
        else:
            self._events.put(self._ended)

    def _next(self) -> Comparison | None:
        """The next comparison, waited for while another team's may come back; None where all are done."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or not self._in_hand)
            if not self._waiting:
                return None
            self._in_hand += 1
            return self._waiting.popleft()

    def _put_back(self, comparison: Comparison) -> None:
        with self._changed:
            self._waiting.appendleft(comparison)
            self._in_hand -= 1
            self._changed.notify_all()

    def _ended(self) -> None:
        self._working -= 1

    def _ended_comparison(self, result: Finished, done: threading.Event) -> None:
        self._finished(result)
        for line in self._standing.note(result.records):
            self._said(line)
        with self._changed:
            self._in_hand -= 1
            self._changed.notify_all()
        done.set()

    def _give_up(self, error: BaseException) -> None:
        if not isinstance(error, SweepRefused | WorkerLost):
            raise error
        self._gone = error
        self._working -= 1
        if self._working:
            self._said(f"a device is given up, and the others go on: {error}")

    def _survive(self, team: Team, comparison: Comparison) -> Finished:
        """Measure `comparison`, whatever its kernels do to the worker.

        Raises SweepRefused or WorkerLost where the device does not come back.
        """
        cells = comparison.cells
        stopped: dict[int, tuple[Status, str]] = {}
        for index, cell in enumerate(cells):
            if reason := self._standing.why_left_out(cell):
                stopped[index] = Status.SKIPPED, reason
        fitted = within_memory(comparison, team.device, self._settings)
        if isinstance(fitted, str):
            stopped = dict.fromkeys(range(len(cells)), (Status.OUT_OF_MEMORY, fitted))
        settings = self._settings if isinstance(fitted, str) else fitted
        suspects: set[int] = set()
        losses = unexplained = 0
        result: Finished | None = None
        while result is None and (left := [index for index in range(len(cells)) if index not in stopped]):
            try:
                result = team.run(_part(comparison, left), settings, self._tell)
            except WorkerLost as lost:
                losses += 1
                self._events.put(partial(self._said, _what_was_lost(comparison, left, lost)))
                if lost.cell is None:
                    unexplained += 1
                    if unexplained > 1:
                        stopped.update(dict.fromkeys(left, (lost.status, lost.reason)))
                elif left[lost.cell] in suspects:
                    stopped[left[lost.cell]] = lost.status, lost.reason
                else:
                    suspects.add(left[lost.cell])
                    if len(left) > 1 and (
                        again := self._try_alone(team, _part(comparison, [left[lost.cell]]), settings)
                    ):
                        losses += 1
                        stopped[left[lost.cell]] = again.status, again.reason
        return _whole(comparison, result, stopped, losses, team.device)

    def _try_alone(self, team: Team, alone: Comparison, settings: Settings) -> WorkerLost | None:
        """How a cell costs its worker without any other; None where it does not."""
        try:
            team.run(alone, replace(settings, stop=ALONE, processes=1), self._tell)
        except WorkerLost as lost:
            return lost
        return None

    def _tell(self, comparison: Comparison, phase: str, what: str, done: float) -> None:
        self._events.put(partial(self._progress, comparison, phase, what, done))


def _part(comparison: Comparison, places: Sequence[int]) -> Comparison:
    return replace(comparison, cells=tuple(comparison.cells[place] for place in places))


def _what_was_lost(comparison: Comparison, left: Sequence[int], lost: WorkerLost) -> str:
    whose = "no kernel" if lost.cell is None else comparison.cells[left[lost.cell]].text
    return f"a worker was lost at {comparison.shape}, running {whose}: {lost.reason}; another goes on"


def _whole(
    comparison: Comparison,
    result: Finished | None,
    stopped: Mapping[int, tuple[Status, str]],
    losses: int,
    device: Device,
) -> Finished:
    """The records of all cells: those that were measured, and those that were stopped before they could be."""
    measured = iter(result.records if result else ())
    labels = dict(comparison.where.labels)
    name = device.uuid or device.kind
    records = [
        _unmeasured(comparison, cell, *stopped[index]) if index in stopped else next(measured)
        for index, cell in enumerate(comparison.cells)
    ]
    end = ComparisonEnd(
        index=comparison.index, shape=comparison.shape, labels=labels, seconds={}, blocks=0, cells=len(records)
    )
    if result:
        end = replace(result.end, cells=len(records))
    if losses:
        end = replace(end, machine={**end.machine, "workers_lost": losses})
    return Finished(comparison, tuple(replace(record, device=name) for record in records), end)


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
    )

"""The workers of one device, and what they give together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from msgspec.structs import replace

from w8a8_bench.bench.process import Progress, Worker, WorkerLimits, WorkerLost
from w8a8_bench.environment.device import Device
from w8a8_bench.problem.comparison import Comparison
from w8a8_bench.results.merge import merge_measures, merge_processes
from w8a8_bench.results.record import ComparisonEnd, Record
from w8a8_bench.timing.settings import Settings


class Workers(Protocol):
    """Whoever measures on one device: here, or on a node of a cluster."""

    def hello(self) -> tuple[Device, dict[str, object]]:
        """The device and the environment."""
        ...

    @property
    def device(self) -> Device: ...

    def run(self, comparison: Comparison, settings: Settings, progress: Progress) -> Finished:
        """Have `comparison` measured. Raises WorkerLost, with other workers in place, or SweepRefused if there is no
        device any more."""
        ...

    def done(self) -> None:
        """End: all is measured."""
        ...


@dataclass(frozen=True)
class Finished:
    """One comparison, with its records in the order of its cells."""

    comparison: Comparison
    records: tuple[Record, ...]
    end: ComparisonEnd


class DeviceWorkers:
    """The workers of one device. Use as a context manager: leaving it ends them.

    One is enough unless the measures or the rigor ask for fresh processes: then each has its own, started once and
    idle while another works.
    """

    def __init__(self, wanted: str, limits: WorkerLimits | None = None) -> None:
        self._wanted, self._limits = wanted, limits
        self._workers = {(0, 0): Worker(wanted, limits)}

    def __enter__(self) -> DeviceWorkers:
        return self

    def __exit__(self, *raised: object) -> None:
        for worker in list(self._workers.values()):
            worker.__exit__(*raised)

    def done(self) -> None:
        """Have the workers end: all is measured. A GPU's context takes a second, for which only leaving waits."""
        for worker in self._workers.values():
            worker.kill()

    @property
    def first(self) -> Worker:
        return self._workers[0, 0]

    def hello(self) -> tuple[Device, dict[str, object]]:
        return self.first.hello()

    @property
    def device(self) -> Device:
        return self.hello()[0]

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

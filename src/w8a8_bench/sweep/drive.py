"""The parent's side of a sweep: starts the worker, hands it comparisons, keeps what comes back. Touches no device."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import w8a8_bench
from w8a8_bench.comparison import Comparison
from w8a8_bench.device import Device
from w8a8_bench.kernel import Status
from w8a8_bench.measures import TIME_COLD, TIME_KERNEL
from w8a8_bench.memory import comparison_bytes, rotation_bytes
from w8a8_bench.names import KernelName
from w8a8_bench.record import ComparisonEnd, Record
from w8a8_bench.settings import Settings
from w8a8_bench.sweep.merge import merge_measures, merge_processes

STDERR_LINES = 5
"""Last lines of a lost worker's error output that go into the reason."""

Progress = Callable[[Comparison, str, str, float], None]


class SweepRefused(ValueError):
    """The sweep can't begin: no torch, no such device, or more memory than there is."""


@dataclass(frozen=True)
class Finished:
    """One comparison, with its records in the order of its cells."""

    comparison: Comparison
    records: tuple[Record, ...]
    end: ComparisonEnd


class WorkerLost(Exception):
    """The worker ended without answering."""


class Worker:
    """A worker process, started for one device. Use as a context manager: leaving it ends the process."""

    def __init__(self, wanted: str) -> None:
        self._wanted = wanted
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  closed in __exit__
        self._process = self._start()
        self._hello: dict[str, object] | None = None

    def _start(self) -> subprocess.Popen[str]:
        source = str(Path(w8a8_bench.__file__).resolve().parents[1])
        paths = [source, *filter(None, [os.environ.get("PYTHONPATH")])]
        return subprocess.Popen(
            [sys.executable, "-m", "w8a8_bench.sweep.worker", self._wanted],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            encoding="utf-8",
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        )

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *raised: object) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe:
                pipe.close()
        self._errors.close()

    @property
    def process_id(self) -> int:
        return self._process.pid

    def hello(self) -> tuple[Device, dict[str, object]]:
        """The device and the environment, as the worker found them. Raises SweepRefused where it found none."""
        if self._hello is None:
            message = self._receive()
            if message["kind"] == "refused":
                raise SweepRefused(str(message["reason"]))
            self._hello = message
        device, environment = self._hello["device"], self._hello["environment"]
        assert isinstance(device, dict) and isinstance(environment, dict)
        return Device.from_json(device), environment

    def restart(self) -> None:
        """Begin anew after a loss; the device must still be there."""
        self._process.wait()
        self._errors.seek(0)
        self._errors.truncate()
        self._process, self._hello = self._start(), None
        self.hello()

    def run(self, comparison: Comparison, settings: Settings, progress: Progress) -> Finished:
        """Have the worker run `comparison`. Raises WorkerLost, with the reason, where it ends before it answers."""
        self._say({"comparison": comparison.to_json(), "settings": settings.to_json()})
        while True:
            message = self._receive()
            if message["kind"] == "progress":
                progress(comparison, str(message["phase"]), str(message["what"]), float(str(message["done"])))
                continue
            records, end = message["records"], message["end"]
            assert isinstance(records, list) and isinstance(end, dict)
            return Finished(
                comparison, tuple(Record.from_json(record) for record in records), ComparisonEnd.from_json(end)
            )

    def self_test(
        self, *, duty: float, seed: int, progress: Callable[[str, float], None]
    ) -> Iterator[dict[str, object]]:
        """Have the worker test its timing: one verdict after another, as objects. Raises WorkerLost."""
        self._say({"self_test": {"duty": duty, "seed": seed}})
        while (message := self._receive())["kind"] != "tested":
            if message["kind"] == "progress":
                progress(str(message["what"]), float(str(message["done"])))
            else:
                yield message

    def _say(self, message: dict[str, object]) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(message) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise WorkerLost(self._last_words()) from None

    def _receive(self) -> dict[str, object]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise WorkerLost(self._last_words())
        message: dict[str, object] = json.loads(line)
        return message

    def _last_words(self) -> str:
        code = self._process.wait()
        how = f"exit code {code}"
        if code < 0:
            how = f"signal {signal.Signals(-code).name}"
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()[-STDERR_LINES:]
        return f"the worker ended with {how}" + (": " + " | ".join(lines) if lines else "")


def refuse_too_large(comparisons: Sequence[Comparison], device: Device, settings: Settings) -> None:
    """Raise SweepRefused where a comparison needs more memory than the device has free; nothing is allocated for it."""
    rotates = any(measure in (TIME_COLD, TIME_KERNEL) for measure in settings.measures)
    for comparison in comparisons:
        problems = [cell.problem for cell in comparison.cells]
        needed = comparison_bytes(problems) + (rotation_bytes(problems, device.l2_bytes or 0) if rotates else 0)
        if needed > device.available_bytes:
            raise SweepRefused(
                f"{comparison.shape} needs about {needed / 2**30:.1f} GiB and {device.name} has "
                f"{device.available_bytes / 2**30:.1f} GiB free: choose a smaller shape or fewer kernels"
            )


class Team:
    """The workers of one device. Use as a context manager: leaving it ends them.

    One is enough unless the measures or the rigor ask for fresh processes: then each has its own, started once and
    idle while another works.
    """

    def __init__(self, wanted: str) -> None:
        self._wanted = wanted
        self._workers = {(0, 0): Worker(wanted)}

    def __enter__(self) -> Team:
        return self

    def __exit__(self, *raised: object) -> None:
        for worker in self._workers.values():
            worker.__exit__(*raised)

    @property
    def first(self) -> Worker:
        return self._workers[0, 0]

    def run(self, comparison: Comparison, settings: Settings, progress: Progress) -> Finished:
        """Have `comparison` measured by as many processes as `settings` ask for. Raises WorkerLost."""
        processes = []
        for process in range(settings.processes):
            passes = []
            for number, one in enumerate(replace(settings, process=process).passes()):
                result = self._run((process, number), comparison, one, progress)
                passes.append((result.records, result.end))
            processes.append(merge_measures(passes))
        records, end = merge_processes(processes, settings)
        return Finished(comparison, tuple(records), end)

    def _run(self, which: tuple[int, int], comparison: Comparison, settings: Settings, progress: Progress) -> Finished:
        if which not in self._workers:
            self._workers[which] = Worker(self._wanted)
            self._workers[which].hello()
        own = len(self._workers)
        try:
            return self._workers[which].run(comparison, replace(settings, workers=own), progress)
        except WorkerLost:
            self._workers[which].restart()
            raise


def run_sweep(
    team: Team,
    comparisons: Sequence[Comparison],
    settings: Settings,
    *,
    progress: Progress,
    finished: Callable[[Finished], None],
) -> None:
    """Run `comparisons` in order. A worker that is lost costs the comparison in hand, and is started again."""
    in_hand = ""

    def watch(comparison: Comparison, phase: str, what: str, done: float) -> None:
        nonlocal in_hand
        in_hand = what
        progress(comparison, phase, what, done)

    for comparison in comparisons:
        in_hand = ""
        try:
            result = team.run(comparison, settings, watch)
        except WorkerLost as error:
            result = _lost(comparison, in_hand, str(error))
        finished(result)


def _lost(comparison: Comparison, in_hand: str, reason: str) -> Finished:
    """The records of a comparison whose worker was lost: the cell in hand crashed, and no other was measured."""
    texts = [cell.text for cell in comparison.cells]
    records = []
    for cell, text in zip(comparison.cells, texts, strict=True):
        crashed = text == in_hand or in_hand not in texts
        record = Record(
            comparison=comparison.index,
            kernel=cell.kernel,
            provider=KernelName.parse(cell.kernel).provider,
            problem=cell.problem,
            labels=dict(comparison.where.labels),
            status=Status.CRASHED,
            reason=reason,
            error=None,
            config={},
        )
        if not crashed:
            record = replace(record, status=Status.SKIPPED, reason=f"the worker was lost in {in_hand}: {reason}")
        records.append(record)
    end = ComparisonEnd(
        index=comparison.index,
        shape=comparison.shape,
        labels=dict(comparison.where.labels),
        seconds={},
        blocks=0,
        cells=len(records),
    )
    return Finished(comparison, tuple(records), end)

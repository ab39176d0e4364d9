"""Compiling before the measuring: what a sweep needs and no cache holds, in processes beside each other.

The worker of the device says what is missing. Then as many processes as cores and memory allow compile it, and end
before the first block is timed. What can't be compiled ahead is left to the comparison, which says why.
"""

from __future__ import annotations

import contextlib
import os
import queue
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from w8a8_bench.bench.device_workers import DeviceWorkers
from w8a8_bench.bench.process import LOOK_S, SweepRefused, Worker, WorkerLimits, WorkerLost
from w8a8_bench.environment.detect import host_memory
from w8a8_bench.environment.device import Device
from w8a8_bench.kernel import Status
from w8a8_bench.problem.comparison import Cell, Comparison
from w8a8_bench.problem.memory import comparison_bytes

FEWEST = 4
"""Builds that are worth processes of their own: each first takes 5 s to import torch and the compilers. Fewer are left
to the comparisons."""

HOST_BYTES = 3 << 30
"""Main memory of a process that compiles: torch, the compiler of the CuTe DSL or nvcc beside it."""

CONTEXT_BYTES = 1 << 30
"""Device memory of a process, beside its operands."""

FINAL = (Status.COMPILE_ERROR, Status.TIMED_OUT)
"""Statuses of a build that are those of its cells. Another fault may come of building many at once, as when memory is
short: the comparison tries again."""

Told = Callable[[int, int], None]
"""Told how many builds are done, and of how many."""


@dataclass
class Compiled:
    """What was compiled ahead: how many builds, in how many seconds, how many the cache held, and the cells that
    turned out to be broken."""

    compiled: int = 0
    cached: int = 0
    seconds: float = 0.0
    failed: dict[Cell, tuple[Status, str]] = field(default_factory=dict)

    def add(self, other: Compiled) -> None:
        """Take in what another machine compiled, beside this one."""
        self.compiled += other.compiled
        self.cached += other.cached
        self.seconds = max(self.seconds, other.seconds)
        self.failed.update(other.failed)


def compile_ahead(
    devices: Sequence[DeviceWorkers],
    comparisons: Iterable[Comparison],
    limits: WorkerLimits,
    *,
    progress: Told,
    said: Callable[[str], None],
) -> Compiled:
    """Compile what `comparisons` need on `devices`; once for several of one kind."""
    started = time.perf_counter()
    cells = tuple(dict.fromkeys(cell for comparison in comparisons for cell in comparison.cells))
    done = Compiled()
    for workers in {(one.device.name, one.device.sm_count): one for one in reversed(devices)}.values():
        missing = _missing(workers.first, cells, done, said)
        if len(missing) >= FEWEST:
            _Team(workers, missing, limits, done, progress, said).work()
    done.seconds = time.perf_counter() - started
    return done


def _missing(
    worker: Worker, cells: Sequence[Cell], done: Compiled, said: Callable[[str], None]
) -> dict[str, list[Cell]]:
    """The cells of each build that is missing, the longest build first. A kernel that costs the worker is asked no
    more."""
    while cells:
        missing: dict[str, list[Cell]] = {}
        cached: set[str] = set()
        seconds: dict[str, float] = {}
        try:
            for found in worker.builds_of(cells):
                name = str(found["name"])
                if found["cached"]:
                    cached.add(name)
                else:
                    missing.setdefault(name, []).append(cells[found["cell"]])
                    seconds[name] = found["seconds"]
        except WorkerLost as lost:
            worker.restart()
            kernel = None if lost.cell is None else cells[lost.cell].kernel
            cells = [cell for cell in cells if kernel and cell.kernel != kernel]
            said(f"a worker was lost, asking {kernel or 'kernels'} what to compile: {lost.reason}; its shapes do it")
        else:
            done.cached += len(cached)
            return {name: missing[name] for name in sorted(missing, key=seconds.__getitem__, reverse=True)}
    return {}


def jobs_on(device: Device, missing: dict[str, list[Cell]]) -> int:
    """How many processes may compile beside each other."""
    operands = max(comparison_bytes([cell.problem]) for cells in missing.values() for cell in cells[:1])
    limits = [len(missing), len(os.sched_getaffinity(0)), host_memory()[1] // HOST_BYTES]
    if device.is_cuda:
        limits.append(device.available_bytes // (CONTEXT_BYTES + operands))
    return max(1, min(limits))


class _Team:
    """Processes that compile on one device, each watched by a thread."""

    def __init__(
        self,
        workers: DeviceWorkers,
        missing: dict[str, list[Cell]],
        limits: WorkerLimits,
        done: Compiled,
        progress: Told,
        said: Callable[[str], None],
    ) -> None:
        self._device, self._limits = workers.device, limits
        self._missing, self._done, self._progress, self._said = missing, done, progress, said
        self._todo: queue.SimpleQueue[str] = queue.SimpleQueue()
        for name in missing:
            self._todo.put(name)
        self._results: queue.SimpleQueue[tuple[str, Status, str] | None] = queue.SimpleQueue()

    def work(self) -> None:
        """Compile everything, and end the processes."""
        with contextlib.ExitStack() as stack:
            jobs = jobs_on(self._device, self._missing)
            for _ in range(jobs):
                worker = stack.enter_context(Worker(self._device.torch_name, self._limits))
                threading.Thread(target=self._compile, args=(worker,), daemon=True).start()
            self._gather(jobs)

    def _compile(self, worker: Worker) -> None:
        """In a thread: one build after another, until none is left or the process does not come back."""
        try:
            worker.hello()
            while True:
                name = self._todo.get_nowait()
                try:
                    status, reason = worker.build(self._missing[name][0], name)
                except WorkerLost as lost:
                    self._results.put((name, lost.status, lost.reason))
                    worker.restart()
                else:
                    self._results.put((name, status, reason))
        except (queue.Empty, SweepRefused, WorkerLost):
            self._results.put(None)

    def _gather(self, jobs: int) -> None:
        """Note results as they come until every process is done."""
        finished, left = 0, jobs
        self._progress(0, len(self._missing))
        while left:
            try:
                result = self._results.get(timeout=LOOK_S)  # a signal is served between two waits
            except queue.Empty:
                continue
            if result is None:
                left -= 1
                continue
            name, status, reason = result
            finished += 1
            self._progress(finished, len(self._missing))
            if status is Status.OK:
                self._done.compiled += 1
            elif status in FINAL:
                self._done.failed.update(dict.fromkeys(self._missing[name], (status, reason)))
            else:
                self._said(f"{self._missing[name][0].text} could not be compiled ahead: {reason}; its shapes try again")
        if finished < len(self._missing):
            self._said(
                f"{len(self._missing) - finished} kernels are compiled by their shapes: no process was left for it"
            )

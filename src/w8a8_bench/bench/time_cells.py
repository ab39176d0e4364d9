"""The timing of a comparison's cells: bound to operands made for it, then sampled block by block."""

from __future__ import annotations

import gc
import time
from collections.abc import Iterable
from dataclasses import replace
from functools import partial

from w8a8_bench.bench.cell_run import CellRun, CellRuns
from w8a8_bench.correctness.fingerprints import InputWatch
from w8a8_bench.correctness.operand_factory import OperandFactory
from w8a8_bench.environment.device import Device
from w8a8_bench.environment.watch import Watch
from w8a8_bench.kernel import FAULTS, Launches, Prepared, Status, Step
from w8a8_bench.problem.kernel_name import BASELINE
from w8a8_bench.problem.operands import Operands
from w8a8_bench.timing.blocks import BlockSamples, Cells, run_blocks
from w8a8_bench.timing.measures import TIME_KERNEL, Timer
from w8a8_bench.timing.method import Method, Sample, TimedCell, rest_after
from w8a8_bench.timing.rotation import ReservedMemory
from w8a8_bench.timing.settings import Settings

DUPLICATE = -1
"""Among the cells that are timed: the baseline once more."""


class CellTiming:
    """Binds the cells of a comparison and takes their samples. Samples of spoilt operands don't count.

    `duplicated` is the cell that is timed twice, the baseline if it is there: the ratio of the two is the noise floor.
    """

    def __init__(self, cells: CellRuns, weights_of: OperandFactory | None) -> None:
        self._cells, self._weights_of = cells, weights_of
        self._inputs = InputWatch()
        self._suspicious = False
        self.duplicated: CellRun | None = None
        self._duplicate: TimedCell | None = None

    def bind_all(self) -> None:
        """Bind every cell that is left to operands made for it, and the baseline a second time."""
        while not self._bound():
            gc.collect()

    def _bound(self) -> bool:
        """As `bind_all`; false if a cell wrote to the operands on the way, so that they must be made anew."""
        cells, settings = self._cells, self._cells.settings
        for run in cells.all:
            run.timed = None
        self.duplicated, self._duplicate, self._inputs = None, None, InputWatch()
        if not cells.alive:
            return True
        factory = cells.make_factory(settings.data, settings.seed, weights_of=self._weights_of)
        self._weights_of = None  # bound anew, after a cell wrote to them, all get others
        method: Method | None = None

        def see_and_bind(prepared: Prepared, operands: Operands) -> Launches:
            self._inputs.see(operands)
            return prepared.bind(operands.given())

        def bind(run: CellRun) -> None:
            nonlocal method
            assert run.prepared is not None
            if method is None:
                method = make_method(cells.device, settings, cells.reserved)
            operands = factory.make(run.cell.problem)
            cells.synchronize()
            with cells.in_hand_is(run, Step.MAKE_READY):
                ready = method.ready(partial(see_and_bind, run.prepared), operands, like=run.timed)
            self._inputs.refuse_writes(", before it was timed,", ready.sets[0])
            run.timed = ready

        for run in cells.alive:
            cells.progress("prepare", run.cell.text, 0.5)
            if any(other.timed for other in cells.all):  # at least one is timed, however long the checks took
                cells.budget.skip_if_spent(run, 1.0, "timed")
            if run.alive:
                cells.guarded(run, partial(bind, run))
            if not run.alive and self._inputs.changed():
                return False
        if cells.alive:
            baselines = [run for run in cells.alive if run.cell.kernel == BASELINE]
            self.duplicated = original = (baselines or cells.alive)[0]
            copy = replace(original)
            cells.guarded(copy, partial(bind, copy))
            if copy.status in FAULTS:  # what there is no room or no graph for, it does without
                original.stop(copy.status, copy.reason)
                return False
            self._duplicate = copy.timed
        return True

    def take_blocks(self, watch: Watch) -> BlockSamples:
        """Time all cells that are left. If one wrote to what all of them read, find it and time the others anew.

        It is found by a look at the inputs after every sample, which costs time: the first attempt goes without.
        """
        while True:
            taken = self._time(watch)
            if not self._cells.alive or not self._inputs.changed():
                return taken
            self._suspicious = True
            self.bind_all()

    def _time(self, watch: Watch) -> BlockSamples:
        """Time all cells that are left. A cell that raises is out, and the blocks begin anew without it."""
        cells, settings = self._cells, self._cells.settings
        while True:
            runs = {run.index: (run, run.timed) for run in cells.alive if run.timed}
            if self.duplicated and self.duplicated.alive and self._duplicate:
                runs[DUPLICATE] = self.duplicated, self._duplicate
            broken: list[CellRun] = []
            samplers: Cells = {
                index: partial(self._sample, run, timed, watch, broken) for index, (run, timed) in runs.items()
            }

            def forget(runs: Iterable[CellRun] = tuple(run for run, _ in runs.values())) -> None:
                watch.begin()
                for run in runs:
                    run.looks.clear()

            forget()
            taken = run_blocks(
                samplers,
                rule=settings.stop,
                headline=settings.headline,
                deadline=cells.budget.end(time.perf_counter()),
                seed=settings.seed + 1_000_003 * settings.process,
                after_block=lambda block: cells.progress(
                    "time", f"block {block}", 0.5 + 0.5 * block / settings.stop.max_blocks
                ),
                void=watch.end_block,
                warm_up=cells.device.is_cuda,  # a CPU's clock has no such trend
                forget=forget,
            )
            if broken:
                if self._suspicious and self._inputs.changed():
                    return taken  # of no use: the caller makes new operands
                continue
            for index, (run, _) in runs.items():
                if index != DUPLICATE:
                    run.samples = taken.samples[index]
                    if not run.samples:
                        run.stop(Status.SKIPPED, watch.why_void())
            return taken

    def _sample(self, run: CellRun, timed: TimedCell, watch: Watch, broken: list[CellRun]) -> dict[str, Sample]:
        """One sample of every measure of a cell; none once it is broken."""
        cells, taken = self._cells, dict[str, Sample]()

        def sample() -> None:
            for measure, sampler in timed.samplers.items():
                started = time.perf_counter()
                with cells.in_hand_is(run, Step.SAMPLE):
                    taken[measure] = sampler.sample()
                if self._suspicious:
                    self._inputs.refuse_writes(", while it was timed,", timed.sets[0])
                run.looks.append(watch.look())
                if cells.device.is_cuda:  # a CPU needs no rest
                    cells.rested_s += rest_after(taken[measure], started, cells.settings.duty)

        if run.alive:
            cells.guarded(run, sample)
            if not run.alive:
                broken.append(run)
        return taken if run.alive else {}


def make_method(device: Device, settings: Settings, reserved: ReservedMemory | None = None) -> Method:
    """A fresh method for one comparison, its operands in what is `reserved`. Each is a file, imported when used."""
    if settings.measures == (TIME_KERNEL,):
        from w8a8_bench.timing.profiler import ProfilerMethod

        return ProfilerMethod(device, settings.most_sets, reserved)
    if settings.timer is Timer.GRAPH:
        from w8a8_bench.timing.cuda_graph import GraphMethod

        return GraphMethod(device, settings.measures, settings.most_sets, reserved)
    if settings.timer is Timer.EVENT:
        from w8a8_bench.timing.cuda_events import EventMethod

        return EventMethod(device, settings.measures)
    from w8a8_bench.timing.host import HostMethod

    return HostMethod(device, settings.measures)

"""One comparison in this process: every cell prepared and checked, all timed block by block, all checked again."""

from __future__ import annotations

import contextlib
import gc
import math
import random
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import torch

from w8a8_bench import stats
from w8a8_bench.analysis import roofline
from w8a8_bench.bench.cell_run import Budget, CellRun
from w8a8_bench.correctness.check import Verdict, check, poison, sample_rows
from w8a8_bench.correctness.fingerprints import InputsWritten, InputWatch
from w8a8_bench.correctness.operand_factory import OperandFactory
from w8a8_bench.correctness.oracle import Oracle
from w8a8_bench.correctness.returned_output import WrongOutput, take_output
from w8a8_bench.correctness.sqnr import Scheme, scheme_of, scheme_sqnr_db
from w8a8_bench.environment.device import Device
from w8a8_bench.environment.telemetry import POWER_CAP
from w8a8_bench.environment.watch import Watch
from w8a8_bench.kernel import FAULTS, CompileError, Kernel, Launches, Prepared, Refused, Status, Step, sums_fast
from w8a8_bench.problem import Problem
from w8a8_bench.problem.comparison import Comparison
from w8a8_bench.problem.distribution import Distribution
from w8a8_bench.problem.formats import Format
from w8a8_bench.problem.kernel_name import BASELINE, KernelName
from w8a8_bench.problem.operands import Operands
from w8a8_bench.providers import registry
from w8a8_bench.providers.contract import NO_REASON, config_of, launches_of, support_of, with_place
from w8a8_bench.results.record import CheckError, ComparisonEnd, Duplicate, Record
from w8a8_bench.text import in_one_line
from w8a8_bench.timing.blocks import BlockSamples, Cells, run_blocks, settle
from w8a8_bench.timing.choose import make_method
from w8a8_bench.timing.measures import COLD_MEASURES
from w8a8_bench.timing.method import Method, Sample, TimedCell, Uncapturable, rest
from w8a8_bench.timing.rotation import NotCold
from w8a8_bench.timing.settings import Settings

CHECK_SEED_OFFSET = 0x5EED
"""The check's operands come from another seed than the timed ones, and always from normal data."""

DUPLICATE = -1
"""Among the cells that are timed: the baseline once more."""

Progress = Callable[[str, str, float], None]
"""Told what is going on: phase (`prepare`, `check`, `time`), cell or block, and how much of the comparison is done."""

InHand = Callable[[int | None, Step | None], None]
"""Told the place of the cell whose kernel's own code runs from now on, and what of it; None when it has ended."""

HOLDING = (Status.OUT_OF_MEMORY, Status.FAILED, Status.COMPILE_ERROR, Status.UNCAPTURABLE)
"""Statuses after an exception, whose frames may hold memory that the next cell needs."""

NO_MEMORY = ("not enough memory", "can't allocate memory")
"""What torch says, as a plain RuntimeError, where main memory is refused: older and newer versions."""


class DeviceLost(RuntimeError):
    """A kernel left this process without a usable device: nothing more can be measured in it."""


def run_comparison(
    comparison: Comparison,
    device: Device,
    settings: Settings,
    *,
    progress: Progress = lambda phase, what, done: None,
    in_hand: InHand = lambda cell, step: None,
    kernels: Callable[[str], Kernel] = registry.get,
) -> tuple[list[Record], ComparisonEnd]:
    """Measure every cell of `comparison` on `device`, in this process. A cell's fault becomes its status.

    Raises DeviceLost where a kernel's fault is the whole process's, as an illegal memory access on a GPU is.
    """
    run = _ComparisonRun(comparison, device, settings, progress, in_hand, kernels)
    with _current(device):
        try:
            return run.go()
        finally:
            run.let_go()


def _current(device: Device) -> contextlib.AbstractContextManager[object]:
    """Make a GPU the current one: libraries launch there, whatever their operands' device, and fault elsewhere."""
    return torch.cuda.device(device.index) if device.is_cuda else contextlib.nullcontext()


class _ComparisonRun:
    """The order of things in one comparison, and what its steps share."""

    def __init__(
        self,
        comparison: Comparison,
        device: Device,
        settings: Settings,
        progress: Progress,
        in_hand: InHand,
        kernels: Callable[[str], Kernel],
    ) -> None:
        self._comparison, self._device, self._settings = comparison, device, settings
        self._progress, self._in_hand, self._kernels = progress, in_hand, kernels
        self._runs = [CellRun(cell, index) for index, cell in enumerate(comparison.cells)]
        self._duplicated: CellRun | None = None
        self._duplicate: TimedCell | None = None
        self._oracle = Oracle()
        self._checked: OperandFactory | None = None
        self._inputs = InputWatch()
        self._suspicious = False
        self._sqnr_db: dict[Scheme, dict[str, float]] = {}
        self._chosen_set = 0
        self._reversed: set[int] = set()

    def go(self) -> tuple[list[Record], ComparisonEnd]:
        if self._device.is_cuda:
            torch.cuda.reset_peak_memory_stats(self._device.index)
        marks = {"start": time.perf_counter()}
        self._budget = Budget(marks["start"], self._settings.budget_s, self._settings.may_skip)
        self._check_all()
        self._oracle.clear()
        marks["check"] = time.perf_counter()
        self._bind_all()
        marks["setup"] = time.perf_counter()
        with Watch(self._device, workers=self._settings.workers) as watch:
            taken = self._time_on_what_was_made(watch)
        marks["timing"] = time.perf_counter()
        # One number for all, so that in nobody's rotation the set before the chosen one is changed as well.
        fewest = min((len(run.timed.sets) for run in self._alive() if run.timed), default=1)
        self._chosen_set = random.Random(self._settings.seed).randrange(fewest)
        for run in self._alive():
            self._progress("check", run.cell.text, 1.0)
            self._guarded(run, partial(self._check_again, run))
            self._refuse_implausible(run)
        ended = time.perf_counter()
        seconds = {
            "check": marks["check"] - marks["start"] + ended - marks["timing"],
            "setup": marks["setup"] - marks["check"],
            "timing": marks["timing"] - marks["setup"],
        }
        records = [self._record(run) for run in self._runs]
        return records, ComparisonEnd(
            index=self._comparison.index,
            shape=self._comparison.shape,
            labels=dict(self._comparison.where.labels),
            seconds=seconds,
            blocks=taken.blocks,
            cells=len(records),
            duplicate=self._duplicate_samples(taken),
            machine={**watch.to_json(), "voided_blocks": taken.voided, "settling_rounds": taken.settling},
            memory_bytes=torch.cuda.max_memory_reserved(self._device.index) if self._device.is_cuda else None,
        )

    def let_go(self) -> None:
        """Give device memory back, so that a comparison finds none of another's."""
        self._oracle.clear()
        self._inputs = InputWatch()
        self._runs, self._duplicate, self._duplicated, self._checked = [], None, None, None
        if self._device.is_cuda:
            torch.cuda.empty_cache()

    def _alive(self) -> list[CellRun]:
        return [run for run in self._runs if run.alive]

    def _check_all(self) -> None:
        """Prepare every cell and check it on operands of the check's own, which are let go of at the end.

        On a CPU their weights are timed as well, if they are of the same data: making, quantizing and upcasting them
        takes 3 s at n = k = 16384.
        """
        own = self._factory(Distribution.NORMAL, self._settings.seed + CHECK_SEED_OFFSET)
        for position, run in enumerate(self._runs):
            self._progress("check", run.cell.text, 0.5 * position / len(self._runs))
            if not self._refused(run):
                self._guarded(run, partial(self._prepare_and_check, run, own))
        self._judge_schemes(own)
        self._inputs = InputWatch()
        if not self._device.is_cuda and self._settings.data is Distribution.NORMAL:
            self._checked = own

    def _judge_schemes(self, own: OperandFactory) -> None:
        """The accuracy of each scheme, once for all cells that share it, where a cell is left to be timed."""
        schemes = [scheme for scheme in (scheme_of(run.cell.problem) for run in self._runs) if scheme]
        if not schemes or not self._alive() or self._budget.leaves_out():
            return
        try:
            outliers = self._factory(Distribution.OUTLIERS, own.seed).activations()
            sources = {Distribution.NORMAL.value: own.activations(), Distribution.OUTLIERS.value: outliers}
            self._sqnr_db = scheme_sqnr_db(schemes, sources, own.weights(), seed=own.seed)
        except Exception as error:  # no cell is lost for it, and it is not hidden
            for run in self._alive():
                run.reason = f"SQNR is not known: {in_one_line(error)}"

    def _factory(self, data: Distribution, seed: int, weights_of: OperandFactory | None = None) -> OperandFactory:
        return OperandFactory(
            self._comparison.shape, self._device.torch_name, data=data.value, seed=seed, weights_of=weights_of
        )

    def _refused(self, run: CellRun) -> bool:
        """Whether the cell ends before anything ran: its kernel refuses, or the checks' half of the budget is spent."""
        self._guarded(run, partial(self._ask, run))
        if run.alive:
            self._budget.skip_if_spent(run, 0.5, "checked")
        return not run.alive

    def _ask(self, run: CellRun) -> None:
        """Get the kernel and its answer to the problem. Neither is to raise, and a third party's may."""
        with self._in_hand_is(run, Step.ASK):
            run.kernel = self._kernels(run.cell.kernel)
            support = support_of(run.kernel, run.cell.problem, self._device)
        if not support:
            run.stop(Status.UNSUPPORTED, support.reason)

    @contextlib.contextmanager
    def _in_hand_is(self, run: CellRun, step: Step) -> Iterator[None]:
        """While the kernel's own code runs: whoever watches this process knows whose it is."""
        self._in_hand(run.index, step)
        try:
            yield
            self._synchronize()
        finally:
            self._in_hand(None, None)

    def _guarded(self, run: CellRun, step: Callable[[], None]) -> None:
        """Run one step of a cell; whatever it raises becomes the cell's status. Nothing is hidden: the text is kept."""
        self._stop_if_it_raises(run, step)
        if not run.alive:
            run.prepared, run.timed = None, None
        if run.status in HOLDING:
            gc.collect()
            if self._device.is_cuda:
                self._require_device(run.reason)
                torch.cuda.empty_cache()

    def _require_device(self, reason: str) -> None:
        """Raise DeviceLost where the CUDA context is beyond use: then everything in this process fails from here on."""
        try:
            self._synchronize()
        except RuntimeError:
            raise DeviceLost(reason) from None

    def _stop_if_it_raises(self, run: CellRun, step: Callable[[], None]) -> None:
        try:
            step()
        except (MemoryError, torch.OutOfMemoryError) as error:
            run.stop(Status.OUT_OF_MEMORY, in_one_line(error))
        except Uncapturable as error:
            run.stop(Status.UNCAPTURABLE, f"{error}; --timer event times what no graph can hold")
        except (NotCold, Refused) as error:
            run.stop(Status.UNSUPPORTED, str(error) or NO_REASON)
        except (InputsWritten, WrongOutput) as error:
            run.stop(Status.INCORRECT, str(error))
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt) and signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
                raise  # the user's, in whose process this is; a worker does not listen to SIGINT
            text = self._said(run, error)
            status = Status.COMPILE_ERROR if _is_of_a_compiler(error) else Status.FAILED
            run.stop(Status.OUT_OF_MEMORY if any(said in text for said in NO_MEMORY) else status, text)

    @staticmethod
    def _said(run: CellRun, error: BaseException) -> str:
        """What was raised, and where in code that is not this project's."""
        with contextlib.suppress(KeyError):  # a kernel of the caller's own, which no provider has
            if not registry.provider_of(run.cell.kernel).origin:
                return in_one_line(error)
        return with_place(error)

    def _synchronize(self) -> None:
        if self._device.is_cuda:
            torch.cuda.synchronize(self._device.index)

    def _prepare_and_check(self, run: CellRun, own: OperandFactory) -> None:
        """Prepare the kernel and judge its answer on the check's own operands, in a guarded output."""
        assert run.kernel is not None
        operands = own.make(run.cell.problem, guarded=True)
        self._synchronize()
        with self._in_hand_is(run, Step.PREPARE):
            run.prepared = run.kernel.prepare(run.cell.problem, self._device)
            run.config = config_of(run.kernel, run.prepared)
        self._inputs.see(operands)
        try:
            with self._in_hand_is(run, Step.BIND):
                launches = launches_of(run.prepared, operands.given())
            with self._in_hand_is(run, Step.LAUNCH):
                outputs = [launches.total()]
            self._refuse_writes("", operands)
        except BaseException:
            self._let_go_of(own)  # whatever it wrote is not the next kernel's
            raise
        run.config |= take_output(outputs, 0, operands.out)
        _judge(run, self._verdict(run, operands, seed=own.seed))

    def _verdict(self, run: CellRun, operands: Operands, *, seed: int) -> Verdict:
        """Judge an answer: all of it, or rows drawn from `seed`."""
        rows = sample_rows(operands.problem.shape, self._device, seed=seed)
        assert run.kernel is not None
        return check(operands, self._oracle, fast_accum=sums_fast(run.kernel), rows=rows)

    def _let_go_of(self, own: OperandFactory) -> None:
        """Have the next cell's operands made anew."""
        own.forget()
        self._oracle.clear()
        self._inputs = InputWatch()

    def _check_again(self, run: CellRun) -> None:
        """Judge what was timed, run once more, on one of its operand sets, whose A is another by now.

        It must still compute the answer, and not have kept the one that it computed before.
        """
        assert run.timed is not None
        one = run.timed.sets[self._chosen_set]
        self._reverse_once(one.a)
        poison(one.out)
        self._synchronize()
        with self._in_hand_is(run, Step.LAUNCH_AGAIN):
            outputs = run.timed.rerun()
        run.config |= take_output(outputs, self._chosen_set, one.out)
        _judge(run, self._verdict(run, one, seed=self._settings.seed), when="after timing, on another A: ")

    def _reverse_once(self, a: torch.Tensor) -> None:
        """Reverse A along k, or m where k is 1. Cells that share A find it reversed already."""
        if a.data_ptr() not in self._reversed:
            self._reversed.add(a.data_ptr())
            bits = a.view(torch.uint8 if a.element_size() == 1 else torch.int16)
            bits.copy_(bits.flip(1 if a.shape[1] > 1 else 0))

    def _refuse_implausible(self, run: CellRun) -> None:
        """A time that the device can't reach is no result, whatever else was right."""
        samples = run.samples.get(self._settings.headline, ())
        if run.alive and samples:
            clocks = [sample.clock_mhz for sample in samples if sample.clock_mhz is not None]
            reason = roofline.why_implausible(
                run.cell.problem,
                stats.median([sample.seconds for sample in samples]),
                self._device,
                clock_mhz=stats.median(clocks) if clocks else None,
                cold=self._settings.headline in COLD_MEASURES,
            )
            if reason:
                run.stop(Status.IMPLAUSIBLE, reason)

    def _bind_all(self) -> None:
        """Bind every cell that is left to operands made for it, and the baseline a second time."""
        while not self._bound():
            gc.collect()

    def _bound(self) -> bool:
        """As `_bind_all`; false where a cell wrote to the operands on the way, which are not what was made then."""
        for run in self._runs:
            run.timed = None
        self._duplicate, self._duplicated, self._inputs = None, None, InputWatch()
        if not self._alive():
            return True
        timed = self._factory(self._settings.data, self._settings.seed, weights_of=self._checked)
        self._checked = None  # bound anew, after a cell wrote to them, all get others
        method: Method | None = None

        def bind(run: CellRun, bound: Callable[[TimedCell], None]) -> None:
            nonlocal method
            assert run.prepared is not None
            if method is None:
                method = make_method(self._device, self._settings)
            operands = timed.make(run.cell.problem)
            self._synchronize()
            with self._in_hand_is(run, Step.MAKE_READY):
                ready = method.ready(partial(self._bind_seen, run.prepared), operands, like=run.timed)
            self._refuse_writes(", before it was timed,", ready.sets[0])
            bound(ready)

        for run in self._alive():
            self._progress("prepare", run.cell.text, 0.5)
            if any(other.timed for other in self._runs):  # at least one is timed, however long the checks took
                self._budget.skip_if_spent(run, 1.0, "timed")
            if run.alive:
                self._guarded(run, partial(bind, run, partial(setattr, run, "timed")))
            if not run.alive and self._inputs.changed():
                return False
        if self._alive():
            baselines = [run for run in self._alive() if run.cell.kernel == BASELINE]
            self._duplicated = original = (baselines or self._alive())[0]
            copy = replace(original)
            self._guarded(copy, partial(bind, copy, partial(setattr, self, "_duplicate")))
            if copy.status in FAULTS:  # what there is no room or no graph for, it does without
                original.stop(copy.status, copy.reason)
                return False
        return True

    def _bind_seen(self, prepared: Prepared, operands: Operands) -> Launches:
        self._inputs.see(operands)
        return prepared.bind(operands.given())

    def _refuse_writes(self, when: str, operands: Operands) -> None:
        if written := self._inputs.changed(operands):
            raise InputsWritten(when, written)

    def _time_on_what_was_made(self, watch: Watch) -> BlockSamples:
        """Time all cells that are left, and where one wrote to what all of them read, once more without it.

        Who it was is found by a look at the inputs after every sample, which a first time goes without.
        """
        while True:
            taken = self._time(watch)
            if not self._alive() or not self._inputs.changed():
                return taken
            self._suspicious = True
            self._bind_all()

    def _time(self, watch: Watch) -> BlockSamples:
        """Time all cells that are left. A cell that raises is out, and the blocks begin anew without it."""
        settings = self._settings
        while True:
            timed = {index: run.timed for index, run in enumerate(self._runs) if run.alive and run.timed}
            by_index = {index: self._runs[index] for index in timed}
            if self._duplicated and self._duplicated.alive and self._duplicate:
                timed[DUPLICATE], by_index[DUPLICATE] = self._duplicate, self._duplicated
            broken: list[CellRun] = []
            cells: Cells = {
                index: partial(self._one, by_index[index], what, watch, broken) for index, what in timed.items()
            }
            deadline = self._budget.end(time.perf_counter())
            rounds = settle(cells, settings.headline, deadline) if self._device.is_cuda and cells else 0
            watch.begin()
            for run in by_index.values():
                run.looks.clear()
            taken = run_blocks(
                cells,
                rule=settings.stop,
                headline=settings.headline,
                deadline=deadline,
                seed=settings.seed + 1_000_003 * settings.process,
                after_block=lambda block: self._progress(
                    "time", f"block {block}", 0.5 + 0.5 * block / settings.stop.max_blocks
                ),
                void=watch.end_block,
            )
            taken.settling = rounds
            if broken:
                if self._suspicious and self._inputs.changed():
                    return taken  # of no use: the caller makes new operands
                continue
            for index, run in by_index.items():
                if index != DUPLICATE:
                    run.samples = taken.samples[index]
                    if not run.samples:
                        run.stop(Status.SKIPPED, watch.why_void())
            return taken

    def _one(self, run: CellRun, timed: TimedCell, watch: Watch, broken: list[CellRun]) -> dict[str, Sample]:
        """One sample of every measure of a cell; none once it is broken."""
        taken: dict[str, Sample] = {}

        def sample() -> None:
            for measure, sampler in timed.samplers.items():
                started = time.perf_counter()
                with self._in_hand_is(run, Step.SAMPLE):
                    taken[measure] = sampler.sample()
                if self._suspicious:
                    self._refuse_writes(", while it was timed,", timed.sets[0])
                run.looks.append(watch.look())
                self._rest(time.perf_counter() - started)

        if run.alive:
            self._guarded(run, sample)
            if not run.alive:
                broken.append(run)
        return taken if run.alive else {}

    def _rest(self, worked: float) -> None:
        """Rest a GPU; a CPU needs none."""
        if self._device.is_cuda:
            rest(worked, self._settings.duty)

    def _duplicate_samples(self, taken: BlockSamples) -> Duplicate:
        if self._duplicated is None or not taken.samples.get(DUPLICATE):
            return {}
        samples = {m: tuple(sample.seconds for sample in values) for m, values in taken.samples[DUPLICATE].items()}
        return {
            "kernel": self._duplicated.cell.kernel,
            "cell": self._duplicated.cell.text,
            "samples": samples,
            "blocks": {measure: tuple(range(len(values))) for measure, values in samples.items()},
        }

    def _record(self, run: CellRun) -> Record:
        kept = run.samples if run.status in (Status.OK, Status.IMPLAUSIBLE) else {}
        samples = {measure: tuple(sample.seconds for sample in values) for measure, values in kept.items()}
        clocks = {
            measure: tuple(sample.clock_mhz for sample in values if sample.clock_mhz is not None)
            for measure, values in kept.items()
        }
        timed = run.timed if kept else None
        return Record(
            comparison=self._comparison.index,
            kernel=run.cell.kernel,
            provider=KernelName.parse(run.cell.kernel).provider,
            problem=run.cell.problem,
            labels=dict(self._comparison.where.labels),
            status=run.status,
            reason=run.reason,
            error=_error(run.verdict),
            config=run.config,
            samples=samples,
            blocks={measure: tuple(range(len(values))) for measure, values in samples.items()},
            launches_per_sample={m: sampler.launches for m, sampler in timed.samplers.items()} if timed else {},
            clock_mhz={measure: values for measure, values in clocks.items() if len(values) == len(samples[measure])},
            rotation=dict(timed.rotation) if timed else {},
            flags=tuple(self._flags(run)),
            scheme_sqnr_db=self._sqnr_of(run.cell.problem),
        )

    def _sqnr_of(self, problem: Problem) -> dict[str, float]:
        scheme = scheme_of(problem)
        return dict(self._sqnr_db.get(scheme, {})) if scheme else {}

    def _flags(self, run: CellRun) -> list[str]:
        flags = []
        if run.cell.problem.format is Format.FP8 and not self._device.is_cuda:
            flags.append("emulated")
        seconds = [sample.seconds for sample in run.samples.get(self._settings.headline, ())]
        if run.alive and seconds and not self._settings.stop.settled(seconds):
            flags.append("unsettled")
        capped = [POWER_CAP in (look.throttle or ()) for look in run.looks if look]
        if run.alive and capped and sum(capped) > len(capped) / 2:
            flags.append("power_capped")
        return flags


def _judge(run: CellRun, verdict: Verdict, when: str = "") -> None:
    if not verdict.ok:
        run.verdict = verdict
        run.stop(Status.INCORRECT, when + verdict.reason)
    elif run.verdict is None:
        run.verdict = verdict  # of the check's own data: the error that is shown must not depend on `--data`


def _is_of_a_compiler(error: BaseException) -> bool:
    """Whether a kernel's compiler raised this, which Triton's does at the first launch."""
    by_triton = any((c.__module__, c.__name__) == ("triton.errors", "TritonError") for c in type(error).__mro__)
    return by_triton or isinstance(error, CompileError)


def _error(verdict: Verdict | None) -> CheckError | None:
    """The figures of a check; none where an answer held NaN or infinity, which the reason then says."""
    if verdict is None or not (math.isfinite(verdict.relative_error) and math.isfinite(verdict.worst)):
        return None
    figures: CheckError = {"relative": verdict.relative_error, "worst": verdict.worst}
    return figures if verdict.rows is None else {**figures, "rows": verdict.rows}

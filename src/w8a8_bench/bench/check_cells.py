"""The checks of a comparison's cells: before they are timed, and again afterwards."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable
from functools import partial

import torch

from w8a8_bench import stats
from w8a8_bench.analysis import roofline
from w8a8_bench.bench import builds
from w8a8_bench.bench.cell_run import CellRun, CellRuns
from w8a8_bench.correctness.check import Verdict, check, poison, sample_rows
from w8a8_bench.correctness.fingerprints import InputWatch
from w8a8_bench.correctness.library_codes import judge_codes, on_codes, why_shared
from w8a8_bench.correctness.operand_factory import OperandFactory
from w8a8_bench.correctness.oracle import Oracle
from w8a8_bench.correctness.returned_output import WrongOutput, take_output
from w8a8_bench.correctness.sqnr import Scheme, scheme_of, scheme_sqnr_db
from w8a8_bench.kernel import Codes, Kernel, Status, Step, sums_fast
from w8a8_bench.problem.distribution import Distribution
from w8a8_bench.problem.kernel_name import KernelName
from w8a8_bench.problem.memory import product_cache_bytes
from w8a8_bench.problem.operands import Operands
from w8a8_bench.providers.contract import build_s_of, config_of, launches_of, support_of
from w8a8_bench.text import in_one_line
from w8a8_bench.timing.measures import COLD_MEASURES

CHECK_SEED_OFFSET = 0x5EED
"""The check's operands come from another seed than the timed ones, and always from normal data with edge cases."""


class CellChecks:
    """Prepares the cells of a comparison and judges their answers, all by one oracle.

    `sqnr_db` is the accuracy of each scheme, once for all cells that share it.
    """

    def __init__(self, cells: CellRuns, kernels: Callable[[str], Kernel]) -> None:
        self._cells, self._kernels = cells, kernels
        self._oracle = Oracle(_room_for_products(cells))
        self._inputs = InputWatch()
        self._reversed: set[int] = set()
        self.sqnr_db: dict[Scheme, dict[str, float]] = {}

    def check_all(self) -> OperandFactory | None:
        """Prepare every cell and check it on operands of the check's own, which are let go of at the end.

        On a CPU their weights are timed as well, if they are of the same data: making, quantizing and upcasting them
        takes 3 s at n = k = 16384. They are returned then.
        """
        cells, settings = self._cells, self._cells.settings
        own = cells.make_factory(Distribution.NORMAL, settings.seed + CHECK_SEED_OFFSET, edge_cases=True)
        for position, run in enumerate(cells.all):
            cells.progress("check", run.cell.text, 0.5 * position / len(cells.all))
            cells.guarded(run, partial(self._ask, run))
            if run.alive:
                cells.budget.skip_if_spent(run, 0.5, "checked")
            if run.alive:
                cells.guarded(run, partial(self._prepare_and_check, run, own))
        self._judge_schemes(own)
        self._oracle.clear()
        self._inputs = InputWatch()
        return own if not cells.device.is_cuda and settings.data is Distribution.NORMAL else None

    def _ask(self, run: CellRun) -> None:
        """Get the kernel and its answer to the problem. Neither is to raise, and a third party's may."""
        with self._cells.in_hand_is(run, Step.ASK):
            run.kernel = self._kernels(run.cell.kernel)
            support = support_of(run.kernel, run.cell.problem, self._cells.device)
            run.build = builds.name_of(run.cell, run.kernel, self._cells.device) if support else None
            build_s_of(run.kernel)
        if not support:
            run.stop(Status.UNSUPPORTED, support.reason)

    def _prepare_and_check(self, run: CellRun, own: OperandFactory) -> None:
        """Prepare the kernel and judge its answer on the check's own operands, in a guarded output."""
        assert run.kernel is not None
        cells = self._cells
        operands = own.make(run.cell.problem, guarded=True)
        cells.synchronize()
        started = time.perf_counter()
        try:
            with cells.in_hand_is(run, Step.PREPARE):
                run.prepared = run.kernel.prepare(run.cell.problem, cells.device)
                run.config = config_of(run.kernel, run.prepared)
        finally:
            cells.prepared_s += time.perf_counter() - started
        self._inputs.see(operands)
        try:
            with cells.in_hand_is(run, Step.BIND):
                launches = launches_of(run.prepared, operands.given())
            with cells.in_hand_is(run, Step.LAUNCH):
                outputs = [launches.total()]
            self._inputs.refuse_writes("", operands)
        except BaseException:  # whatever it wrote is not the next kernel's
            own.forget()
            self._oracle.clear()
            self._inputs = InputWatch()
            raise
        if run.build:
            builds.note(run.build, run.cell)
        run.config |= take_output(outputs, 0, operands.out)
        _judge(run, self._verdict(run, operands, launches.codes, seed=own.seed))

    def _judge_schemes(self, own: OperandFactory) -> None:
        """Find the accuracy of the schemes, if a cell is left to be timed."""
        cells = self._cells
        schemes = [scheme for scheme in (scheme_of(run.cell.problem) for run in cells.all) if scheme]
        if not schemes or not cells.alive or cells.budget.leaves_out():
            return
        try:
            outliers = cells.make_factory(Distribution.OUTLIERS, own.seed).activations()
            normal = cells.make_factory(Distribution.NORMAL, own.seed).activations()  # without edge cases
            sources = {Distribution.NORMAL.value: normal, Distribution.OUTLIERS.value: outliers}
            self.sqnr_db = scheme_sqnr_db(schemes, sources, own.weights(), seed=own.seed)
        except Exception as error:  # no cell is lost for it, and it is not hidden
            for run in cells.alive:
                run.reason = f"SQNR is not known: {in_one_line(error)}"

    def check_again(self) -> None:
        """Check every cell that was timed once more, and that its time is one that the device can reach."""
        cells = self._cells
        # One number for all, so that in nobody's rotation the set before the chosen one is changed as well.
        fewest = min((len(run.timed.sets) for run in cells.alive if run.timed), default=1)
        chosen = random.Random(cells.settings.seed).randrange(fewest)
        for run in cells.alive:
            cells.progress("check", run.cell.text, 1.0)
            cells.guarded(run, partial(self._check_again, run, chosen))
            self._refuse_implausible(run)

    def _check_again(self, run: CellRun, chosen: int) -> None:
        """Judge what was timed, run once more, on one of its operand sets, whose A is another by now.

        It must still compute the answer, and not have kept the one that it computed before.
        """
        assert run.timed is not None
        one = run.timed.sets[chosen]
        self._reverse_once(one.a)
        poison(one.out)
        self._cells.synchronize()
        with self._cells.in_hand_is(run, Step.LAUNCH_AGAIN):
            outputs = run.timed.rerun()
        run.config |= take_output(outputs, chosen, one.out)
        all_codes = [launches.codes for launches in run.timed.bound]
        codes = all_codes[chosen]
        if codes and (shared := why_shared(codes, all_codes)):
            raise WrongOutput(shared)
        verdict = self._verdict(run, one, codes, seed=self._cells.settings.seed)
        _judge(run, verdict, when="after timing, on another A: ")

    def _reverse_once(self, a: torch.Tensor) -> None:
        """Reverse A along k, or along m if k is 1. Cells that share A find it reversed already."""
        if a.data_ptr() not in self._reversed:
            self._reversed.add(a.data_ptr())
            bits = a.view(torch.uint8 if a.element_size() == 1 else torch.int16)
            bits.copy_(bits.flip(1 if a.shape[1] > 1 else 0))

    def _refuse_implausible(self, run: CellRun) -> None:
        """A time that the device can't reach is no result, whatever else was right."""
        measure = self._cells.settings.headline
        samples = run.samples.get(measure, ())
        if run.alive and samples:
            clocks = [sample.clock_mhz for sample in samples if sample.clock_mhz is not None]
            reason = roofline.why_implausible(
                run.cell.problem,
                stats.median([sample.seconds for sample in samples]),
                self._cells.device,
                clock_mhz=stats.median(clocks) if clocks else None,
                cold=measure in COLD_MEASURES,
            )
            if reason:
                run.stop(Status.IMPLAUSIBLE, reason)

    def _verdict(self, run: CellRun, operands: Operands, codes: Codes | None, *, seed: int) -> Verdict:
        """Judge an answer: all of it, or rows drawn from `seed`. If the library declares the codes of A that it made,
        they are judged first, and the answer must be theirs."""
        rows = sample_rows(operands.problem.shape, self._cells.device, seed=seed)
        assert run.kernel is not None
        if codes:
            of_codes = judge_codes(codes, operands)
            if of_codes.reason:
                return Verdict(False, f"quantization: {of_codes.reason}", math.inf, math.inf)
            # As the error that is shown: of the check's own data, which is judged first.
            run.config.setdefault("quantization", f"{KernelName.parse(run.cell.kernel).provider}'s own")
            run.config.setdefault("codes_differing", float(f"{of_codes.differing:.3g}"))
            operands = on_codes(operands, codes)
        return check(operands, self._oracle, fast_accum=sums_fast(run.kernel), rows=rows)


def _room_for_products(cells: CellRuns) -> int:
    device = cells.device
    return product_cache_bytes(
        [run.cell.problem for run in cells.all],
        cuda=device.is_cuda,
        l2_bytes=device.l2_bytes or 0,
        most_sets=cells.settings.most_sets,
        available_bytes=device.available_bytes,
    )


def _judge(run: CellRun, verdict: Verdict, when: str = "") -> None:
    if not verdict.ok:
        run.verdict = verdict
        run.stop(Status.INCORRECT, when + verdict.reason)
    elif run.verdict is None:
        run.verdict = verdict  # of the check's own data: the error that is shown must not depend on `--data`

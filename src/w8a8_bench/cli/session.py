"""One sweep on its way: what it keeps, and the answer and the next command that it ends with."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import replace

from msgspec import structs

from w8a8_bench.bench.cluster import NodeWorkers
from w8a8_bench.bench.compile_ahead import Compiled, compile_ahead
from w8a8_bench.bench.device_workers import DeviceWorkers, Finished, Workers
from w8a8_bench.bench.estimate import Pace, duration
from w8a8_bench.bench.process import WorkerLimits
from w8a8_bench.bench.scheduler import run_sweep
from w8a8_bench.cli import interrupt, next_command, output
from w8a8_bench.cli.errors import EXIT_COMPLETE, EXIT_FAULTS, UsageError
from w8a8_bench.cli.files import Files
from w8a8_bench.cli.progress import Progress
from w8a8_bench.cli.quick import MODEL, NO_FP8
from w8a8_bench.cli.report import MOST_CELLS_OF_A_PAGE
from w8a8_bench.cli.sweep_request import QUICK, Plan, SweepRequest
from w8a8_bench.cli.tables import COMPILING_AHEAD, costs, print_compare_tables, print_comparison, print_faults
from w8a8_bench.environment.device import Device
from w8a8_bench.kernel import FAULTS, Status
from w8a8_bench.problem.formats import Format
from w8a8_bench.problem.kernel_name import BASELINE
from w8a8_bench.report import html
from w8a8_bench.report.comparable_runs import ResultSet, make_sets
from w8a8_bench.report.conclusion import answer, broken
from w8a8_bench.report.table import View, terminal_width, why_not_here, wrapped
from w8a8_bench.results import json_lines
from w8a8_bench.results.record import ComparisonEnd, Record
from w8a8_bench.stats import interval
from w8a8_bench.text import counted, one_line
from w8a8_bench.timing.measures import headline

MOST_PICKLED_AT_ONCE = 2000
"""Cells whose pickle takes under half a second."""

LONG_S = 60.0
"""A sweep that is estimated to take longer says so before it starts."""


class Session:
    """One sweep on its way: prints its tables and keeps its records."""

    def __init__(
        self,
        request: SweepRequest,
        plan: Plan,
        devices: Sequence[Device],
        files: Files,
        writer: json_lines.Writer,
    ) -> None:
        self._request, self._plan, self._devices, self._files, self._writer = request, plan, devices, files, writer
        self._records: list[Record] = list(writer.records)
        self._ends: list[ComparisonEnd] = []
        self._done: set[int] = set(writer.done)
        self._builds = Compiled()
        self._started = time.perf_counter()
        named = request.kernels is not None or request.providers is not None
        self._view = View(
            terminal_width(), plan.settings.stop.target, request.show_unsupported, set() if named else None
        )

    def introduce(self, environment: dict[str, object], changes: Sequence[str]) -> None:
        plan = self._plan
        facts = [*(f"{device.name} ({device.torch_name})" for device in self._devices), f"torch {environment['torch']}"]
        if "driver" in environment:
            facts.append(f"driver {environment['driver']}")
        facts += [
            f"data {plan.settings.data.value}",
            f"seed {plan.settings.seed}",
            f"timer {plan.settings.timer.value}",
            *([f"shard {plan.shard} of {counted(len(plan.whole), 'shape')}"] if plan.shard else []),
        ]
        print(", ".join(facts), flush=True)
        if plan.command == "model_bench":
            print("Benchmarking models:")
            for index, name in enumerate(dict.fromkeys(str(c.where.labels["model"]) for c in plan.comparisons)):
                print(f"[{index}]  {name}")
        if self._done:
            print(f"resumed: {len(self._done)} of {len(plan.comparisons)} shapes are in {self._files.records}")
        is_done = len(self._done) == len(plan.comparisons)
        then = "nothing is left to measure: name another --out" if is_done else "what follows has a header of its own"
        for change in map(one_line, changes):
            print(f"resumed under other conditions: {change}; {then}", file=sys.stderr)

    def go(self, workers: Sequence[Workers]) -> int:
        left = [c for c in self._plan.comparisons if c.index not in self._done]
        pace = Pace(left, self._plan.settings, cuda=self._devices[0].is_cuda, devices=len(workers))
        if pace.whole_s > LONG_S:
            print(f"{counted(len(left), 'shape')}: about {duration(pace.whole_s)}", file=sys.stderr, flush=True)
        with Progress(total=len(self._plan.comparisons), done=len(self._done), pace=pace) as progress:

            def finished(result: Finished) -> None:
                end = result.end
                if not self._ends and self._builds.seconds:
                    end = structs.replace(end, seconds={**end.seconds, COMPILING_AHEAD: self._builds.seconds})
                self._writer.append(result.records, end)
                self._records.extend(result.records)
                self._ends.append(end)
                self._done.add(result.comparison.index)
                with progress.paused():
                    print_comparison(result, self._plan, self._devices[0], self._view, self._request.compare_table)
                progress.finished(result.comparison)
                interrupt.check()

            def said(line: str) -> None:
                with progress.paused():
                    print(line, file=sys.stderr, flush=True)

            limits = WorkerLimits(step_s=self._request.step_limit_s)
            here = [one for one in workers if isinstance(one, DeviceWorkers)]
            self._builds = compile_ahead(here, left, limits, progress=progress.compiling, said=said)
            for waiting in [one.compiling(left) for one in workers if isinstance(one, NodeWorkers)]:
                made, lines = waiting()
                self._builds.add(made)
                for line in lines:
                    said(line)
            pace.begin()
            run_sweep(
                workers,
                left,
                self._plan.settings,
                progress=progress.update,
                finished=finished,
                said=said,
                before=self._records,
                broken=self._builds.failed,
                every=self._plan.shard.count if self._plan.shard else 1,
            )
        for device in workers:
            device.done()
        self._records.sort(key=lambda record: record.comparison)
        if self._request.compare_table:
            print_compare_tables(self._records, self._plan)
        print_faults(self._records)
        self._write_pickle()
        sets = make_sets([json_lines.read(self._files.records)], pool_gpus=True)
        self._write_report(sets)
        if self._ends:
            took = time.perf_counter() - self._started
            print(costs(took, len(self._devices), self._ends, self._builds))
        print(f"records: {self._files.records}\npickle:  {self._files.pickle}")
        if self._files.report:
            print(f"report:  {self._files.report}")
        for line in self._answer(sets):
            print("\n".join(wrapped(line, self._view.width)))
        print("\n".join(next_command.lines(f"next: {self._next()}", self._view.width)), flush=True)
        return EXIT_FAULTS if any(record.status in FAULTS for record in self._records) else EXIT_COMPLETE

    def _answer(self, sets: Sequence[ResultSet]) -> list[str]:
        """What the sweep found, in two or three lines."""
        lines = answer(max(sets, key=lambda one: len(one.comparisons)))
        missing = [NO_FP8] if self._plan.command == QUICK and Format.FP8 not in self._plan.formats else []
        if refused := why_not_here(self._records):
            missing.append(f"{refused}, which ran nowhere (`{self._command('doctor')}` says what this machine can run)")
        if failed := broken(self._records):
            missing.append(failed)
        return [*lines, *([f"left out: {'; '.join(missing)}"] if missing else [])]

    def _next(self) -> str:
        """The one command that most users would type now."""
        plan, records = self._plan, str(self._files.records)
        labels = plan.comparisons[0].where.labels
        cuda = self._devices[0].is_cuda
        if plan.command == QUICK and not cuda:
            return self._command("--dtype", "int8", "model_bench", "--models", MODEL, "--batch-sizes", "16")
        if not any(record.status is Status.OK for record in self._records):
            return self._command("doctor")
        baselines = [record for record in self._records if record.kernel == BASELINE]
        if (
            not plan.shard
            and plan.command in (QUICK, "model_bench")
            and baselines
            and all(map(has_interval, baselines))
        ):
            model = self._request.model or str(labels["model"])
            tp = [] if labels["tp"] == 1 else ["--tp", str(labels["tp"])]
            return self._command("recommend", records, "--model", model, *tp)
        if self._files.report is None:
            return self._command("report", records, "-o", str(self._files.records.with_suffix(".html")))
        return self._command("report", records, "--format", "markdown")

    def _command(self, *words: str) -> str:
        return next_command.command(self._request.prog, *words)

    def broken_off(self, why: str, *, in_a_hurry: bool = False) -> None:
        """Keep what there is, and say how to go on. Who is `in_a_hurry` does not wait for a large pickle."""
        pickled = not in_a_hurry or len(self._records) <= MOST_PICKLED_AT_ONCE
        words = [*_without_out(self._request.words), "--out", str(self._files.records), "--resume"]
        done, records = f"{len(self._done)} of {len(self._plan.comparisons)} shapes", self._files.records
        if records.exists():
            print(f"{why}: {done} are in {records}; go on with: {self._command(*words)}", file=sys.stderr)
        else:
            print(f"{why}: {done} were measured, and their times are in the pickle alone", file=sys.stderr)
            pickled = True
        if not self._records:
            return
        if not pickled:
            print(f"the pickle of {len(self._records)} cells is left to the sweep that goes on", file=sys.stderr)
            return
        try:
            self._write_pickle()
        except json_lines.StoreError as error:
            print(error, file=sys.stderr)

    def _write_pickle(self) -> None:
        from w8a8_bench import compat

        try:
            compat.write_pickle(self._files.pickle, compat.measurements(self._records, self._plan.formats))
        except OSError as error:
            raise json_lines.StoreError(
                f"{self._files.pickle} can't be written: {error.strerror}; {self._files.records} is safe"
            ) from None

    def _write_report(self, sets: Sequence[ResultSet]) -> None:
        """The page, unless it would be too slow to open."""
        report = self._files.report
        if report is None:
            return
        if len(self._records) > MOST_CELLS_OF_A_PAGE:
            print(f"no report is written: {len(self._records)} cells are too many for a page", file=sys.stderr)
            self._files = replace(self._files, report=None)
            return
        try:
            output.write(report, html.render(sets))
        except UsageError as error:
            raise json_lines.StoreError(f"{error}; {self._files.records} is safe") from None


def has_interval(record: Record) -> bool:
    """Whether its time is known well enough for `recommend`, which compares intervals."""
    measure = headline(record.samples)
    return measure is not None and interval(record.samples[measure], record.groups(measure)) is not None


def _without_out(words: Sequence[str]) -> list[str]:
    """The command line without `--out`, its value and `--resume`."""
    kept: list[str] = []
    left = iter(words)
    for word in left:
        if word == "--out":
            next(left, None)
        elif not word.startswith("--out=") and word != "--resume":
            kept.append(word)
    return kept

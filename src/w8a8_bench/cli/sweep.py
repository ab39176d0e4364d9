"""The commands that measure: from arguments to a plan, then the sweep, its tables, its records and its pickle."""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import math
import os
import re
import shlex
import sys
import time
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path

from w8a8_bench import store
from w8a8_bench.cli import interrupt
from w8a8_bench.cli.errors import EXIT_COMPLETE, EXIT_FAULTS, EXIT_INTERRUPTED, EndOfOutput, UsageError
from w8a8_bench.cli.progress import Progress
from w8a8_bench.comparison import Comparison, LabelledShape, is_grid
from w8a8_bench.data import Data
from w8a8_bench.device import Device
from w8a8_bench.environment import check_device_name, likely_gpus
from w8a8_bench.formats import W8A8_FORMATS, Format, dtype_text
from w8a8_bench.kernel import FAULTS, Status
from w8a8_bench.measures import Timer, choose
from w8a8_bench.problem import SCHEMES, Activations, GemmShape, Problem, Scaling
from w8a8_bench.providers import registry, third_party
from w8a8_bench.record import ComparisonEnd, Record, RunHeader, flat
from w8a8_bench.report.table import render, render_schemes
from w8a8_bench.settings import RIGORS, Settings, default_budget_s
from w8a8_bench.shapes import batch_sizes, csv_file, models
from w8a8_bench.shapes.range import range_
from w8a8_bench.shapes.square import square
from w8a8_bench.sweep.drive import run_sweep
from w8a8_bench.sweep.plan import digest, make_plan
from w8a8_bench.sweep.process import Limits, SweepRefused, WorkerLost
from w8a8_bench.sweep.survive import refuse_too_large
from w8a8_bench.sweep.team import Finished, Team
from w8a8_bench.sweep.worker import NO_TORCH, why_no_torch
from w8a8_bench.text import one_line

MOST_PICKLED_AT_ONCE = 2000
"""Cells whose pickle takes under half a second."""

ALL = "all"
"""Of `--schemes`: every combination that has a meaning."""

QUICK_SQUARES = (256, 512, 1024)
QUICK_LAYER = ("meta-llama/Llama-3.1-8B-Instruct", "o_proj", 16)


@dataclass(frozen=True)
class Plan:
    """What the arguments ask for, all of it valid."""

    command: str
    formats: tuple[Format, ...]
    comparisons: tuple[Comparison, ...]
    settings: Settings
    rigor: str

    def to_json(self) -> dict[str, object]:
        """What a results file must have in common with this run, so that `--resume` may go on with it."""
        return {
            "command": self.command,
            "dtypes": [fmt.value for fmt in self.formats],
            "comparisons": len(self.comparisons),
            "cells": digest(self.comparisons),
            "seed": self.settings.seed,
            "data": self.settings.data.value,
            "measures": list(self.settings.measures),
            "rigor": self.rigor,
            "processes": self.settings.processes,
            "duty": self.settings.duty,
        }


def run(args: argparse.Namespace) -> int:
    try:
        plan = _plan(args)
    except ValueError as error:
        raise UsageError(str(error)) from None
    if importlib.util.find_spec("torch") is None:
        raise UsageError(NO_TORCH)
    if args.out == "":
        raise UsageError("--out '': expected the name of a file that ends in .jsonl")
    if args.resume and args.out is None:
        raise UsageError("--resume needs --out FILE: the records to continue")
    names = args.devices or [args.device]
    if "auto" not in names:
        plan = _with_measures(args, plan, cuda=names != ["cpu"])
    try:
        with contextlib.ExitStack() as stack:
            files = _files(args, plan)
            writer = stack.enter_context(store.Writer(files.records, resume=args.resume))
            _refuse_another_plan(writer, plan)
            return _measure(args, plan, files, writer, _Teams(args, stack))
    except (SweepRefused, store.StoreError) as error:
        raise UsageError(str(error)) from None
    except WorkerLost as error:
        print(f"{args.prog}: error: {one_line(str(error))}", file=sys.stderr)
        return EXIT_FAULTS


class _Teams:
    """A team for each device that is asked for. They start side by side as soon as this is made, and end with `stack`.

    Of all GPUs, as many as there seem to be; how many there are, the first worker says once it has started.
    """

    def __init__(self, args: argparse.Namespace, stack: contextlib.ExitStack) -> None:
        self._limits, self._stack = Limits(step_s=args.step_limit or None), stack
        self._all = args.devices == ["all"]
        names = args.devices or [args.device]
        if self._all:
            names = [f"cuda:{index}" for index in range(max(1, likely_gpus()))]
        self._started = [self._start(name) for name in names]

    def _start(self, name: str) -> Team:
        return self._stack.enter_context(Team(name, self._limits))

    def there(self) -> list[Team]:
        """The teams of devices that are there, waited for. Raises SweepRefused where none is."""
        if not self._all:
            return self._started
        count = self._started[0].first.gpus
        more = [self._start(f"cuda:{index}") for index in range(len(self._started), count)]
        return [*self._started[:count], *more]


def _plan(args: argparse.Namespace) -> Plan:
    """Check every argument that needs no device; raises ValueError with one line for the first that is wrong."""
    formats = _formats(args)
    if args.budget is not None and not 0 <= args.budget < math.inf:
        raise ValueError(f"--budget {args.budget:g}: expected seconds, or 0 for no limit")
    if not 0 <= args.step_limit < math.inf:
        raise ValueError(f"--step-limit {args.step_limit:g}: expected seconds, or 0 for no limit")
    _check_devices(args)
    everything = ALL in (args.schemes or ())
    schemes = SCHEMES if everything else _schemes(args.schemes)
    activations = [Activations.parse(name) for name in args.activations]
    data = Data.parse(args.data)
    kernels = registry.select(args.kernels, formats, _providers(args))
    comparisons = make_plan(
        _shapes(args), kernels, formats, schemes=schemes, activations=activations, legal_only=everything
    )
    rigor = RIGORS[args.rigor]
    if args.processes is not None and args.processes < 1:
        raise ValueError(f"--processes {args.processes}: expected at least 1")
    if not 0.01 <= args.duty <= 1:
        raise ValueError(f"--duty {args.duty:g}: expected a share of the time, between 0.01 and 1")
    most_cells = max((len(comparison.cells) for comparison in comparisons), default=0)
    settings = Settings(
        seed=args.seed,
        data=data,
        budget_s=default_budget_s(most_cells) if args.budget is None else args.budget or None,
        stop=rigor.stop,
        duty=args.duty,
        processes=args.processes or rigor.processes,
    )
    return Plan(args.command, formats, comparisons, settings, args.rigor)


def _schemes(words: Sequence[str] | None) -> list[Scaling] | None:
    try:
        return [Scaling.parse(word) for word in words] if words else None
    except ValueError as error:
        raise ValueError(f"{error}, or {ALL}") from None


def _check_devices(args: argparse.Namespace) -> None:
    if args.devices is None:
        check_device_name(args.device)
        return
    if args.device != "auto":
        raise ValueError(f"--device {args.device} and --devices {' '.join(args.devices)}: give only one of the two")
    for name in args.devices:
        if name != "all" and not re.fullmatch(r"cuda:[0-9]{1,4}", name, re.ASCII):
            raise ValueError(f"--devices {name!r}: expected all, or cuda:<index> for each")
    numbers = [name.partition(":")[2].lstrip("0") for name in args.devices]
    if len(set(numbers)) < len(numbers) or ("all" in args.devices and len(args.devices) > 1):
        raise ValueError(f"--devices {' '.join(args.devices)}: a device is named twice")


def _providers(args: argparse.Namespace) -> list[str] | None:
    """The names of --providers."""
    names: list[str] | None = args.providers
    return names


def _formats(args: argparse.Namespace) -> tuple[Format, ...]:
    tokens = [fmt.value for fmt in W8A8_FORMATS]
    if args.dtype is None:
        if args.command != "quick_bench":
            raise ValueError(f"--dtype is missing: expected one of {', '.join(tokens)}")
        return W8A8_FORMATS
    for token in args.dtype:
        if token not in tokens:
            raise ValueError(f"--dtype {token!r}: expected one of {', '.join(tokens)}")
    return tuple(Format(token) for token in dict.fromkeys(args.dtype))


def _shapes(args: argparse.Namespace) -> Sequence[LabelledShape]:
    if args.command == "square_bench":
        return square(args.dim_start, args.dim_end, args.dim_increment)
    if args.command == "range_bench":
        return range_(
            args.dim_start,
            args.dim_end,
            args.dim_increment,
            m=args.m_constant,
            n=args.n_constant,
            k=args.k_constant,
        )
    if args.command == "model_bench":
        return _model_shapes(args)
    if args.command == "csv_bench":
        if not args.csv:
            raise ValueError("--csv '': expected the name of a file with columns m, n and k")
        return csv_file.read(Path(args.csv))
    model, layer, m = QUICK_LAYER
    squares = [LabelledShape(GemmShape(m=size, n=size, k=size)) for size in QUICK_SQUARES]
    return squares + [where for where in models.model_shapes([model], [1], [m]) if where.labels["layer"] == layer]


def _model_shapes(args: argparse.Namespace) -> Sequence[LabelledShape]:
    """Shapes of the models that were named; without names those of all, but for what TP can't divide."""
    sizes = batch_sizes.parse(args.batch_sizes)
    if args.models:
        return models.model_shapes(args.models, args.tp_sizes, sizes)
    shapes, left_out = models.all_model_shapes(args.tp_sizes, sizes)
    for reason in left_out:
        print(f"left out: {reason}", file=sys.stderr)
    return shapes


@dataclass(frozen=True)
class _Files:
    records: Path
    pickle: Path


def _files(args: argparse.Namespace, plan: Plan) -> _Files:
    """Where the results go. Raises StoreError where they can't, before anything is measured."""
    if args.out is not None:
        records = Path(args.out)
        if not args.out.endswith(".jsonl") or records.suffix != ".jsonl":
            raise store.StoreError(f"--out {args.out}: expected a name that ends in .jsonl, say results.jsonl")
        pickle = records.with_suffix(".pkl")
        try:
            records.lstat()
        except FileNotFoundError:
            pass
        except OSError as error:
            raise store.StoreError(f"--out {args.out} can't be written: {error.strerror}") from None
        if pickle.is_dir() or (pickle.exists() and not records.exists()):
            raise store.StoreError(
                f"{pickle} exists, and the pickle of this sweep would overwrite it: choose another --out"
            )
        return _Files(records, pickle)
    stamp = int(time.time())
    while True:
        base = Path(f"{plan.command}-{dtype_text(plan.formats)}-{stamp}")
        files = _Files(base.with_name(base.name + ".jsonl"), base.with_name(base.name + ".pkl"))
        if not files.records.exists() and not files.pickle.exists():
            return files
        stamp += 1


def _measure(args: argparse.Namespace, plan: Plan, files: _Files, writer: store.Writer, starting: _Teams) -> int:
    warnings.filterwarnings(
        "ignore", message="Failed to initialize NumPy"
    )  # torch without numpy: nothing here needs it
    with interrupt.nothing_to_keep(args.prog):
        if reason := why_no_torch():  # imports it, while the workers do the same
            raise SweepRefused(reason)
        importlib.import_module("w8a8_bench.compat")
    teams = starting.there()
    device, environment = teams[0].first.hello()
    devices = [team.device for team in teams]
    interrupt.check()
    plan = _with_measures(args, plan, cuda=device.is_cuda)
    for one in devices:
        refuse_too_large(plan.comparisons, one, plan.settings)
    _refuse_another_plan(writer, plan, device)
    changes = _changes_since(writer.headers, environment)
    if len(writer.done) < len(plan.comparisons):
        _refuse_lost_providers(writer, plan)
    if len(writer.done) == len(plan.comparisons):
        writer.cut()
    else:
        writer.write_header(_header(args, plan, devices, environment, resumed=bool(writer.headers)))
    session = _Session(args, plan, devices, files, writer)
    try:
        session.introduce(environment, changes)
        return session.go(teams)
    except KeyboardInterrupt:
        session.broken_off("interrupted", pickled=session.is_small)
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        session.broken_off("nobody reads standard output any more")
        raise EndOfOutput from None
    except (SweepRefused, WorkerLost, store.StoreError) as error:
        session.broken_off(str(error))
        return EXIT_FAULTS
    except OSError as error:  # of printing: what is kept has an error of its own
        session.broken_off(f"standard output can't be written: {error.strerror}")
        return EXIT_FAULTS


def _with_measures(args: argparse.Namespace, plan: Plan, *, cuda: bool) -> Plan:
    """The plan with the timer and the measures for such a device. Raises UsageError where it lacks one asked for."""
    try:
        timer, measures = choose(Timer(args.timer) if args.timer else None, args.measure, cuda=cuda)
    except ValueError as error:
        raise UsageError(str(error)) from None
    return replace(plan, settings=replace(plan.settings, timer=timer, measures=measures))


def _refuse_another_plan(writer: store.Writer, plan: Plan, device: Device | None = None) -> None:
    """A file that is gone on with must be of the same cells, data and device: its shapes are read side by side.

    Before there is a device, all but the device and the measures, which depend on it, can be told.
    """
    if not writer.headers:
        return
    first = writer.headers[0]
    before, now = {**first.plan, "device": first.device.get("name")}, plan.to_json()
    if device is None:
        del now["measures"]
    else:
        now["device"] = device.name
    for name, value in now.items():
        if before.get(name) != value:
            what = f"its {name} is {before.get(name)!r} and here it is {value!r}"
            if name in ("cells", "comparisons"):
                what = (
                    f"it was begun with other shapes, kernels, schemes or activations, as {shlex.join(first.command)}"
                )
            raise store.StoreError(f"{writer.path} belongs to another sweep: {one_line(what)}; name another --out")
    cells: dict[int, list[tuple[str, Problem]]] = {}
    for record in writer.records:
        cells.setdefault(record.comparison, []).append((record.kernel, record.problem))
    planned = {c.index: [(cell.kernel, cell.problem) for cell in c.cells] for c in plan.comparisons}
    for index in writer.done:
        if writer.done.count(index) > 1 or cells.get(index) != planned.get(index):
            raise store.StoreError(
                f"{writer.path} holds records of comparison {index} that this sweep did not write: name another --out"
            )


def _changes_since(headers: Sequence[RunHeader], environment: Mapping[str, object]) -> list[str]:
    """What is another than when the file was last written, fact by fact: versions, sources, driver, machine."""
    if not headers:
        return []
    before, now = headers[-1].facts, flat(environment)
    return [
        f"{name} was {before.get(name, 'not recorded')} and is {now.get(name, 'not known')}"
        for name in {**before, **now}
        if before.get(name) != now.get(name)
    ]


def _refuse_lost_providers(writer: store.Writer, plan: Plan) -> None:
    """A provider that was there and is not: its cells would be done without ever being measured."""
    if not writer.headers:
        return
    before = flat(writer.headers[-1].environment)
    kernels = dict.fromkeys(cell.kernel for comparison in plan.comparisons for cell in comparison.cells)
    for provider in dict.fromkeys(map(registry.provider_of, kernels)):
        probe, was = provider.probe(), before.get(f"providers.{provider.name}")
        if not probe and was is not None and was != str(probe):
            raise store.StoreError(
                f"{provider.name} can't be used any more, and {writer.path} is not done with its kernels: {probe} "
                f"(it was {was}); mend that, or name another --out"
            )


def _header(
    args: argparse.Namespace, plan: Plan, devices: Sequence[Device], environment: dict[str, object], *, resumed: bool
) -> RunHeader:
    return RunHeader(
        command=(args.prog, *args.words),
        time=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        environment=environment,
        device=devices[0].to_json(),
        devices=tuple(device.to_json() for device in devices),
        plan=plan.to_json(),
        settings=plan.settings.to_json(),
        resumed=resumed,
    )


class _Session:
    """One sweep on its way: prints its tables and keeps its records."""

    def __init__(
        self,
        args: argparse.Namespace,
        plan: Plan,
        devices: Sequence[Device],
        files: _Files,
        writer: store.Writer,
    ) -> None:
        self._args, self._plan, self._devices, self._files, self._writer = args, plan, devices, files, writer
        self._records: list[Record] = list(writer.records)
        self._ends: list[ComparisonEnd] = []
        self._done: set[int] = set(writer.done)
        self._started = time.perf_counter()

    def introduce(self, environment: dict[str, object], changes: Sequence[str]) -> None:
        plan = self._plan
        for remark in registry.remarks(self._args.kernels, plan.formats, _providers(self._args)):
            print(remark, file=sys.stderr)
        facts = [*(f"{device.name} ({device.torch_name})" for device in self._devices), f"torch {environment['torch']}"]
        if "driver" in environment:
            facts.append(f"driver {environment['driver']}")
        facts += [
            f"data {plan.settings.data.value}",
            f"seed {plan.settings.seed}",
            f"timer {plan.settings.timer.value}",
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

    def go(self, teams: Sequence[Team]) -> int:
        left = [c for c in self._plan.comparisons if c.index not in self._done]
        with Progress(total=len(self._plan.comparisons), done=len(self._done)) as progress:

            def finished(result: Finished) -> None:
                self._writer.append(result.records, result.end)
                self._records.extend(result.records)
                self._ends.append(result.end)
                self._done.add(result.comparison.index)
                with progress.paused():
                    self._print_comparison(result)
                progress.finished(result.comparison)
                interrupt.check()

            def said(line: str) -> None:
                with progress.paused():
                    print(line, file=sys.stderr, flush=True)

            run_sweep(
                teams,
                left,
                self._plan.settings,
                progress=progress.update,
                finished=finished,
                said=said,
                before=self._records,
            )
        self._records.sort(key=lambda record: record.comparison)
        self._print_all()
        self._write_pickle()
        if self._ends:
            print(costs(time.perf_counter() - self._started, len(self._devices), self._ends))
        print(f"records: {self._files.records}\npickle:  {self._files.pickle}", flush=True)
        return EXIT_FAULTS if any(record.status in FAULTS for record in self._records) else EXIT_COMPLETE

    @property
    def is_small(self) -> bool:
        """Whether what was measured is pickled in no time: who interrupts does not wait."""
        return len(self._records) <= MOST_PICKLED_AT_ONCE

    def broken_off(self, why: str, *, pickled: bool = True) -> None:
        """Keep what there is, and say how to go on."""
        words = [*_without_out(self._args.words), "--out", str(self._files.records), "--resume"]
        start = ["python3", sys.argv[0]] if self._args.prog.endswith(".py") else [self._args.prog]
        if files := os.environ.get(third_party.FILES):
            start = ["env", f"{third_party.FILES}={files}", *start]
        done, records = f"{len(self._done)} of {len(self._plan.comparisons)} shapes", self._files.records
        if records.exists():
            print(f"{why}: {done} are in {records}; go on with: {shlex.join([*start, *words])}", file=sys.stderr)
        else:
            print(f"{why}: {done} were measured, and their times are in the pickle alone", file=sys.stderr)
            pickled = True
        if not pickled:
            print(f"the pickle of {len(self._records)} cells is left to the sweep that goes on", file=sys.stderr)
            return
        try:
            self._write_pickle()
        except store.StoreError as error:
            print(error, file=sys.stderr)

    def _print_comparison(self, result: Finished) -> None:
        from w8a8_bench import compat

        grid = is_grid(result.records)
        if not grid:  # it takes a column a cell: at the end, one table a scheme
            print(compat.compare_table(compat.measurements(result.records, self._plan.formats)))
        print(render(result.records, [result.end], self._devices[0]), flush=True)
        if grid:
            print(f"\n{render_schemes(result.records)}\n", flush=True)

    def _print_all(self) -> None:
        from w8a8_bench import compat

        dtypes = dtype_text(self._plan.formats)
        for title, records in self._groups(dtypes).items():
            print(f"== {title} ====")
            print(compat.compare_table(compat.measurements(records, self._plan.formats)))
        broken = [record for record in self._records if record.status in FAULTS]
        for record in broken:
            line = f"{record.status.value}: {record.text} at {record.problem.shape}: {record.reason}"
            print(one_line(line), file=sys.stderr)
        skipped = Counter(record.reason for record in self._records if record.status is Status.SKIPPED)
        for reason, number in skipped.items():
            many = "1 cell was" if number == 1 else f"{number} cells were"
            print(f"{many} skipped: {one_line(reason)}", file=sys.stderr)

    def _groups(self, dtypes: str) -> dict[str, list[Record]]:
        """The final tables, titled as the original's: one a model and TP size, or one of everything.

        Of a grid one a scheme and kind of activations, each with the baselines; of one shape there is nothing to add.
        """
        groups: dict[str, list[Record]] = {}
        for record in self._records:
            title = f"All Results {self._plan.command}-{dtypes}"
            if self._plan.command == "model_bench":
                title = f"Results {dtypes} {record.labels['model']}-TP{record.labels['tp']}"
            groups.setdefault(title, []).append(record)
        if not is_grid(self._records):
            return groups
        if len(self._plan.comparisons) == 1:
            return {}
        return {f"{title}, {part}": of for title, records in groups.items() for part, of in _by_scheme(records).items()}

    def _write_pickle(self) -> None:
        from w8a8_bench import compat

        try:
            compat.write_pickle(self._files.pickle, compat.measurements(self._records, self._plan.formats))
        except OSError as error:
            raise store.StoreError(
                f"{self._files.pickle} can't be written: {error.strerror}; {self._files.records} is safe"
            ) from None


def costs(took: float, devices: int, ends: Sequence[ComparisonEnd]) -> str:
    """Where the `took` seconds of a sweep went, of all its devices together, and the most device memory of one."""
    whole = took * devices
    phases = {name: sum(end.seconds.get(name, 0.0) for end in ends) for name in ("timing", "check", "setup")}
    other = whole - sum(phases.values())
    parts = [f"{name} {seconds:.1f} s" for name, seconds in (*phases.items(), ("other", other))]
    share = 100 * (1 - phases["timing"] / whole)
    memory = max((end.memory_bytes or 0 for end in ends), default=0)
    held = f"; device memory {memory / 2**30:.1f} GiB at most" if memory else ""
    on = f" on {devices} devices" if devices > 1 else ""
    return f"took {took:.1f} s{on}: {', '.join(parts)} ({share:.0f}% not timing){held}"


def _by_scheme(records: Sequence[Record]) -> dict[str, list[Record]]:
    """The records of each scheme and kind of activations that has a time, with the baselines before them."""
    baselines = [record for record in records if record.problem.scaling is None]
    parts: dict[str, list[Record]] = {}
    for scheme in SCHEMES:
        for kind in Activations:
            of = [r for r in records if (r.problem.scaling, r.problem.activations) == (scheme, kind)]
            if any(record.status is Status.OK for record in of):
                parts[f"{scheme}, {kind.value}"] = [*baselines, *of]
    return parts


def _without_out(words: Sequence[str]) -> list[str]:
    """The command line without `--out`, its value and `--resume`."""
    kept: list[str] = []
    skip = False
    for word in words:
        if skip:
            skip = False
        elif word == "--out":
            skip = True
        elif not word.startswith("--out=") and word != "--resume":
            kept.append(word)
    return kept

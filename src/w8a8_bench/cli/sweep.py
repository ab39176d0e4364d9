"""The commands that measure: from arguments to a plan, then the sweep, its tables, its records and what they say."""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import math
import re
import shlex
import sys
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path

from w8a8_bench.bench.device_workers import DeviceWorkers
from w8a8_bench.bench.estimate import START_S, Pace, duration
from w8a8_bench.bench.plan import make_plan
from w8a8_bench.bench.process import SweepRefused, WorkerLimits, WorkerLost
from w8a8_bench.bench.retry import refuse_too_large
from w8a8_bench.bench.worker import NO_TORCH, why_no_torch
from w8a8_bench.cli import interrupt
from w8a8_bench.cli.errors import EXIT_COMPLETE, EXIT_FAULTS, EXIT_INTERRUPTED, EndOfOutput, UsageError
from w8a8_bench.cli.files import Files, files_of
from w8a8_bench.cli.plan import QUICK, Plan
from w8a8_bench.cli.quick import Quick, plain, quick
from w8a8_bench.cli.session import Session
from w8a8_bench.environment.detect import check_device_name, expects_cuda, likely_gpus
from w8a8_bench.environment.device import Device
from w8a8_bench.problem import SCHEMES, Activations, Problem, Scaling
from w8a8_bench.problem.comparison import LabelledShape
from w8a8_bench.problem.distribution import Data
from w8a8_bench.problem.formats import W8A8_FORMATS, Format
from w8a8_bench.providers import registry
from w8a8_bench.results import json_lines
from w8a8_bench.results.record import RunHeader, flat
from w8a8_bench.shapes import batch_sizes, csv_file, models
from w8a8_bench.shapes.range import range_
from w8a8_bench.shapes.square import square
from w8a8_bench.text import counted, one_line
from w8a8_bench.timing.measures import Timer, choose
from w8a8_bench.timing.settings import RIGORS, Settings

ALL = "all"
"""Of `--schemes`: every combination that has a meaning."""

MOST_LISTED = 12
"""Shapes that `--dry-run` lists."""


def run(args: argparse.Namespace) -> int:
    try:
        plan = _plan(args)
    except ValueError as error:
        raise UsageError(str(error)) from None
    if args.out == "":
        raise UsageError("--out '': expected the name of a file that ends in .jsonl")
    if args.resume and args.out is None:
        raise UsageError("--resume needs --out FILE: the records to continue")
    if args.dry_run:
        return _dry_run(args, plan)
    if importlib.util.find_spec("torch") is None:
        raise UsageError(NO_TORCH)
    names = args.devices or [args.device]
    if "auto" not in names:
        plan = _with_measures(args, plan, cuda=names != ["cpu"])
    try:
        with contextlib.ExitStack() as stack:
            files = files_of(args, plan)
            writer = stack.enter_context(json_lines.Writer(files.records, resume=args.resume))
            _refuse_another_plan(writer, plan)
            return _measure(args, plan, files, writer, _Teams(args, stack))
    except (SweepRefused, json_lines.StoreError) as error:
        raise UsageError(str(error)) from None
    except WorkerLost as error:
        print(f"{args.prog}: error: {one_line(str(error))}", file=sys.stderr)
        return EXIT_FAULTS


class _Teams:
    """A team for each device that is asked for. They start side by side as soon as this is made, and end with `stack`.

    Of all GPUs, as many as there seem to be; how many there are, the first worker says once it has started.
    """

    def __init__(self, args: argparse.Namespace, stack: contextlib.ExitStack) -> None:
        self._limits, self._stack = WorkerLimits(step_s=args.step_limit or None), stack
        self._all = args.devices == ["all"]
        names = args.devices or [args.device]
        if self._all:
            names = [f"cuda:{index}" for index in range(max(1, likely_gpus()))]
        self._started = [self._start(name) for name in names]

    def _start(self, name: str) -> DeviceWorkers:
        return self._stack.enter_context(DeviceWorkers(name, self._limits))

    def there(self) -> list[DeviceWorkers]:
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
    schemes: Sequence[Scaling] | None = SCHEMES if everything else _schemes(args.schemes)
    if args.command == QUICK and schemes is None:
        schemes = _quick(args).schemes
    activations = [Activations.parse(name) for name in args.activations]
    data = Data.parse(args.data)
    kernels = registry.select(args.kernels, formats, args.providers)
    if args.command == QUICK and not args.kernels:
        kernels = plain(kernels)
    comparisons = make_plan(
        _shapes(args), kernels, formats, schemes=schemes, activations=activations, legal_only=everything
    )
    rigor = RIGORS[args.rigor]
    if args.processes is not None and args.processes < 1:
        raise ValueError(f"--processes {args.processes}: expected at least 1")
    if not 0.01 <= args.duty <= 1:
        raise ValueError(f"--duty {args.duty:g}: expected a share of the time, between 0.01 and 1")
    settings = Settings(
        seed=args.seed,
        data=data,
        budget_s=args.budget or None,
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


def _formats(args: argparse.Namespace) -> tuple[Format, ...]:
    tokens = [fmt.value for fmt in W8A8_FORMATS]
    if args.dtype is None:
        if args.command != QUICK:
            raise ValueError(f"--dtype is missing: expected one of {', '.join(tokens)}")
        return _quick(args).formats
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
    return _quick(args).shapes


def _quick(args: argparse.Namespace) -> Quick:
    return quick(cuda=_expects_cuda(args))


def _expects_cuda(args: argparse.Namespace) -> bool:
    return bool(args.devices) or expects_cuda(args.device)


def _dry_run(args: argparse.Namespace, plan: Plan) -> int:
    """Say what would be done. What the command itself refuses before it measures is refused here too."""
    try:
        records = files_of(args, plan).records
    except json_lines.StoreError as error:
        raise UsageError(str(error)) from None
    if records.exists() and not args.resume:
        raise UsageError(f"{records} exists: add --resume to go on with it, or name another")
    if not records.parent.is_dir():
        raise UsageError(f"--out {records} can't be written: there is no directory {records.parent}; create it first")
    print(_described(args, plan))
    return EXIT_COMPLETE


def _described(args: argparse.Namespace, plan: Plan) -> str:
    """What `--dry-run` prints: the shapes, the cells and about how long they take."""
    cuda = _expects_cuda(args)
    settings = _with_measures(args, plan, cuda=cuda).settings
    cells = sum(len(comparison.cells) for comparison in plan.comparisons)
    kernels = list(dict.fromkeys(cell.text for comparison in plan.comparisons for cell in comparison.cells))
    devices = max(1, likely_gpus()) if args.devices == [ALL] else len(args.devices or ["one"])
    on = f"{devices} GPUs" if devices > 1 else "a GPU" if cuda else "the CPU"
    shapes = [comparison.where.title for comparison in plan.comparisons]
    lines = [f"{plan.command} on {on}: {counted(len(shapes), 'shape')}, {counted(cells, 'cell')}, rigor {plan.rigor}"]
    lines += [f"  {one_line(title)}" for title in shapes[:MOST_LISTED]]
    lines += [f"  and {len(shapes) - MOST_LISTED} more shapes"] if len(shapes) > MOST_LISTED else []
    lines += ["kernels, those that can't run here among them (`doctor` names these):"]
    lines += [f"  {kernel}" for kernel in kernels]
    took_s = START_S + Pace(plan.comparisons, settings, cuda=cuda, devices=devices).whole_s
    compiling = "; kernels that were never compiled here add 1 to 2 s each" if cuda else ""
    lines.append(f"estimate: about {duration(took_s)}{compiling}")
    return "\n".join([*lines, "nothing was measured, since --dry-run was given"])


def _model_shapes(args: argparse.Namespace) -> Sequence[LabelledShape]:
    """Shapes of the models that were named; without names those of all, but for what TP can't divide."""
    sizes = batch_sizes.parse(args.batch_sizes)
    if args.models:
        return models.model_shapes(args.models, args.tp_sizes, sizes)
    shapes, left_out = models.all_model_shapes(args.tp_sizes, sizes)
    for reason in left_out:
        print(f"left out: {reason}", file=sys.stderr)
    return shapes


def _measure(args: argparse.Namespace, plan: Plan, files: Files, writer: json_lines.Writer, starting: _Teams) -> int:
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
    if args.command == QUICK and device.is_cuda != _expects_cuda(args):
        raise SweepRefused(
            f"this machine has a GPU that torch can't use, so {device.name} would be measured: "
            "--device cpu does that, and `doctor` says what is installed"
        )
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
    for remark in registry.remarks(args.kernels, plan.formats, args.providers, cuda=device.is_cuda):
        print(remark, file=sys.stderr)
    session = Session(args, plan, devices, files, writer)
    try:
        session.introduce(environment, changes)
        return session.go(teams)
    except KeyboardInterrupt:
        session.broken_off("interrupted", pickled=session.is_small)
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        session.broken_off("nobody reads standard output any more")
        raise EndOfOutput from None
    except (SweepRefused, WorkerLost, json_lines.StoreError) as error:
        session.broken_off(str(error))
        return EXIT_FAULTS
    except OSError as error:  # of printing: what is kept has an error of its own
        session.broken_off(f"standard output can't be written: {error.strerror}")
        return EXIT_FAULTS


def _with_measures(args: argparse.Namespace, plan: Plan, *, cuda: bool) -> Plan:
    """The plan with timer, measures and budget for such a device. Raises UsageError where it lacks one asked for."""
    try:
        timer, measures = choose(Timer(args.timer) if args.timer else None, args.measure, cuda=cuda)
    except ValueError as error:
        raise UsageError(str(error)) from None
    settings = replace(plan.settings, timer=timer, measures=measures)
    if args.budget is None:
        most_cells = max((len(comparison.cells) for comparison in plan.comparisons), default=0)
        settings = settings.with_default_budget(most_cells, cuda=cuda)
    return replace(plan, settings=settings)


def _refuse_another_plan(writer: json_lines.Writer, plan: Plan, device: Device | None = None) -> None:
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
            raise json_lines.StoreError(f"{writer.path} belongs to another sweep: {one_line(what)}; name another --out")
    cells: dict[int, list[tuple[str, Problem]]] = {}
    for record in writer.records:
        cells.setdefault(record.comparison, []).append((record.kernel, record.problem))
    planned = {c.index: [(cell.kernel, cell.problem) for cell in c.cells] for c in plan.comparisons}
    for index in writer.done:
        if writer.done.count(index) > 1 or cells.get(index) != planned.get(index):
            raise json_lines.StoreError(
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


def _refuse_lost_providers(writer: json_lines.Writer, plan: Plan) -> None:
    """A provider that was there and is not: its cells would be done without ever being measured."""
    if not writer.headers:
        return
    before = flat(writer.headers[-1].environment)
    kernels = dict.fromkeys(cell.kernel for comparison in plan.comparisons for cell in comparison.cells)
    for provider in dict.fromkeys(map(registry.provider_of, kernels)):
        probe, was = provider.probe(), before.get(f"providers.{provider.name}")
        if not probe and was is not None and was != str(probe):
            raise json_lines.StoreError(
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

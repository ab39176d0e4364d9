"""What a user asks a sweep for, all of it valid: made once from the arguments of a command that measures."""

from __future__ import annotations

import argparse
import functools
import math
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from w8a8_bench.bench.plan import digest, make_plan
from w8a8_bench.cli import quick
from w8a8_bench.cli.errors import UsageError
from w8a8_bench.cli.next_command import is_script
from w8a8_bench.environment.detect import check_device_name, expects_cuda
from w8a8_bench.problem import SCHEMES, Activations, Scaling
from w8a8_bench.problem.comparison import Comparison, LabelledShape
from w8a8_bench.problem.distribution import Distribution
from w8a8_bench.problem.formats import W8A8_FORMATS, Format
from w8a8_bench.providers import registry
from w8a8_bench.results.shards import Shard
from w8a8_bench.shapes import batch_sizes, csv_file, models
from w8a8_bench.shapes.steps import range_, square
from w8a8_bench.timing.measures import Timer, choose
from w8a8_bench.timing.settings import RIGORS, Settings

ALL = "all"
"""Of `--schemes`: every combination that has a meaning. Of `--devices`: all GPUs."""


QUICK = "quick_bench"


@dataclass(frozen=True)
class Plan:
    """What the arguments ask for, all of it valid. `shard` is the share of `whole` that is measured; None for all."""

    command: str
    formats: tuple[Format, ...]
    whole: tuple[Comparison, ...]
    settings: Settings
    rigor: str
    shard: Shard | None

    @functools.cached_property
    def comparisons(self) -> tuple[Comparison, ...]:
        """Those that are measured."""
        return tuple(one for one in self.whole if self.shard is None or self.shard.has(one.index))

    def to_json(self) -> dict[str, object]:
        """What a results file must have in common with this run, so that `--resume` may go on with it."""
        return {
            "command": self.command,
            "dtypes": [fmt.value for fmt in self.formats],
            "comparisons": len(self.whole),
            "cells": digest(self.whole),
            "shard": str(self.shard) if self.shard else None,
            "seed": self.settings.seed,
            "data": self.settings.data.value,
            "measures": list(self.settings.measures),
            "rigor": self.rigor,
            "processes": self.settings.processes,
            "duty": self.settings.duty,
        }


@dataclass(frozen=True)
class SweepRequest:
    """A command that measures.

    prog          what this program was started as; `words` are its arguments
    plan          what is measured, without timer and measures, which depend on the device (`plan_on`)
    devices       names: `auto`, `cpu`, `all`, or one or more GPUs
    cluster       the address of the Ray cluster whose devices measure; None: this machine's do
    cuda          whether these will be GPUs, as far as can be told without torch
    model         the first of `--models`
    cut_blocks    what to say of blockwise kernels, if TP cuts the blocks of a model
    step_limit_s  None: no limit

    None in `kernels`, `providers`, `timer`, `measures` and `budget_s`: the user leaves it to this program.
    """

    prog: str
    words: tuple[str, ...]
    plan: Plan
    devices: tuple[str, ...]
    cluster: str | None
    cuda: bool
    kernels: Sequence[str] | None
    providers: Sequence[str] | None
    model: str | None
    cut_blocks: tuple[str, ...]
    timer: Timer | None
    measures: Sequence[str] | None
    budget_s: float | None
    step_limit_s: float | None
    out: str | None
    resume: bool
    dry_run: bool
    with_report: bool
    show_unsupported: bool
    compare_table: bool

    def plan_on(self, *, cuda: bool) -> Plan:
        """The plan with timer, measures and budget for such a device. Raises UsageError if it lacks one asked for."""
        try:
            timer, measures = choose(self.timer, self.measures, cuda=cuda)
        except ValueError as error:
            raise UsageError(str(error)) from None
        settings = msgspec.structs.replace(self.plan.settings, timer=timer, measures=measures)
        if self.budget_s is None:
            most_cells = max((len(comparison.cells) for comparison in self.plan.whole), default=0)
            settings = settings.with_default_budget(most_cells, cuda=cuda)
        return replace(self.plan, settings=settings)


def make_request(args: argparse.Namespace) -> SweepRequest:
    """Check every argument that needs no device; raises ValueError with one line for the first that is wrong."""
    plan = _plan(args)
    if args.out == "":
        raise ValueError("--out '': expected the name of a file that ends in .jsonl")
    if args.resume and args.out is None:
        raise ValueError("--resume needs --out FILE: the records to continue")
    named = args.models if args.command == "model_bench" and args.models else []
    return SweepRequest(
        prog=args.prog,
        words=tuple(args.words),
        plan=plan,
        devices=tuple(args.devices or [args.device]),
        cluster=args.cluster,
        cuda=_expects_cuda(args),
        kernels=args.kernels,
        providers=args.providers,
        model=named[0] if named else None,
        cut_blocks=models.cut_blocks(named, args.tp_sizes) if named else (),
        timer=Timer(args.timer) if args.timer else None,
        measures=args.measure,
        budget_s=args.budget,
        step_limit_s=args.step_limit or None,
        out=args.out,
        resume=args.resume,
        dry_run=args.dry_run,
        with_report=not args.no_report and not is_script(args.prog),
        show_unsupported=args.show_unsupported,
        compare_table=args.compare_table or is_script(args.prog),
    )


def _plan(args: argparse.Namespace) -> Plan:
    formats = _formats(args)
    if args.budget is not None and not 0 <= args.budget < math.inf:
        raise ValueError(f"--budget {args.budget:g}: expected seconds, or 0 for no limit")
    if not 0 <= args.step_limit < math.inf:
        raise ValueError(f"--step-limit {args.step_limit:g}: expected seconds, or 0 for no limit")
    _check_devices(args)
    everything = ALL in (args.schemes or ())
    schemes: Sequence[Scaling] | None = SCHEMES if everything else _schemes(args.schemes)
    if args.command == QUICK and schemes is None:
        schemes = quick.SCHEMES
    activations = [Activations.parse(name) for name in args.activations]
    data = Distribution.parse(args.data)
    kernels = registry.select(args.kernels, formats, args.providers)
    if args.command == QUICK and not args.kernels:
        kernels = quick.plain(kernels)
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
    return Plan(args.command, formats, comparisons, settings, args.rigor, _shard(args.shard, len(comparisons)))


def _shard(text: str | None, shapes: int) -> Shard | None:
    if text is None:
        return None
    try:
        shard = Shard.parse(text)
    except ValueError as error:
        raise ValueError(f"--shard {error}") from None
    if shard.count > shapes:
        raise ValueError(f"--shard {shard}: expected no more shares than there are shapes ({shapes})")
    return shard


def _schemes(words: Sequence[str] | None) -> list[Scaling] | None:
    try:
        return [Scaling.parse(word) for word in words] if words else None
    except ValueError as error:
        raise ValueError(f"{error}, or {ALL}") from None


def _check_devices(args: argparse.Namespace) -> None:
    if args.cluster is not None:
        if args.devices or args.device not in ("auto", "cpu", "cuda"):
            named = " ".join(args.devices or [args.device])
            raise ValueError(f"--cluster and device {named}: a cluster measures on all its GPUs, or with --device cpu")
        if not args.cluster:
            raise ValueError("--cluster '': expected auto, HOST:PORT or ray://HOST:PORT")
    if args.devices is None:
        check_device_name(args.device)
        return
    if args.device != "auto":
        raise ValueError(f"--device {args.device} and --devices {' '.join(args.devices)}: give only one of the two")
    for name in args.devices:
        if name != ALL and not re.fullmatch(r"cuda:[0-9]{1,4}", name, re.ASCII):
            raise ValueError(f"--devices {name!r}: expected all, or cuda:<index> for each")
    numbers = [name.partition(":")[2].lstrip("0") for name in args.devices]
    if len(set(numbers)) < len(numbers) or (ALL in args.devices and len(args.devices) > 1):
        raise ValueError(f"--devices {' '.join(args.devices)}: a device is named twice")


def _formats(args: argparse.Namespace) -> tuple[Format, ...]:
    tokens = [fmt.value for fmt in W8A8_FORMATS]
    if args.dtype is None:
        if args.command != QUICK:
            raise ValueError(f"--dtype is missing: expected one of {', '.join(tokens)}")
        return quick.quick(cuda=_expects_cuda(args))[0]
    for token in args.dtype:
        if token not in tokens:
            raise ValueError(f"--dtype {token!r}: expected one of {', '.join(tokens)}")
    return tuple(Format(token) for token in dict.fromkeys(args.dtype))


def _shapes(args: argparse.Namespace) -> Sequence[LabelledShape]:
    if args.command in ("square_bench", "range_bench"):
        sizes = args.dim_start, args.dim_end, args.dim_increment
        if args.command == "square_bench":
            return square(*sizes)
        return range_(*sizes, m=args.m_constant, n=args.n_constant, k=args.k_constant)
    if args.command == "model_bench":
        return _model_shapes(args)
    if args.command == "csv_bench":
        if not args.csv:
            raise ValueError("--csv '': expected the name of a file with columns m, n and k")
        return csv_file.read(Path(args.csv))
    return quick.quick(cuda=_expects_cuda(args))[1]


def _expects_cuda(args: argparse.Namespace) -> bool:
    if args.cluster is not None:
        return str(args.device) != "cpu"
    return bool(args.devices) or expects_cuda(args.device)


def _model_shapes(args: argparse.Namespace) -> Sequence[LabelledShape]:
    """Shapes of the models that were named; without names those of all, but for what TP can't divide."""
    sizes = batch_sizes.parse(args.batch_sizes)
    if args.models:
        return models.model_shapes(args.models, args.tp_sizes, sizes)
    shapes, left_out = models.all_model_shapes(args.tp_sizes, sizes)
    for reason in left_out:
        print(f"left out: {reason}", file=sys.stderr)
    return shapes

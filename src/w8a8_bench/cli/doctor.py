"""`doctor`: this machine's device and versions, which kernels run here and why others don't, and how to add providers.

`doctor --timing` tests the instrument instead: is a known time measured as it is, and identical code as identical?
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from msgspec import to_builtins

from w8a8_bench.bench.process import SweepRefused, Worker, WorkerLimits, WorkerLost
from w8a8_bench.cli.errors import EXIT_COMPLETE, EXIT_FAULTS, UsageError
from w8a8_bench.cli.install_advice import Machine, advice
from w8a8_bench.environment import telemetry
from w8a8_bench.environment.device import Device
from w8a8_bench.kernel import Probe
from w8a8_bench.problem import GemmShape
from w8a8_bench.providers import registry
from w8a8_bench.providers.provider import Provider
from w8a8_bench.results.record import SCHEMA, RunHeader, to_json
from w8a8_bench.text import GAP, aligned, one_line
from w8a8_bench.timing.settings import DEFAULT_DUTY

STEP_S = 60.0
"""How long an answer may take: importing a library from a cold disk, and more than any `supports` needs."""

WIDTH = 120
"""Columns that the tables fit into."""

SHAPE = GemmShape(m=128, n=4096, k=4096)
"""What the kernels are asked about: a shape that no limit of sizes excludes."""


def run(args: argparse.Namespace) -> int:
    if args.out is not None and not args.timing:
        raise UsageError("--out needs --timing: only the test of the timing writes a file")
    try:
        with Worker(args.device, WorkerLimits(step_s=STEP_S)) as worker:
            device, environment = worker.hello()
            if args.timing:
                if not device.is_cuda:
                    raise UsageError(
                        "--timing needs a GPU: it tests the timing of CUDA graphs, and this device is a CPU"
                    )
                if args.out is not None and Path(args.out).exists():
                    raise UsageError(f"--out {args.out} exists: name another file")
            _print_device(device, environment)
            if args.timing:
                return _test_timing(args, worker, device, environment)
            _print_providers(worker, device, environment)
    except (SweepRefused, WorkerLost) as error:
        raise UsageError(str(error)) from None
    return EXIT_COMPLETE


@dataclass(frozen=True)
class Asked:
    """A provider and what the worker found out about it: whether its library loads, and what each kernel answers."""

    provider: Provider
    probe: Probe
    answers: Mapping[str, str]

    @property
    def running(self) -> int:
        """How many of the kernels run here."""
        return sum(answer.startswith("yes") for answer in self.answers.values())

    @property
    def reasons(self) -> list[str]:
        """Why kernels don't run, each reason once; that of the provider if it has no kernels."""
        said = [answer.removeprefix("no: ") for answer in self.answers.values() if not answer.startswith("yes")]
        return list(dict.fromkeys(said if self.answers else [self.probe.reason]))

    @property
    def is_one_line(self) -> bool:
        """Whether its line in the table says all: nothing runs, for one reason."""
        return not self.running and len(self.reasons) == 1


def _print_providers(worker: Worker, device: Device, environment: Mapping[str, object]) -> None:
    asked = _ask_all(worker)
    print(f"\n{provider_lines(asked)}\n\n{kernel_lines(asked)}", flush=True)
    missing = [one.provider.name for one in asked if not one.probe.installed and not one.provider.origin]
    if lines := advice(_machine(worker, device, environment), missing):
        print("", *lines, sep="\n")


def _machine(worker: Worker, device: Device, environment: Mapping[str, object]) -> Machine:
    cuda = environment["torch_cuda"]
    driver_gpus = telemetry.count()
    return Machine(
        device=device,
        torch=str(environment["torch"]),
        torch_cuda=None if cuda is None else str(cuda),
        gpus=worker.gpus,
        driver_gpus=driver_gpus,
        driver_cuda=telemetry.versions()["driver_cuda"] if driver_gpus else None,
    )


def _ask_all(worker: Worker) -> list[Asked]:
    """All providers and kernels, asked in the worker: what they do to it is their answer."""
    providers = registry.all_providers()
    probes = _asked(worker, [{"provider": provider.name} for provider in providers])
    names = [(*provider.kernels, *provider.on_request) for provider in providers]
    answers = iter(_asked(worker, [{"kernel": n, "shape": to_builtins(SHAPE)} for group in names for n in group]))
    return [
        Asked(provider, probe, {name: one_line(str(next(answers))) for name in group})
        for provider, probe, group in zip(providers, probes, names, strict=True)
        if isinstance(probe, Probe)
    ]


def provider_lines(asked: Sequence[Asked]) -> str:
    """A table: of each provider its version, how many of its kernels run here, and if none does, why."""
    rows = [("provider", "version", "run here", "why not")]
    for one in asked:
        why = "" if one.running else one.reasons[0] if one.is_one_line else "for several reasons, see below"
        origin = f" (from {one.provider.origin})" if one.provider.origin else ""
        count = f"{one.running} of {len(one.answers)}"
        rows.append((one.provider.name, one.probe.version or "-", count, f"{why}{origin}".strip()))
    return "\n".join(_wrapped(rows))


def kernel_lines(asked: Sequence[Asked]) -> str:
    """The kernels of each provider, but for those about whom the table says all."""
    shown = [one for one in asked if not one.is_one_line]
    if not shown:
        return f"no kernel runs at {SHAPE}"
    rows = _wrapped([(f"  {name}", answer) for one in shown for name, answer in one.answers.items()])
    parts = [f"kernels at {SHAPE}, each in its default scheme:"]
    for one in shown:
        parts.append("\n".join([one.provider.name, *(next(rows) for _ in one.answers)]))
    return "\n\n".join(parts)


def _wrapped(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Rows of a table, each as text of one or more lines: the last column is broken if it would pass `WIDTH`."""
    heads = [head + GAP for head in aligned([row[:-1] for row in rows], left=range(len(rows[0])))]
    indent = max(map(len, heads))
    for head, row in zip(heads, rows, strict=True):
        lines = textwrap.wrap(row[-1], max(WIDTH - indent, 20), break_long_words=False, break_on_hyphens=False)
        yield f"\n{' ' * indent}".join([head.ljust(indent) + "".join(lines[:1]), *lines[1:]]).rstrip()


def _print_device(device: Device, environment: dict[str, object]) -> None:
    print(f"{'device':<14} {device.name} ({device.torch_name}), {device.available_bytes / 2**30:.1f} GiB free")
    if device.capability:
        major, minor = device.capability
        print(
            f"{'capability':<14} {major}.{minor}, {device.sm_count} SMs, {(device.l2_bytes or 0) / 2**20:.0f} MiB of L2"
        )
    for name, value in environment.items():
        if name != "providers":  # which has a table of its own
            print(f"{name:<14} {value}")


def _asked(worker: Worker, questions: Sequence[Mapping[str, object]]) -> list[str | Probe]:
    """The worker's answers. A question that costs it its life, or is not answered in time, is answered by that."""
    answers: list[str | Probe] = []
    while len(answers) < len(questions):
        try:
            for answer in worker.ask(questions[len(answers) :]):
                answers.append(answer)
        except WorkerLost as lost:
            reason = str(lost)
            answers.append(Probe.broken(reason) if "provider" in questions[len(answers)] else f"no: {reason}")
            worker.restart()
    return answers


def _test_timing(args: argparse.Namespace, worker: Worker, device: Device, environment: dict[str, object]) -> int:
    verdicts = []
    header = RunHeader(
        schema=SCHEMA,
        command=(args.prog, *args.words),
        time=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        environment=environment,
        device=to_builtins(device),
        plan={"command": "doctor --timing"},
        settings={"duty": DEFAULT_DUTY, "seed": args.seed},
        resumed=False,
    )
    with _lines(args.out) as write:
        write(to_json(header))
        for verdict in worker.self_test(duty=DEFAULT_DUTY, seed=args.seed, progress=_progress):
            verdicts.append(verdict)
            write(verdict)
    if sys.stderr.isatty():
        print(end="\r\x1b[K", file=sys.stderr)
    print("\n" + _table(verdicts))
    if args.out is not None:
        print(f"verdicts: {args.out}")
    return EXIT_COMPLETE if all(verdict["passed"] for verdict in verdicts) else EXIT_FAULTS


@contextlib.contextmanager
def _lines(path: str | None) -> Iterator[Callable[[Mapping[str, object]], None]]:
    """What appends an object to a new file at `path`, a line each, so that a test broken off keeps its verdicts."""
    if path is None:
        yield lambda line: None
        return
    try:
        with open(path, "x", encoding="utf-8") as file:
            yield lambda line: print(json.dumps(line), file=file, flush=True)
    except OSError as error:
        raise UsageError(f"--out {path} can't be written: {error.strerror}") from None


def _progress(what: str, done: float) -> None:
    if sys.stderr.isatty():
        print(f"\r\x1b[K{done:4.0%}  {what}", end="", file=sys.stderr, flush=True)


def _table(verdicts: Sequence[dict[str, object]]) -> str:
    """A line a verdict: what was tested, whether it holds, the figure and what was asked."""
    rows = [("test", "verdict", "figure", "expected")]
    for verdict in verdicts:
        passed = "pass" if verdict["passed"] else "FAIL"
        rows.append((str(verdict["name"]), passed, str(verdict["figure"]), str(verdict["expected"])))
    return "\n".join(aligned(rows, left=range(4)))

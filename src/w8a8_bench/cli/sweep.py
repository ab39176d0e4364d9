"""The commands that measure: from the request to workers, a session with tables and records, and its exit code."""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import sys
import warnings
from collections.abc import Callable, Sequence
from datetime import datetime, timezone

from msgspec import to_builtins

from w8a8_bench.bench import cluster
from w8a8_bench.bench.device_workers import DeviceWorkers, Workers
from w8a8_bench.bench.process import SweepRefused, WorkerLimits, WorkerLost
from w8a8_bench.bench.retry import refuse_too_large
from w8a8_bench.bench.worker import NO_TORCH, why_no_torch
from w8a8_bench.cli import dry_run, interrupt
from w8a8_bench.cli.errors import EXIT_FAULTS, EXIT_INTERRUPTED, EndOfOutput, UsageError
from w8a8_bench.cli.files import Files, files_of
from w8a8_bench.cli.session import Session
from w8a8_bench.cli.sweep_request import ALL, QUICK, SweepRequest, make_request
from w8a8_bench.environment.detect import likely_gpus
from w8a8_bench.problem import BLOCKWISE
from w8a8_bench.providers import registry
from w8a8_bench.results.json_lines import StoreError, Writer
from w8a8_bench.results.record import SCHEMA, RunHeader
from w8a8_bench.results.resume import changes_since, refuse_another_plan, refuse_lost_providers
from w8a8_bench.text import one_line


def run(args: argparse.Namespace) -> int:
    try:
        request = make_request(args)
    except ValueError as error:
        raise UsageError(str(error)) from None
    try:
        return dry_run.run(request) if request.dry_run else _sweep(request)
    except (SweepRefused, StoreError) as error:
        raise UsageError(str(error)) from None
    except WorkerLost as error:
        print(f"{request.prog}: error: {one_line(str(error))}", file=sys.stderr)
        return EXIT_FAULTS


def _sweep(request: SweepRequest) -> int:
    """Refuse what needs no device to be refused, then start the workers and measure."""
    if importlib.util.find_spec("torch") is None:
        raise UsageError(NO_TORCH)
    if "auto" not in request.devices or request.cluster:
        request.plan_on(cuda=request.cuda)
    with contextlib.ExitStack() as stack:
        files = files_of(request)
        writer = stack.enter_context(Writer(files.records, resume=request.resume))
        refuse_another_plan(writer, request.plan.to_json(), request.plan.comparisons)
        if request.cluster is None:
            return _measure(request, files, writer, _StartedWorkers(request, stack).there)
        ray = stack.enter_context(cluster.joined(request.cluster))
        limits = WorkerLimits(step_s=request.step_limit_s)

        def nodes() -> Sequence[Workers]:
            return cluster.start(ray, request.devices[0], limits, lambda line: print(line, file=sys.stderr))

        return _measure(request, files, writer, nodes)


class _StartedWorkers:
    """The workers of each device that is asked for. They start side by side when this is made, and end with `stack`.

    Of all GPUs, as many as there seem to be; how many there are, the first worker says once it has started.
    """

    def __init__(self, request: SweepRequest, stack: contextlib.ExitStack) -> None:
        self._limits, self._stack = WorkerLimits(step_s=request.step_limit_s), stack
        self._all = request.devices == (ALL,)
        names = [f"cuda:{index}" for index in range(max(1, likely_gpus()))] if self._all else request.devices
        self._started = [self._start(name) for name in names]

    def _start(self, name: str) -> DeviceWorkers:
        return self._stack.enter_context(DeviceWorkers(name, self._limits))

    def there(self) -> Sequence[Workers]:
        """Those of devices that are there, waited for. Raises SweepRefused if none is."""
        if not self._all:
            return self._started
        count = self._started[0].first.gpus
        more = [self._start(f"cuda:{index}") for index in range(len(self._started), count)]
        return [*self._started[:count], *more]


def _described(workers: Workers) -> dict[str, object]:
    """A device as the header has it, with its node if it is one of a cluster."""
    device: dict[str, object] = to_builtins(workers.device)
    return {**device, "node": workers.node} if isinstance(workers, cluster.NodeWorkers) else device


def _measure(request: SweepRequest, files: Files, writer: Writer, there: Callable[[], Sequence[Workers]]) -> int:
    """`there` waits for the workers and says which there are."""
    warnings.filterwarnings("ignore", message="Failed to initialize NumPy")  # nothing here needs it
    with interrupt.nothing_to_keep(request.prog):
        if reason := why_no_torch():  # imports it, while the workers do the same
            raise SweepRefused(reason)
        importlib.import_module("w8a8_bench.compat")
    workers = there()
    device, environment = workers[0].hello()
    devices = [one.device for one in workers]
    interrupt.check()
    if request.plan.command == QUICK and device.is_cuda != request.cuda:
        raise SweepRefused(
            f"this machine has a GPU that torch can't use, so {device.name} would be measured: "
            "--device cpu does that, and `doctor` says what is installed"
        )
    plan = request.plan_on(cuda=device.is_cuda)
    for one in devices:
        refuse_too_large(plan.comparisons, one, plan.settings)
    refuse_another_plan(writer, plan.to_json(), plan.comparisons, device.name)
    changes = changes_since(writer.headers, environment)
    if len(writer.done) == len(plan.comparisons):
        writer.cut()
    else:
        if writer.headers:
            kernels = dict.fromkeys(cell.kernel for comparison in plan.comparisons for cell in comparison.cells)
            providers = map(registry.provider_of, kernels)
            refuse_lost_providers(writer, {provider.name: provider.probe() for provider in providers})
        header = RunHeader(
            schema=SCHEMA,
            command=(request.prog, *request.words),
            time=datetime.now(timezone.utc).isoformat(timespec="seconds"),
            environment=environment,
            device=to_builtins(device),
            devices=tuple(_described(one) for one in workers),
            plan=plan.to_json(),
            settings=to_builtins(plan.settings),
            resumed=bool(writer.headers),
        )
        writer.write_header(header)
    for remark in registry.remarks(request.kernels, plan.formats, request.providers, cuda=device.is_cuda):
        print(remark, file=sys.stderr)
    blockwise = any(cell.problem.scaling == BLOCKWISE for comparison in plan.comparisons for cell in comparison.cells)
    for remark in request.cut_blocks if blockwise else ():
        print(remark, file=sys.stderr)
    session = Session(request, plan, devices, files, writer)
    try:
        session.introduce(environment, changes)
        return session.go(workers)
    except KeyboardInterrupt:
        session.broken_off("interrupted", in_a_hurry=True)
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        session.broken_off("nobody reads standard output any more")
        raise EndOfOutput from None
    except (SweepRefused, WorkerLost, StoreError) as error:
        session.broken_off(str(error))
        return EXIT_FAULTS
    except OSError as error:  # of printing: what is kept has an error of its own
        session.broken_off(f"standard output can't be written: {error.strerror}")
        return EXIT_FAULTS

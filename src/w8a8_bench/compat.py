"""The original's functions, tables and pickles, made from this project's records.

from benchmarks.cutlass_benchmarks.w8a8_benchmarks import bench_fp8, bench_int8
"""

from __future__ import annotations

import pickle
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch.utils.benchmark import Compare, Measurement, TaskSpec

from w8a8_bench.bench.comparison_run import run_comparison
from w8a8_bench.bench.plan import make_plan
from w8a8_bench.bench.retry import within_memory
from w8a8_bench.environment import detect
from w8a8_bench.kernel import Status
from w8a8_bench.problem import GemmShape
from w8a8_bench.problem.comparison import LabelledShape
from w8a8_bench.problem.formats import Format, dtype_text
from w8a8_bench.providers import registry
from w8a8_bench.results.record import Record
from w8a8_bench.timing.measures import TIME_COLD, TIME_EVENT, TIME_HOST, TIME_HOT, TIME_KERNEL, choose, headline
from w8a8_bench.timing.settings import Settings

if TYPE_CHECKING:
    from w8a8_bench.environment.device import Device

ENV = {
    TIME_COLD: "graph, cold L2",
    TIME_HOT: "graph, hot L2",
    TIME_EVENT: "events, cold L2",
    TIME_HOST: "host",
    TIME_KERNEL: "profiler, cold L2",
}
"""The timer as a task's `env`, by which `Compare` keeps times of different kinds apart."""


def bench_int8(
    dtype: torch.dtype,
    m: int,
    k: int,
    n: int,
    label: str,
    sub_label: str,
    bench_kernels: list[str] | None = None,
) -> list[Measurement]:
    """Time the INT8 kernels, or those of `bench_kernels`, on one shape; `dtype` is torch.int8.

    Runs in the caller's process, on the GPU if there is one. One Measurement a kernel, with `label` and `sub_label`
    as given and the kernel's name as description; a kernel that can't run here is left out and named on standard error.
    Raises ValueError for another dtype, a size below 1, an unknown kernel, and a shape that memory has no room for.
    """
    return _bench(Format.INT8, dtype, GemmShape(m=m, n=n, k=k), label, sub_label, bench_kernels)


def bench_fp8(
    dtype: torch.dtype,
    m: int,
    k: int,
    n: int,
    label: str,
    sub_label: str,
    bench_kernels: list[str] | None = None,
) -> list[Measurement]:
    """Time the FP8 kernels, or those of `bench_kernels`, on one shape; `dtype` is torch.float8_e4m3fn.

    As `bench_int8` in every other way.
    """
    return _bench(Format.FP8, dtype, GemmShape(m=m, n=n, k=k), label, sub_label, bench_kernels)


def _bench(
    fmt: Format, dtype: torch.dtype, shape: GemmShape, label: str, sub_label: str, bench_kernels: Sequence[str] | None
) -> list[Measurement]:
    expected = getattr(torch, fmt.torch_name)
    if dtype != expected:
        raise ValueError(f"dtype {dtype}: bench_{fmt.value} takes {expected}")
    if isinstance(bench_kernels, str):
        raise ValueError(f"bench_kernels {bench_kernels!r}: expected a list of names, or None for all")
    kernels = registry.select(bench_kernels, (fmt,))
    (comparison,) = make_plan([LabelledShape(shape)], kernels, (fmt,))
    device = detect.resolve_device(detect.AUTO)
    timer, measures = choose(None, None, cuda=device.is_cuda)
    settings = Settings(timer=timer, measures=measures)
    if not device.is_cuda:
        settings = settings.with_default_budget(len(comparison.cells), cuda=False)
    fitted = within_memory(comparison, device, settings)
    if isinstance(fitted, str):
        raise ValueError(fitted)
    records, _ = run_comparison(comparison, device, fitted)
    for record in records:
        if record.status is not Status.OK:
            print(f"{record.kernel} is left out: {record.status.value}: {record.reason}", file=sys.stderr)
    return [measurement(record, label, sub_label, device) for record in records if record.status is Status.OK]


def measurement(record: Record, label: str, sub_label: str, device: Device | None = None) -> Measurement:
    """The original's form of an `ok` record. Built of torch's own types, so that a pickle of it needs torch alone."""
    measure = headline(record.samples)
    assert measure is not None, "an ok record has samples"
    launches = record.launches_per_sample.get(measure, 1)  # a file may come from anybody
    spec = TaskSpec(
        stmt="launch()",
        setup="",
        label=label,
        sub_label=sub_label,
        description=record.text,
        env=ENV.get(measure, measure),
        num_threads=torch.get_num_threads(),
    )
    raw_times = [seconds * launches for seconds in record.samples[measure]]
    return Measurement(number_per_run=launches, raw_times=raw_times, task_spec=spec)


def measurements(records: Iterable[Record], formats: Sequence[Format]) -> list[Measurement]:
    """All `ok` records in the original's form, labelled as the command line's tables are: `scaled-torch.int8-gemm`."""
    label = f"scaled-{dtype_text(formats)}-gemm"
    return [
        measurement(record, label, record.problem.shape.mkn)
        for record in records
        if record.status is Status.OK and record.samples.get(headline(record.samples) or "")
    ]


def compare_table(taken: Sequence[Measurement]) -> str:
    """What `torch.utils.benchmark.Compare` prints, or a line that says that nothing was measured."""
    return str(Compare(list(taken))) if taken else "(no kernel was measured)"


def write_pickle(path: Path, taken: Sequence[Measurement]) -> None:
    """Write the original's pickle whole or not at all: a list of Measurement."""
    partial = path.with_name(path.name + ".partial")
    try:
        with open(partial, "wb") as file:
            pickle.dump(list(taken), file)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)

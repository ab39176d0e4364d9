"""Results that several tests share: a header, a record and an end, all of their fields filled."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

from copies import replace

from w8a8_bench.kernel import Status
from w8a8_bench.problem import Activations, GemmShape
from w8a8_bench.problem.kernel_name import KernelName
from w8a8_bench.results.json_lines import Results
from w8a8_bench.results.measured_comparison import MeasuredComparison
from w8a8_bench.results.record import SCHEMA, ComparisonEnd, Record, RunHeader

SHAPE = GemmShape(m=16, n=4096, k=6144)
LABELS = {"model": "meta-llama/Llama-3-8b", "layer": "qkv_proj", "tp": 2}

HEADER = RunHeader(
    schema=SCHEMA,
    command=("w8a8-bench", "--dtype", "int8", "square_bench"),
    time="2026-11-01T12:00:00+00:00",
    environment={"torch": "2.13.0", "torch_cuda": None},
    device={"kind": "cpu", "torch": [2, 13]},
    plan={"dtypes": ["int8"], "cells": "abc"},
    settings={"seed": 0, "stop": {"target": 0.005}},
    resumed=True,
    devices=({"kind": "cpu", "torch": [2, 13]},),
)


def record(kernel: str, *seconds: float, comparison: int = 0, shape: GemmShape = SHAPE, **changes: object) -> Record:
    """A record of `kernel` with one sample of `time_host` a block; samples in `changes` get blocks likewise."""
    name = KernelName.parse(kernel)
    activations = changes.pop("activations", Activations.PREQUANTIZED)
    made = Record(
        comparison=comparison,
        kernel=kernel,
        provider=name.provider,
        problem=name.problem(shape, name.format, name.default_scheme, activations),
        labels={},
        status=Status.OK,
        reason="",
        error={"relative": 1.66e-3, "worst": 0.5},
        config={},
        samples={"time_host": seconds} if seconds else {},
        blocks={},
        launches_per_sample={"time_host": 4} if seconds else {},
        clock_mhz={},
        flags=(),
    )
    made = replace(made, **changes)
    if "blocks" in changes:
        return made
    return replace(made, blocks={measure: tuple(range(len(taken))) for measure, taken in made.samples.items()})


def end(records: Sequence[Record]) -> ComparisonEnd:
    """The line that closes the comparison of `records`."""
    first = records[0]
    return replace(END, index=first.comparison, shape=first.problem.shape, labels=first.labels, cells=len(records))


def in_file(
    records: Sequence[Record],
    ends: Sequence[ComparisonEnd],
    header: RunHeader | None = None,
    warnings: Sequence[str] = (),
    path: str = "made.jsonl",
) -> Results:
    """What a file of one run holds. Each of `ends` closes as many of `records` as it has cells."""
    run, parts = header or HEADER, _parted(records, ends)
    comparisons = tuple(MeasuredComparison(own, end, run) for own, end in zip(parts, ends, strict=True))
    return Results((run,), comparisons, tuple(warnings), Path(path))


def changed(
    results: Results, records: Sequence[Record] | None = None, ends: Sequence[ComparisonEnd] | None = None
) -> Results:
    """`results` with other records or other ends of its comparisons."""
    ends = results.ends if ends is None else ends
    parts = _parted(results.records if records is None else records, ends)
    of_each = zip(results.comparisons, parts, ends, strict=True)
    comparisons = tuple(replace(one, records=own, end=end) for one, own, end in of_each)
    return replace(results, comparisons=comparisons)


def _parted(records: Sequence[Record], ends: Sequence[ComparisonEnd]) -> list[tuple[Record, ...]]:
    rest = iter(records)
    return [tuple(itertools.islice(rest, end.cells)) for end in ends]


END = ComparisonEnd(
    index=3,
    shape=SHAPE,
    labels=LABELS,
    seconds={"setup": 0.5, "check": 1.0, "timing": 2.25},
    blocks=12,
    cells=2,
    duplicate={
        "cell": "pytorch_i8_i8_bf16_scaled_mm",
        "kernel": "pytorch_i8_i8_bf16_scaled_mm",
        "samples": {"time_host": (1.25e-5, 1.5e-5)},
        "blocks": {"time_host": (0, 1)},
    },
    machine={"telemetry": "NVML", "blocks": [], "other_processes": None, "voided_blocks": 1},
    memory_bytes=1 << 30,
)
RECORD = record(
    "pytorch_i8_i8_bf16_scaled_mm",
    1.25e-5,
    1.5e-5,
    comparison=3,
    labels=LABELS,
    config={"tile": [128, 64], "stages": 3},
    processes=(0, 1),
    clock_mhz={"time_host": (1980.0, 1965.0)},
    rotation={"sets": 7, "bytes": 25_165_824, "scrubbed": 0},
    flags=("unsettled",),
    scheme_sqnr_db={"normal": 37.25, "outliers": 18.5},
    device="cpu",
)

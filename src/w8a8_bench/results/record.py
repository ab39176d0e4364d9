"""What is kept of a run, one JSON object a line: the run itself, its cells, and the end of each comparison.

Records hold what was measured and no more: medians, TFLOP/s and ratios are worked out when they are shown. The structs
are the schema (docs/records.md); `decoding` reads them and names what is wrong with a foreign one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from enum import Enum
from typing import Annotated, Any, TypedDict

import msgspec
from msgspec import Meta, Struct
from msgspec.structs import replace

from w8a8_bench.kernel import Status
from w8a8_bench.problem import GemmShape, Problem
from w8a8_bench.problem.kernel_name import cell_text

SCHEMA = 3
"""Raised when a field changes its meaning or goes. Readers take every version up to this one.

2: `blocks` and `clock_mhz` of a record are by measure (in 1, one list of blocks for all measures and no clock).
3: samples and clocks have five significant digits, and `roofline` of a record is gone: reports work it out.
"""

RUN, CELL, COMPARISON = "run", "cell", "comparison"
"""What a line is of: its `kind`."""

LEAST_SAMPLE, MOST_SAMPLE = 1e-12, 1e9
"""Seconds of a launch, or MHz, between which anything lies; what is made of them overflows nowhere."""

Sample = Annotated[float, Meta(ge=LEAST_SAMPLE, le=MOST_SAMPLE)]
Count = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Samples = Mapping[str, tuple[Sample, ...]]
Blocks = Mapping[str, tuple[Count, ...]]
Labels = Mapping[str, str | Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]]
Json = dict[str, Any]


def flat(environment: Mapping[str, object]) -> dict[str, object]:
    """An environment fact by fact: what has parts, as `providers` has, gives each of them (`providers.triton`)."""
    facts: dict[str, object] = {}
    for name, value in environment.items():
        facts |= {f"{name}.{part}": of for part, of in value.items()} if isinstance(value, Mapping) else {name: value}
    return facts


class RunHeader(Struct, frozen=True, kw_only=True, tag_field="kind", tag=RUN):
    """The first line of a run, and of every run that resumed it.

    `plan` holds what fixes the cells, so that `--resume` can tell another sweep; `time` is UTC in ISO 8601. `device` is
    the first of `devices`.
    """

    schema: int
    command: tuple[str, ...]
    time: str
    environment: Mapping[str, Any]
    device: Mapping[str, Any]
    devices: tuple[Mapping[str, Any], ...] = ()
    plan: Mapping[str, Any]
    settings: Mapping[str, Any]
    resumed: bool

    @property
    def facts(self) -> dict[str, object]:
        """The environment, flat."""
        return flat(self.environment)

    def check(self) -> None:
        check_schema(self.schema)


def check_schema(schema: int) -> None:
    """Raise ValueError for a schema that is newer than `SCHEMA`, or none."""
    if schema > SCHEMA:
        raise ValueError(f"schema {schema} is newer than this version reads ({SCHEMA}): upgrade w8a8-bench")
    if schema < 1:
        raise ValueError(f"schema {schema}: expected 1 to {SCHEMA}")


class _SampledRows(TypedDict, total=False):
    rows: Count


class CheckError(_SampledRows):
    """How far an answer was from the oracle's.

    relative  Frobenius norm of the error over the answer's
    worst     largest error of an element over its tolerance
    rows      how many random rows both are of, if not of all
    """

    relative: float
    worst: float


class Record(Struct, frozen=True, kw_only=True, gc=False, tag_field="kind", tag=CELL):
    """What became of one cell.

    comparison           index of the comparison in the plan
    kernel               by the grammar of `kernel_name`, unless a later version or another maker wrote it
    error                what the check found; None if the kernel gave no answer to check
    config               what the kernel chose: tile, cluster, split, ...
    samples              measure to seconds per launch, one a block
    blocks               measure to the numbers of the blocks that its samples were taken in, parallel to them
    processes            the process that each block number belongs to; empty if one process took all
    launches_per_sample  measure to how many launches a sample is the mean of
    clock_mhz            measure to the SM clock during each sample, parallel to them; only if it was measured
    rotation             `sets` of operands that the launches went through, `bytes` of one, and whether the L2 was
                         `scrubbed` before each replay; empty if the caches were warm
    flags                on an `ok`: `unsettled`, `emulated`, `power_capped`
    scheme_sqnr_db       data (`normal`, `outliers`) to the signal-to-quantization-noise ratio of format, scheme and
                         zero point, whatever the kernel; empty for 16-bit operands and if unknown
    device               UUID of the GPU, or `cpu`; empty in files that hold one device, which their header names
    """

    comparison: Count
    kernel: str
    provider: str
    problem: Problem
    labels: Labels
    status: Status
    reason: str
    error: CheckError | None
    config: Mapping[str, Any]
    samples: Samples
    blocks: Blocks
    processes: tuple[Count, ...] = ()
    launches_per_sample: Mapping[str, Count]
    clock_mhz: Samples
    rotation: Mapping[str, Count] = {}
    flags: tuple[str, ...]
    scheme_sqnr_db: Mapping[str, float] = {}
    device: str = ""

    @property
    def text(self) -> str:
        """How the cell is shown: its kernel, with scheme and activations if they are not the default."""
        return cell_text(self.kernel, self.problem)

    def groups(self, measure: str) -> tuple[int, ...]:
        """The process that took each sample of `measure`."""
        blocks = self.blocks[measure]
        return tuple(self.processes[block] for block in blocks) if self.processes else (0,) * len(blocks)

    def check(self) -> None:
        """Raise ValueError if fields of a whole record are not parallel."""
        _check_parallel(self.samples, self.blocks)
        for measure, clocks in self.clock_mhz.items():
            if len(clocks) != len(self.samples.get(measure, ())):
                of = len(self.samples.get(measure, ()))
                raise ValueError(f"clock_mhz.{measure}: {len(clocks)} clocks of {of} samples")
        if self.processes:
            highest = max((number for numbers in self.blocks.values() for number in numbers), default=-1)
            if highest >= len(self.processes):
                raise ValueError(f"processes: {len(self.processes)} entries and a block number {highest}")


class Duplicate(TypedDict, total=False):
    """The baseline's second set of samples, taken like those of any cell. Its ratio to the baseline's own is the noise
    floor. `cell` is the text of the cell, with scheme. All fields, or none if nothing was timed.
    """

    kernel: str
    cell: str
    samples: Samples
    blocks: Blocks


class ComparisonEnd(Struct, frozen=True, kw_only=True, tag_field="kind", tag=COMPARISON):
    """Closes a comparison: the `cells` records before it are all of them.

    seconds       wall time by phase
    machine       the state of the GPU around the blocks, and what there was to say of it: see `environment.watch`
    memory_bytes  peak of device memory; None on a CPU
    """

    index: Count
    shape: GemmShape
    labels: Labels
    seconds: Mapping[str, float]
    blocks: Count
    cells: Count
    duplicate: Duplicate = {}
    machine: Mapping[str, Any] = {}
    memory_bytes: Count | None = None

    def duplicate_samples(self, measure: str) -> tuple[tuple[float, ...], tuple[int, ...]] | None:
        """Samples and block numbers of the baseline's duplicate; None if it has none of `measure`."""
        if not self.duplicate or measure not in self.duplicate["samples"]:
            return None
        return tuple(self.duplicate["samples"][measure]), tuple(self.duplicate["blocks"][measure])

    def check(self) -> None:
        """Raise ValueError if the duplicate lacks a field, or its samples have other blocks."""
        if self.duplicate:
            for name in Duplicate.__annotations__:
                if name not in self.duplicate:
                    raise ValueError(f"duplicate.{name} is missing")
            _check_parallel(self.duplicate["samples"], self.duplicate["blocks"], "duplicate.")


def _check_parallel(samples: Samples, blocks: Blocks, within: str = "") -> None:
    for measure, numbers in blocks.items():
        if len(set(numbers)) < len(numbers):
            raise ValueError(f"{within}blocks.{measure}: a block comes twice")
    for measure, taken in samples.items():
        if len(taken) != len(blocks.get(measure, ())):
            of = len(blocks.get(measure, ()))
            raise ValueError(f"{within}samples.{measure}: {len(taken)} samples of {of} blocks")


Item = RunHeader | Record | ComparisonEnd


def to_json(item: Item) -> Json:
    """An item in JSON's own types, as it is written: its samples and clocks with five significant digits."""
    if isinstance(item, Record):
        item = replace(item, samples=_rounded(item.samples), clock_mhz=_rounded(item.clock_mhz))
    elif isinstance(item, ComparisonEnd) and item.duplicate:
        item = replace(item, duplicate={**item.duplicate, "samples": _rounded(item.duplicate["samples"])})
    return {"kind": item.__struct_config__.tag, **plain(msgspec.structs.asdict(item))}


def _rounded(samples: Samples) -> dict[str, tuple[float, ...]]:
    return {measure: tuple(float(f"{sample:.5g}") for sample in taken) for measure, taken in samples.items()}


def plain(value: Any) -> Any:
    """`value` in JSON's own types. JSON has no infinity or NaN, so those become text, like whatever else it lacks."""
    if isinstance(value, Enum):
        return plain(value.value)
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else str(value)
    if isinstance(value, Struct):
        return plain(msgspec.structs.asdict(value))
    if isinstance(value, Mapping):
        return {plain(str(name)): plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    text = str(value)
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()

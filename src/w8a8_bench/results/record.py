"""What is kept of a run, one JSON object a line: the run itself, its cells, and the end of each comparison.

Records hold what was measured and no more: medians, TFLOP/s and ratios are worked out when they are shown. Reading is
strict about fields that are known and silent about others, so that a later version may add some.
"""

from __future__ import annotations

import functools
import math
import sys
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar, cast

from w8a8_bench.kernel import Status
from w8a8_bench.problem import GemmShape, Problem
from w8a8_bench.problem.kernel_name import cell_text

SCHEMA = 2
"""Raised when a field changes its meaning or goes. Readers take every version up to this one.

2: `blocks` and `clock_mhz` of a record are by measure (in 1, one list of blocks for all measures and no clock).
"""

LEAST_SAMPLE, MOST_SAMPLE = 1e-12, 1e9
"""Seconds of a launch, or MHz, between which anything lies; what is made of them overflows nowhere."""

Labels = Mapping[str, str | int]
Json = dict[str, object]
T = TypeVar("T")


def flat(environment: Mapping[str, object]) -> dict[str, object]:
    """An environment fact by fact: what has parts, as `providers` has, gives each of them (`providers.triton`)."""
    facts: dict[str, object] = {}
    for name, value in environment.items():
        facts |= {f"{name}.{part}": of for part, of in value.items()} if isinstance(value, Mapping) else {name: value}
    return facts


@dataclass(frozen=True, kw_only=True)
class RunHeader:
    """The first line of a run, and of every run that resumed it.

    `plan` holds what fixes the cells, so that `--resume` can tell another sweep; `time` is UTC in ISO 8601. `device` is
    the first of `devices`.
    """

    command: tuple[str, ...]
    time: str
    environment: Mapping[str, object]
    device: Mapping[str, object]
    plan: Mapping[str, object]
    settings: Mapping[str, object]
    resumed: bool = False
    schema: int = SCHEMA
    devices: tuple[Mapping[str, object], ...] = ()

    KIND = "run"

    @property
    def facts(self) -> dict[str, object]:
        """The environment, flat."""
        return flat(self.environment)

    def to_json(self) -> Json:
        return {
            "kind": self.KIND,
            "schema": self.schema,
            "command": list(self.command),
            "time": self.time,
            "environment": _plain_object(self.environment),
            "device": _plain_object(self.device),
            "devices": [_plain_object(device) for device in self.devices],
            "plan": _plain_object(self.plan),
            "settings": _plain_object(self.settings),
            "resumed": self.resumed,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, object]) -> RunHeader:
        """Raises ValueError for a schema that is newer than `SCHEMA`, and for a field that is missing or wrong."""
        schema = _whole(data, "schema")
        if schema > SCHEMA:
            raise ValueError(f"schema {schema} is newer than this version reads ({SCHEMA}): upgrade w8a8-bench")
        if schema < 1:
            raise ValueError(f"schema {schema}: expected 1 to {SCHEMA}")
        return cls(
            schema=schema,
            command=tuple(_each(data, "command", str)),
            time=_text(data, "time"),
            environment=_object(data, "environment"),
            device=_object(data, "device"),
            plan=_object(data, "plan"),
            settings=_object(data, "settings"),
            resumed=_field(data, "resumed", bool),
            devices=tuple(_each(data, "devices", dict)) if "devices" in data else (),
        )


@dataclass(frozen=True, kw_only=True)
class Record:
    """What became of one cell.

    comparison           index of the comparison in the plan
    kernel               by the grammar of `names`, unless a later version or another maker wrote it
    error                `relative` (Frobenius norm of the error over the answer's) and `worst` (largest error over its
                         tolerance) of the check, and `rows`, how many random rows both are of, if not of all; None
                         where the kernel gave no answer to check
    config               what the kernel chose: tile, cluster, split, ...
    samples              measure to seconds per launch, one a block
    blocks               measure to the numbers of the blocks that its samples were taken in, parallel to them
    processes            the process that each block number belongs to; empty where one process took all
    launches_per_sample  measure to how many launches a sample is the mean of
    clock_mhz            measure to the SM clock during each sample, parallel to them; only where it was measured
    rotation             `sets` of operands that the launches went through, `bytes` of one, and whether the L2 was
                         `scrubbed` before each replay; empty where the caches were warm
    flags                on an `ok`: `unsettled`, `emulated`, `power_capped`
    scheme_sqnr_db       data (`normal`, `outliers`) to the signal-to-quantization-noise ratio of format, scheme and
                         zero point, whatever the kernel; empty for 16-bit operands and where unknown
    roofline             measure to how near the GPU's limits its time is, in percent: `of_peak`, `of_reads`, as far as
                         they are known (`roofline.Roofline`). Worked out from the fields above when it was measured
    device               UUID of the GPU, or `cpu`; empty in files that hold one device, which their header names
    """

    comparison: int
    kernel: str
    provider: str
    problem: Problem
    labels: Labels
    status: Status
    reason: str
    error: Mapping[str, float] | None
    config: Mapping[str, object]
    samples: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    blocks: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    processes: tuple[int, ...] = ()
    launches_per_sample: Mapping[str, int] = field(default_factory=dict)
    clock_mhz: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    rotation: Mapping[str, int] = field(default_factory=dict)
    flags: tuple[str, ...] = ()
    scheme_sqnr_db: Mapping[str, float] = field(default_factory=dict)
    roofline: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    device: str = ""

    KIND = "cell"

    @property
    def text(self) -> str:
        """How the cell is shown: its kernel, with scheme and activations where they are not the default."""
        return cell_text(self.kernel, self.problem)

    def groups(self, measure: str) -> tuple[int, ...]:
        """The process that took each sample of `measure`."""
        blocks = self.blocks[measure]
        return tuple(self.processes[block] for block in blocks) if self.processes else (0,) * len(blocks)

    def to_json(self) -> Json:
        return {
            "kind": self.KIND,
            "comparison": self.comparison,
            "kernel": self.kernel,
            "provider": self.provider,
            "problem": self.problem.to_json(),
            "labels": dict(self.labels),
            "status": self.status.value,
            "reason": self.reason,
            "error": None if self.error is None else _plain_object(self.error),
            "config": _plain_object(self.config),
            "samples": {measure: list(seconds) for measure, seconds in self.samples.items()},
            "blocks": {measure: list(numbers) for measure, numbers in self.blocks.items()},
            "processes": list(self.processes),
            "launches_per_sample": dict(self.launches_per_sample),
            "clock_mhz": {measure: list(clocks) for measure, clocks in self.clock_mhz.items()},
            "rotation": dict(self.rotation),
            "flags": list(self.flags),
            "scheme_sqnr_db": dict(self.scheme_sqnr_db),
            "roofline": {measure: dict(percents) for measure, percents in self.roofline.items()},
            "device": self.device,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, object]) -> Record:
        """Raises ValueError, naming the field, where one is missing or wrong."""
        samples = {_shared(measure): _samples(measure, value) for measure, value in _object(data, "samples").items()}
        blocks = _blocks(data, samples)
        processes = _shared(tuple(_each(data, "processes", int))) if "processes" in data else ()
        highest = max((number for numbers in blocks.values() for number in numbers), default=-1)
        if processes and highest >= len(processes):
            raise ValueError(f"processes: {len(processes)} entries and a block number {highest}")
        launches = _object(data, "launches_per_sample")
        rotation = _object(data, "rotation") if "rotation" in data else {}
        sqnr = _object(data, "scheme_sqnr_db") if "scheme_sqnr_db" in data else {}
        roofline = _object(data, "roofline") if "roofline" in data else {}
        return cls(
            comparison=_whole(data, "comparison"),
            kernel=_shared(_text(data, "kernel")),
            provider=_text(data, "provider"),
            problem=_problem(data),
            labels=_labels(data),
            status=_status(data),
            reason=_text(data, "reason"),
            error=_error(data),
            config=_object(data, "config"),
            samples=samples,
            blocks=blocks,
            processes=processes,
            launches_per_sample={measure: _whole(launches, measure, "launches_per_sample.") for measure in launches},
            clock_mhz=_clocks(data, samples),
            rotation={name: _whole(rotation, name, "rotation.") for name in rotation},
            flags=tuple(_each(data, "flags", str)),
            scheme_sqnr_db=_numbers(sqnr, "scheme_sqnr_db."),
            roofline={
                measure: _numbers(_object(roofline, measure, "roofline."), f"roofline.{measure}.")
                for measure in roofline
            },
            device=_text(data, "device") if "device" in data else "",
        )


@dataclass(frozen=True, kw_only=True)
class ComparisonEnd:
    """Closes a comparison: the `cells` records before it are all of them.

    seconds       wall time by phase
    duplicate     the baseline's second set of samples, taken like those of any cell: `kernel`, `cell` (its text, with
                  scheme), `samples`, `blocks`. Its ratio to the baseline's own is the noise floor. Empty where nothing
                  was timed
    machine       the state of the GPU around the blocks, and what there was to say of it: see `environment.watch`
    memory_bytes  peak of device memory; None on a CPU
    """

    index: int
    shape: GemmShape
    labels: Labels
    seconds: Mapping[str, float]
    blocks: int
    cells: int
    duplicate: Mapping[str, object] = field(default_factory=dict)
    machine: Mapping[str, object] = field(default_factory=dict)
    memory_bytes: int | None = None

    KIND = "comparison"

    def duplicate_samples(self, measure: str) -> tuple[tuple[float, ...], tuple[int, ...]] | None:
        """Samples and block numbers of the baseline's duplicate; None where it has none of `measure`."""
        samples, blocks = self.duplicate.get("samples"), self.duplicate.get("blocks")
        if not isinstance(samples, Mapping) or not isinstance(blocks, Mapping) or measure not in samples:
            return None
        return tuple(samples[measure]), tuple(blocks[measure])

    def to_json(self) -> Json:
        return {
            "kind": self.KIND,
            "index": self.index,
            "shape": {"m": self.shape.m, "n": self.shape.n, "k": self.shape.k},
            "labels": dict(self.labels),
            "seconds": dict(self.seconds),
            "blocks": self.blocks,
            "cells": self.cells,
            "duplicate": _plain_object(self.duplicate),
            "machine": _plain_object(self.machine),
            "memory_bytes": self.memory_bytes,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, object]) -> ComparisonEnd:
        """Raises ValueError, naming the field, where one is missing or wrong."""
        shape, seconds = _object(data, "shape"), _object(data, "seconds")
        return cls(
            index=_whole(data, "index"),
            shape=GemmShape(**{name: _whole(shape, name, "shape.") for name in ("m", "n", "k")}),
            labels=_labels(data),
            seconds={phase: _number(taken, f"seconds.{phase}") for phase, taken in seconds.items()},
            blocks=_whole(data, "blocks"),
            cells=_whole(data, "cells"),
            duplicate=_duplicate(data),
            machine=_object(data, "machine") if "machine" in data else {},
            memory_bytes=_field(data, "memory_bytes", int, type(None)) if "memory_bytes" in data else None,
        )


def _plain_object(data: Mapping[str, object]) -> Json:
    return {str(name): _plain(value) for name, value in data.items()}


def _plain(value: object) -> object:
    """`value` in JSON's own types. JSON has no infinity or NaN, so those become text, like whatever else it lacks."""
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, Mapping):
        return _plain_object(value)
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return str(value)


@functools.lru_cache(maxsize=4096)
def _first_of_equals(value: Hashable) -> Hashable:
    return value


def _shared(value: T) -> T:
    """One object for equal values, so that what each of a million records repeats is in memory once."""
    return cast("T", _first_of_equals(cast("Hashable", value)))


_TYPE_NAMES = {
    str: "text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    dict: "an object",
    list: "a list",
    type(None): "null",
}


def _field(data: Mapping[str, object], name: str, *types: type[T], within: str = "") -> T:
    value = data.get(name)
    if type(value) in types and value is not None and float not in types:
        return cast("T", value)  # the quick answer for what is right: a file has millions
    if name not in data:
        raise ValueError(f"{within}{name} is missing")
    return _typed(value, within + name, *types)


def _numbers(data: Mapping[str, object], within: str) -> dict[str, float]:
    return {name: float(_field(data, name, int, float, within=within)) for name in data}


def _typed(value: object, where: str, *types: type[T]) -> T:
    for kind in types:
        # In Python a bool is an int; in JSON it is none.
        if isinstance(value, kind) and (kind is bool or not isinstance(value, bool)):
            if isinstance(value, float) and not math.isfinite(value):
                break
            if float in types and isinstance(value, int) and abs(value) > sys.float_info.max:
                break  # no float can hold it
            return value
    raise ValueError(f"{where} {_shown(value)}: expected {' or '.join(_TYPE_NAMES[kind] for kind in types)}")


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _text(data: Mapping[str, object], name: str) -> str:
    return _field(data, name, str)


def _whole(data: Mapping[str, object], name: str, within: str = "") -> int:
    value = _field(data, name, int, within=within)
    if value < 0:
        raise ValueError(f"{within}{name} {value}: expected at least 0")
    return value


def _object(data: Mapping[str, object], name: str, within: str = "") -> Json:
    return _field(data, name, dict, within=within)


def _each(data: Mapping[str, object], name: str, kind: type[T], within: str = "") -> list[T]:
    items: list[T] = _field(data, name, list, within=within)
    if set(map(type, items)) != {kind}:
        for index, item in enumerate(items):
            _typed(item, f"{within}{name}[{index}]", kind)
    return items


def _number(value: object, where: str) -> float:
    number = _typed(value, where, int, float)
    try:
        return float(number)
    except OverflowError:
        raise ValueError(f"{where} {_shown(number)}: expected a number of 64 bits") from None


def _samples(measure: str, value: object, name: str = "samples") -> tuple[float, ...]:
    where = f"{name}.{measure}"
    taken: list[float] = _typed(value, where, list)
    if set(map(type, taken)) == {float} and min(taken) >= LEAST_SAMPLE and max(taken) <= MOST_SAMPLE:
        return tuple(taken)
    seconds = tuple(_number(item, f"{where}[{index}]") for index, item in enumerate(taken))
    for index, sample in enumerate(seconds):
        if not LEAST_SAMPLE <= sample <= MOST_SAMPLE:
            unit = "seconds" if name == "samples" else "MHz"
            raise ValueError(f"{where}[{index}] {sample!r}: expected {LEAST_SAMPLE:g} to {MOST_SAMPLE:g} {unit}")
    return seconds


def _blocks(data: Mapping[str, object], samples: Mapping[str, tuple[float, ...]]) -> dict[str, tuple[int, ...]]:
    """Block numbers by measure. Schema 1 has one list, which goes for every measure."""
    if isinstance(data.get("blocks"), list):
        numbers = _shared(tuple(_each(data, "blocks", int)))
        blocks = dict.fromkeys(samples, numbers)
    else:
        by_measure = _object(data, "blocks")
        blocks = {measure: _shared(tuple(_each(by_measure, measure, int, "blocks."))) for measure in by_measure}
    for measure, numbers in blocks.items():
        if numbers and min(numbers) < 0:
            raise ValueError("blocks: expected numbers of at least 0")
        if len(set(numbers)) < len(numbers):
            raise ValueError(f"blocks.{measure}: a block comes twice")
    for measure, seconds in samples.items():
        if len(seconds) != len(blocks.get(measure, ())):
            raise ValueError(f"samples.{measure}: {len(seconds)} samples of {len(blocks.get(measure, ()))} blocks")
    return blocks


def _clocks(data: Mapping[str, object], samples: Mapping[str, tuple[float, ...]]) -> dict[str, tuple[float, ...]]:
    """SM clocks by measure. Schema 1 has null, or one number that no version ever wrote."""
    value = _field(data, "clock_mhz", dict, int, float, type(None))
    if not isinstance(value, dict):
        return {}
    clocks = {measure: _samples(measure, numbers, "clock_mhz") for measure, numbers in value.items()}
    for measure, numbers in clocks.items():
        if len(numbers) != len(samples.get(measure, ())):
            raise ValueError(f"clock_mhz.{measure}: {len(numbers)} clocks of {len(samples.get(measure, ()))} samples")
    return clocks


def _duplicate(data: Mapping[str, object]) -> dict[str, object]:
    duplicate = _object(data, "duplicate") if "duplicate" in data else {}
    if not duplicate:
        return {}
    samples = {measure: _samples(measure, value) for measure, value in _object(duplicate, "samples").items()}
    names = {name: _text(duplicate, name) for name in ("kernel", "cell")}
    return {**names, "samples": samples, "blocks": _blocks(duplicate, samples)}


def _problem(data: Mapping[str, object]) -> Problem:
    fields = _object(data, "problem")
    for name, value in fields.items():
        if isinstance(value, dict | list):
            raise ValueError(f"problem.{name}: expected no {_TYPE_NAMES[type(value)].split()[-1]}")
    try:
        return _made_problem(*fields, *fields.values())
    except KeyError as error:
        raise ValueError(f"problem.{error.args[0]} is missing") from None
    except ValueError as error:
        raise ValueError(f"problem: {error}") from None


@functools.lru_cache(maxsize=4096, typed=True)  # typed, since 1 equals true
def _made_problem(*names_and_values: object) -> Problem:
    names, values = names_and_values[: len(names_and_values) // 2], names_and_values[len(names_and_values) // 2 :]
    return Problem.from_json(dict(zip(map(str, names), values, strict=True)))


def _labels(data: Mapping[str, object]) -> dict[str, str | int]:
    labels: dict[str, str | int] = {}
    for name, value in _object(data, "labels").items():
        labels[name] = value if isinstance(value, str) else _typed(value, f"labels.{name}", int)
    return labels


def _status(data: Mapping[str, object]) -> Status:
    text = _text(data, "status")
    try:
        return Status(text)
    except ValueError:
        raise ValueError(f"status {text!r}: expected one of {', '.join(status.value for status in Status)}") from None


def _error(data: Mapping[str, object]) -> dict[str, float] | None:
    error = _field(data, "error", dict, type(None))
    if error is None:
        return None
    sizes = {name: _error_size(error, name) for name in ("relative", "worst")}
    return {**sizes, "rows": _whole(error, "rows", "error.")} if "rows" in error else sizes


def _error_size(error: Mapping[str, object], name: str) -> float:
    size = error.get(name)
    if type(size) is float and math.isfinite(size):
        return size
    if size in ("inf", "nan"):  # an answer with NaN in it
        return float(str(size))
    return _number(_field(error, name, int, float, within="error."), f"error.{name}")

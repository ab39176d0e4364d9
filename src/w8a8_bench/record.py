"""What is kept of a run, one JSON object a line: the run itself, its cells, and the end of each comparison.

Records hold what was measured and no more: medians, TFLOP/s and ratios are worked out when they are shown. Reading is
strict about fields that are known and silent about others, so that a later version may add some.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

from w8a8_bench.kernel import Status
from w8a8_bench.names import KernelName
from w8a8_bench.problem import GemmShape, Problem

SCHEMA = 1
"""Raised when a field changes its meaning or goes. Readers take every version up to this one."""

Labels = Mapping[str, str | int]
Json = dict[str, object]
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class RunHeader:
    """The first line of a run, and of every run that resumed it.

    `plan` holds what fixes the cells, so that `--resume` can tell another sweep; `time` is UTC in ISO 8601.
    """

    command: tuple[str, ...]
    time: str
    environment: Mapping[str, object]
    device: Mapping[str, object]
    plan: Mapping[str, object]
    settings: Mapping[str, object]
    resumed: bool = False
    schema: int = SCHEMA

    KIND = "run"

    def to_json(self) -> Json:
        return {
            "kind": self.KIND,
            "schema": self.schema,
            "command": list(self.command),
            "time": self.time,
            "environment": _plain_object(self.environment),
            "device": _plain_object(self.device),
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
        )


@dataclass(frozen=True, kw_only=True)
class Record:
    """What became of one cell.

    comparison           index of the comparison in the plan
    error                `relative` (Frobenius norm of the error over the answer's) and `worst` (largest error over its
                         tolerance) of the check; None where the kernel gave no answer to check
    config               what the kernel chose: tile, cluster, split, ...
    samples              measure to seconds per launch, one a block
    blocks               numbers of the blocks that the samples were taken in, parallel to every measure's samples
    launches_per_sample  measure to how many launches a sample is the mean of
    clock_mhz            SM clock while the samples were taken; None where it was not measured
    flags                on an `ok`: `unsettled`, `emulated`, `power_capped`
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
    samples: Mapping[str, tuple[float, ...]]
    blocks: tuple[int, ...]
    launches_per_sample: Mapping[str, int]
    clock_mhz: float | None
    flags: tuple[str, ...]

    KIND = "cell"

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
            "blocks": list(self.blocks),
            "launches_per_sample": dict(self.launches_per_sample),
            "clock_mhz": self.clock_mhz,
            "flags": list(self.flags),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, object]) -> Record:
        """Raises ValueError, naming the field, where one is missing or wrong."""
        blocks = tuple(_each(data, "blocks", int))
        samples = {measure: _samples(measure, value) for measure, value in _object(data, "samples").items()}
        for measure, seconds in samples.items():
            if len(seconds) != len(blocks):
                raise ValueError(f"samples.{measure}: {len(seconds)} samples of {len(blocks)} blocks")
        launches = _object(data, "launches_per_sample")
        clock = _field(data, "clock_mhz", int, float, type(None))
        return cls(
            comparison=_whole(data, "comparison"),
            kernel=_kernel(data),
            provider=_text(data, "provider"),
            problem=_problem(data),
            labels=_labels(data),
            status=_status(data),
            reason=_text(data, "reason"),
            error=_error(data),
            config=_object(data, "config"),
            samples=samples,
            blocks=blocks,
            launches_per_sample={measure: _whole(launches, measure, "launches_per_sample.") for measure in launches},
            clock_mhz=None if clock is None else float(clock),
            flags=tuple(_each(data, "flags", str)),
        )


@dataclass(frozen=True, kw_only=True)
class ComparisonEnd:
    """Closes a comparison: the `cells` records before it are all of them. `seconds` is wall time by phase."""

    index: int
    shape: GemmShape
    labels: Labels
    seconds: Mapping[str, float]
    blocks: int
    cells: int

    KIND = "comparison"

    def to_json(self) -> Json:
        return {
            "kind": self.KIND,
            "index": self.index,
            "shape": {"m": self.shape.m, "n": self.shape.n, "k": self.shape.k},
            "labels": dict(self.labels),
            "seconds": dict(self.seconds),
            "blocks": self.blocks,
            "cells": self.cells,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, object]) -> ComparisonEnd:
        """Raises ValueError, naming the field, where one is missing or wrong."""
        shape, seconds = _object(data, "shape"), _object(data, "seconds")
        return cls(
            index=_whole(data, "index"),
            shape=GemmShape(**{name: _whole(shape, name, "shape.") for name in ("m", "n", "k")}),
            labels=_labels(data),
            seconds={phase: float(_field(seconds, phase, int, float, within="seconds.")) for phase in seconds},
            blocks=_whole(data, "blocks"),
            cells=_whole(data, "cells"),
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
    if name not in data:
        raise ValueError(f"{within}{name} is missing")
    return _typed(data[name], within + name, *types)


def _typed(value: object, where: str, *types: type[T]) -> T:
    for kind in types:
        # In Python a bool is an int; in JSON it is none.
        if isinstance(value, kind) and (kind is bool or not isinstance(value, bool)):
            if isinstance(value, float) and not math.isfinite(value):
                break
            return value
    shown = repr(value)
    shown = shown if len(shown) <= 60 else shown[:57] + "..."
    raise ValueError(f"{where} {shown}: expected {' or '.join(_TYPE_NAMES[kind] for kind in types)}")


def _text(data: Mapping[str, object], name: str) -> str:
    return _field(data, name, str)


def _whole(data: Mapping[str, object], name: str, within: str = "") -> int:
    value = _field(data, name, int, within=within)
    if value < 0:
        raise ValueError(f"{within}{name} {value}: expected at least 0")
    return value


def _object(data: Mapping[str, object], name: str) -> Json:
    return _field(data, name, dict)


def _each(data: Mapping[str, object], name: str, kind: type[T]) -> list[T]:
    items: list[object] = _field(data, name, list)
    return [_typed(item, f"{name}[{index}]", kind) for index, item in enumerate(items)]


def _samples(measure: str, value: object) -> tuple[float, ...]:
    where = f"samples.{measure}"
    taken: list[object] = _typed(value, where, list)
    seconds = tuple(float(_typed(item, f"{where}[{index}]", int, float)) for index, item in enumerate(taken))
    for index, sample in enumerate(seconds):
        if sample <= 0:
            raise ValueError(f"{where}[{index}] {sample!r}: expected seconds above zero")
    return seconds


def _kernel(data: Mapping[str, object]) -> str:
    text = _text(data, "kernel")
    try:
        KernelName.parse(text)
    except ValueError as error:
        raise ValueError(f"kernel: {error}") from None
    return text


def _problem(data: Mapping[str, object]) -> Problem:
    fields = _object(data, "problem")
    try:
        return Problem.from_json(fields)
    except KeyError as error:
        raise ValueError(f"problem.{error.args[0]} is missing") from None
    except ValueError as error:
        raise ValueError(f"problem: {error}") from None


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
    return {name: _error_size(error, name) for name in ("relative", "worst")}


def _error_size(error: Mapping[str, object], name: str) -> float:
    if error.get(name) in ("inf", "nan"):  # an answer with NaN in it
        return float(str(error[name]))
    return float(_field(error, name, int, float, within="error."))

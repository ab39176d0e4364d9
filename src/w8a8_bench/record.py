"""The lines of a results file: the run, its cells, and the end of each comparison. Facts only; text is made elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from w8a8_bench.kernel import Status
from w8a8_bench.problem import GemmShape, Problem

SCHEMA = 1

T = TypeVar("T")
Line = Mapping[str, object]


@dataclass(frozen=True, kw_only=True)
class RunHeader:
    """The first line, and one more for every time that a run was resumed."""

    command: tuple[str, ...]
    time: str
    environment: dict[str, object]
    device: dict[str, object]
    plan: dict[str, object]
    settings: dict[str, object]
    resumed: bool

    def to_json(self) -> dict[str, object]:
        return {
            "kind": "run",
            "schema": SCHEMA,
            "command": list(self.command),
            "time": self.time,
            "environment": self.environment,
            "device": self.device,
            "plan": self.plan,
            "settings": self.settings,
            "resumed": self.resumed,
        }

    @classmethod
    def from_json(cls, line: Line) -> RunHeader:
        """Raises ValueError where the schema is newer than this version reads, or a field is wrong or missing."""
        schema = _integer(line, "schema")
        if not 1 <= schema <= SCHEMA:
            raise ValueError(f"schema {schema}: this version reads 1 to {SCHEMA}; upgrade w8a8-bench")
        return cls(
            command=tuple(_list_of(line, "command", _as_text)),
            time=_text(line, "time"),
            environment=_mapping(line, "environment"),
            device=_mapping(line, "device"),
            plan=_mapping(line, "plan"),
            settings=_mapping(line, "settings"),
            resumed=_boolean(line, "resumed"),
        )


@dataclass(frozen=True, kw_only=True)
class Record:
    """One cell. `samples` are seconds by measure; `blocks` are their block numbers, the same for every measure.

    A sample is the mean over `launches_per_sample` launches. `error` holds `relative`, the Frobenius norm of the error,
    and `worst`, the largest error over its tolerance; None where no answer was checked.
    """

    comparison: int
    kernel: str
    provider: str
    problem: Problem
    labels: dict[str, str | int]
    status: Status
    reason: str
    error: dict[str, float] | None
    config: dict[str, object]
    samples: dict[str, tuple[float, ...]]
    blocks: tuple[int, ...]
    launches_per_sample: dict[str, int]
    clock_mhz: tuple[float, ...] | None
    flags: tuple[str, ...]

    def to_json(self) -> dict[str, object]:
        return {
            "kind": "cell",
            "comparison": self.comparison,
            "kernel": self.kernel,
            "provider": self.provider,
            "problem": self.problem.to_json(),
            "labels": self.labels,
            "status": self.status.value,
            "reason": self.reason,
            "error": self.error,
            "config": self.config,
            "samples": {measure: list(values) for measure, values in self.samples.items()},
            "blocks": list(self.blocks),
            "launches_per_sample": self.launches_per_sample,
            "clock_mhz": None if self.clock_mhz is None else list(self.clock_mhz),
            "flags": list(self.flags),
        }

    @classmethod
    def from_json(cls, line: Line) -> Record:
        """Raises ValueError, with the field's name, where a field is wrong or missing."""
        status = _text(line, "status")
        if status not in [one.value for one in Status]:
            raise ValueError(f"status {status!r} is unknown")
        try:
            problem = Problem.from_json(_mapping(line, "problem"))
        except KeyError as error:
            raise ValueError(f"problem: {error.args[0]} is missing") from None
        samples = _mapping(line, "samples")
        launches = _mapping(line, "launches_per_sample")
        error = line.get("error")
        record = cls(
            comparison=_integer(line, "comparison"),
            kernel=_text(line, "kernel"),
            provider=_text(line, "provider"),
            problem=problem,
            labels=_labels(line),
            status=Status(status),
            reason=_text(line, "reason"),
            error=None if error is None else {n: _as_number(v) for n, v in _mapping(line, "error").items()},
            config=_mapping(line, "config"),
            samples={measure: tuple(_list_of(samples, measure, _as_number)) for measure in samples},
            blocks=tuple(_list_of(line, "blocks", _as_integer)),
            launches_per_sample={measure: _integer(launches, measure) for measure in launches},
            clock_mhz=None if line.get("clock_mhz") is None else tuple(_list_of(line, "clock_mhz", _as_number)),
            flags=tuple(_list_of(line, "flags", _as_text)),
        )
        for measure, values in record.samples.items():
            if len(values) != len(record.blocks):
                raise ValueError(f"samples: {measure} has {len(values)} samples in {len(record.blocks)} blocks")
        return record


@dataclass(frozen=True, kw_only=True)
class ComparisonEnd:
    """Closes a comparison: all its cells stand before it. `seconds` says where its wall time went, by phase."""

    index: int
    shape: GemmShape
    labels: dict[str, str | int]
    seconds: dict[str, float]
    blocks: int
    cells: int

    def to_json(self) -> dict[str, object]:
        return {
            "kind": "comparison",
            "index": self.index,
            "shape": {"m": self.shape.m, "n": self.shape.n, "k": self.shape.k},
            "labels": self.labels,
            "seconds": self.seconds,
            "blocks": self.blocks,
            "cells": self.cells,
        }

    @classmethod
    def from_json(cls, line: Line) -> ComparisonEnd:
        """Raises ValueError, with the field's name, where a field is wrong or missing."""
        shape = _mapping(line, "shape")
        return cls(
            index=_integer(line, "index"),
            shape=GemmShape(**{name: _integer(shape, name) for name in ("m", "n", "k")}),
            labels=_labels(line),
            seconds={phase: _as_number(value) for phase, value in _mapping(line, "seconds").items()},
            blocks=_integer(line, "blocks"),
            cells=_integer(line, "cells"),
        )


def _field(line: Line, name: str) -> object:
    if name not in line:
        raise ValueError(f"{name} is missing")
    return line[name]


def _as_text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{value!r}: expected text")
    return value


def _as_integer(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"{value!r}: expected a whole number")
    return value


def _as_number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(f"{value!r}: expected a number")
    return float(value)


def _named(line: Line, name: str, convert: Callable[[object], T]) -> T:
    try:
        return convert(_field(line, name))
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None


def _text(line: Line, name: str) -> str:
    return _named(line, name, _as_text)


def _integer(line: Line, name: str) -> int:
    return _named(line, name, _as_integer)


def _boolean(line: Line, name: str) -> bool:
    value = _field(line, name)
    if not isinstance(value, bool):
        raise ValueError(f"{name}: {value!r}: expected true or false")
    return value


def _mapping(line: Line, name: str) -> dict[str, object]:
    value = _field(line, name)
    if not isinstance(value, dict):
        raise ValueError(f"{name}: expected an object")
    return value


def _list_of(line: Line, name: str, convert: Callable[[object], T]) -> list[T]:
    value = _field(line, name)
    if not isinstance(value, list):
        raise ValueError(f"{name}: expected a list")
    try:
        return [convert(one) for one in value]
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None


def _labels(line: Line) -> dict[str, str | int]:
    labels: dict[str, str | int] = {}
    for name, value in _mapping(line, "labels").items():
        if isinstance(value, bool) or not isinstance(value, (str, int)):
            raise ValueError(f"labels: {name}: expected text or a whole number")
        labels[name] = value
    return labels

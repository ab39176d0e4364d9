"""What is measured together: the cells of one shape."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from w8a8_bench.problem import GemmShape, Problem, Scaling
from w8a8_bench.problem.kernel_name import cell_text


@dataclass(frozen=True)
class LabelledShape:
    """A shape and where it comes from: `labels` (`model`, `layer`, `tp`, ...) go into the records."""

    shape: GemmShape
    labels: Mapping[str, str | int] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """One line for a person: the shape, then its labels."""
        words = [str(self.labels[key]) for key in ("model", "layer") if key in self.labels]
        if "tp" in self.labels:
            words.append(f"TP{self.labels['tp']}")
        return f"{self.shape}" + (f"  ({', '.join(words)})" if words else "")


@dataclass(frozen=True)
class Cell:
    """One kernel on one problem."""

    kernel: str
    problem: Problem

    @property
    def text(self) -> str:
        return cell_text(self.kernel, self.problem)

    def to_json(self) -> dict[str, object]:
        return {"kernel": self.kernel, "problem": self.problem.to_json()}

    @classmethod
    def from_json(cls, data: Mapping[str, object]) -> Cell:
        problem = data["problem"]
        if not isinstance(problem, Mapping):
            raise ValueError(f"problem {problem!r}: expected an object")
        return cls(str(data["kernel"]), Problem.from_json(problem))


@dataclass(frozen=True)
class Comparison:
    """All cells of one shape. They are timed together, block by block, so that every ratio is between neighbours."""

    index: int
    where: LabelledShape
    cells: tuple[Cell, ...]

    @property
    def shape(self) -> GemmShape:
        return self.where.shape

    def to_json(self) -> dict[str, object]:
        shape = self.shape
        return {
            "index": self.index,
            "shape": {"m": shape.m, "n": shape.n, "k": shape.k},
            "labels": dict(self.where.labels),
            "cells": [cell.to_json() for cell in self.cells],
        }

    @classmethod
    def from_json(cls, data: Mapping[str, object]) -> Comparison:
        shape, labels, cells = data["shape"], data["labels"], data["cells"]
        if not (isinstance(shape, Mapping) and isinstance(labels, Mapping) and isinstance(cells, list)):
            raise ValueError("comparison: expected shape and labels as objects and cells as a list")
        where = LabelledShape(GemmShape(**{name: int(shape[name]) for name in ("m", "n", "k")}), dict(labels))
        return cls(int(str(data["index"])), where, tuple(Cell.from_json(cell) for cell in cells))


class OfKernel(Protocol):
    """A cell, planned or measured."""

    @property
    def kernel(self) -> str: ...

    @property
    def problem(self) -> Problem: ...


def is_grid(cells: Iterable[OfKernel]) -> bool:
    """Whether a kernel stands under several schemes: then it is schemes that are compared, and not kernels alone."""
    schemes: dict[str, set[Scaling | None]] = {}
    for cell in cells:
        schemes.setdefault(cell.kernel, set()).add(cell.problem.scaling)
    return any(len(several) > 1 for several in schemes.values())

"""What is measured together: the cells of one shape."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol

from msgspec import Struct

from w8a8_bench.problem import GemmShape, Problem, Scaling
from w8a8_bench.problem.kernel_name import cell_text


class LabelledShape(Struct, frozen=True):
    """A shape and where it comes from: `labels` (`model`, `layer`, `tp`, ...) go into the records."""

    shape: GemmShape
    labels: Mapping[str, str | int] = {}

    @property
    def title(self) -> str:
        """One line for a person: the shape, then its labels."""
        words = [str(self.labels[key]) for key in ("model", "layer") if key in self.labels]
        if "tp" in self.labels:
            words.append(f"TP{self.labels['tp']}")
        return f"{self.shape}" + (f"  ({', '.join(words)})" if words else "")


class Cell(Struct, frozen=True):
    """One kernel on one problem."""

    kernel: str
    problem: Problem

    @property
    def text(self) -> str:
        return cell_text(self.kernel, self.problem)


class Comparison(Struct, frozen=True):
    """All cells of one shape. They are timed together, block by block, so that every ratio is between neighbours."""

    index: int
    where: LabelledShape
    cells: tuple[Cell, ...]

    @property
    def shape(self) -> GemmShape:
        return self.where.shape


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

"""From what the user asked for to the list of comparisons, and how one plan is told from another."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence

from msgspec import to_builtins
from msgspec.structs import replace

from w8a8_bench.problem import Activations, Scaling
from w8a8_bench.problem.comparison import Cell, Comparison, LabelledShape
from w8a8_bench.problem.formats import Format
from w8a8_bench.problem.kernel_name import KernelName


def make_plan(
    shapes: Iterable[LabelledShape],
    kernels: Sequence[str],
    formats: Sequence[Format],
    *,
    schemes: Sequence[Scaling] | None = None,
    activations: Sequence[Activations] = (Activations.PREQUANTIZED,),
    legal_only: bool = False,
) -> tuple[Comparison, ...]:
    """One comparison a shape, with a cell for every kernel under every scheme and kind of activations asked for.

    A combination that was asked for by name and has no meaning is a cell that refuses. In a grid of everything
    (`legal_only`) illegal combinations are dropped, but each kernel keeps at least one cell. If A is quantized inside
    the timed region, the same kernel on prequantized A is a cell too: the cost of quantizing is the difference.
    """
    comparisons = []
    for index, where in enumerate(shapes):
        cells: dict[Cell, None] = {}
        for text in kernels:
            name = KernelName.parse(text)
            # A cast twin takes whatever 8-bit operands the run is over; in a run over both, the first.
            fmt = formats[0] if name.casts_inside else name.format
            asked = [(scheme, kind) for scheme in _schemes_of(name, schemes) for kind in activations]
            problems = [name.problem(where.shape, fmt, scheme, kind) for scheme, kind in asked]
            if legal_only:
                problems = [problem for problem in problems if not problem.why_illegal()] or problems[:1]
            for problem in problems:
                if not problem.why_illegal():
                    cells[Cell(text, replace(problem, activations=Activations.PREQUANTIZED))] = None
                cells[Cell(text, problem)] = None
        comparisons.append(Comparison(index, where, tuple(cells)))
    return tuple(comparisons)


def _schemes_of(name: KernelName, schemes: Sequence[Scaling] | None) -> tuple[Scaling | None, ...]:
    """The schemes that a kernel is asked for.

    Its name says whether it is blockwise, so only schemes of that kind apply. If none of those asked for does, the
    kernel keeps its rows and refuses in them, since a kernel that was named must not vanish.
    """
    if schemes is None or name.is_baseline:
        return (name.default_scheme,)
    return tuple(s for s in schemes if s.is_blockwise == name.is_blockwise) or tuple(schemes)


def digest(comparisons: Iterable[Comparison]) -> str:
    """A fingerprint of the cells, by which `--resume` knows the sweep that a results file belongs to."""
    cells = [{"index": one.index, **to_builtins(one.where), "cells": to_builtins(one.cells)} for one in comparisons]
    text = json.dumps(cells, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()

"""Square shapes, m = n = k, in even steps."""

from __future__ import annotations

from w8a8_bench.problem import GemmShape
from w8a8_bench.problem.comparison import LabelledShape
from w8a8_bench.shapes import check_steps


def square(start: int, end: int, increment: int) -> tuple[LabelledShape, ...]:
    """Sizes from `start` in steps of `increment`, `end` included if a step meets it.

    Raises ValueError if that leaves no shape, or one that no kernel can index.
    """
    check_steps(start, end, increment)
    return tuple(LabelledShape(GemmShape(m=size, n=size, k=size)) for size in range(start, end + 1, increment))

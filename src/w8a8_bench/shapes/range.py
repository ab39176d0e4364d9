"""Shapes whose sizes grow together in even steps, but for those that are held constant."""

from __future__ import annotations

from w8a8_bench.problem import GemmShape
from w8a8_bench.problem.comparison import LabelledShape
from w8a8_bench.shapes import check_steps


def range_(
    start: int, end: int, increment: int, *, m: int | None = None, n: int | None = None, k: int | None = None
) -> tuple[LabelledShape, ...]:
    """Sizes from `start` in steps of `increment`, `end` excluded; a size that is given stays as it is.

    The end is excluded here and included in `square` because vLLM's benchmark has it so, and scripts rely on both.
    Raises ValueError if that leaves no shape, or one that no kernel can index.
    """
    check_steps(start, end, increment)
    if start == end:
        raise ValueError(
            f"--dim-start {start} to --dim-end {end} gives no shape, because the end is excluded: raise --dim-end"
        )
    for name, size in (("m", m), ("n", n), ("k", k)):
        if size is not None and size < 1:
            raise ValueError(f"--{name}-constant {size}: expected at least 1")

    def shape(size: int) -> GemmShape:
        return GemmShape(
            m=size if m is None else m,
            n=size if n is None else n,
            k=size if k is None else k,
        )

    return tuple(LabelledShape(shape(size)) for size in range(start, end, increment))

"""Sizes from start to end, the end excluded, some held constant, as in the original's `range_bench`."""

from __future__ import annotations

from w8a8_bench.comparison import LabelledShape
from w8a8_bench.problem import GemmShape
from w8a8_bench.shapes.square import check_dims


def range_(
    start: int, end: int, increment: int, *, m: int | None = None, n: int | None = None, k: int | None = None
) -> tuple[LabelledShape, ...]:
    """The sizes that are None sweep together. Raises ValueError as `square` does, and for a range without a size."""
    check_dims(start, end, increment)
    if start == end:
        raise ValueError(f"--dim-start {start} equals --dim-end {end}, which a range excludes: raise --dim-end")
    for name, size in (("m", m), ("n", n), ("k", k)):
        if size is not None and size < 1:
            raise ValueError(f"--{name}-constant {size}: expected at least 1")
    return tuple(
        LabelledShape(
            GemmShape(
                m=size if m is None else m,
                n=size if n is None else n,
                k=size if k is None else k,
            )
        )
        for size in range(start, end, increment)
    )

"""m = n = k, from start to end, the end included, as in the original's `square_bench`."""

from __future__ import annotations

from w8a8_bench.comparison import LabelledShape
from w8a8_bench.problem import GemmShape


def square(start: int, end: int, increment: int) -> tuple[LabelledShape, ...]:
    """Raises ValueError for an increment below 1, a start past the end and a size that no GEMM has."""
    check_dims(start, end, increment)
    return tuple(LabelledShape(GemmShape(m=size, n=size, k=size)) for size in range(start, end + 1, increment))


def check_dims(start: int, end: int, increment: int) -> None:
    """What squares and ranges ask of the three flags."""
    if increment < 1:
        raise ValueError(f"--dim-increment {increment}: expected at least 1")
    if start < 1:
        raise ValueError(f"--dim-start {start}: expected at least 1")
    if start > end:
        raise ValueError(f"--dim-start {start} is greater than --dim-end {end}: swap them")

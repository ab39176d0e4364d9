"""Shapes whose sizes grow together in even steps: squares, or all sizes but those that are held constant."""

from __future__ import annotations

from w8a8_bench.problem import GemmShape
from w8a8_bench.problem.comparison import LabelledShape

MAX_SHAPES = 100_000
"""Longest sweep. At a second a shape it takes a day; a longer one is a slip of the keyboard."""


def _check_steps(start: int, end: int, increment: int) -> None:
    """Raise ValueError if the steps from `start` to `end` are zero, lead away from `end`, or are too many."""
    if start < 1:
        raise ValueError(f"--dim-start {start}: expected at least 1")
    if increment < 1:
        raise ValueError(f"--dim-increment {increment}: expected at least 1")
    if start > end:
        raise ValueError(f"--dim-start {start} is greater than --dim-end {end}")
    count = (end - start) // increment + 1
    if count > MAX_SHAPES:
        raise ValueError(
            f"--dim-start {start} to --dim-end {end} in steps of {increment} makes {count} shapes, "
            f"and at most {MAX_SHAPES} are allowed: choose a larger --dim-increment"
        )


def square(start: int, end: int, increment: int) -> tuple[LabelledShape, ...]:
    """Sizes from `start` in steps of `increment`, `end` included if a step meets it.

    Raises ValueError if that leaves no shape, or one that no kernel can index.
    """
    _check_steps(start, end, increment)
    return tuple(LabelledShape(GemmShape(m=size, n=size, k=size)) for size in range(start, end + 1, increment))


def range_(
    start: int, end: int, increment: int, *, m: int | None = None, n: int | None = None, k: int | None = None
) -> tuple[LabelledShape, ...]:
    """Sizes from `start` in steps of `increment`, `end` excluded; a size that is given stays as it is.

    The end is excluded here and included in `square` because vLLM's benchmark has it so, and scripts rely on both.
    Raises ValueError if that leaves no shape, or one that no kernel can index.
    """
    _check_steps(start, end, increment)
    if start == end:
        raise ValueError(
            f"--dim-start {start} to --dim-end {end} gives no shape, because the end is excluded: raise --dim-end"
        )
    for name, size in (("m", m), ("n", n), ("k", k)):
        if size is not None and size < 1:
            raise ValueError(f"--{name}-constant {size}: expected at least 1")

    return tuple(
        LabelledShape(GemmShape(m=m or size, n=n or size, k=k or size)) for size in range(start, end, increment)
    )

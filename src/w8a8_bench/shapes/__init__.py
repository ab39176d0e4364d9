"""Sources of shapes: each module returns a tuple of `LabelledShape`, or raises ValueError with one clear line."""

from __future__ import annotations

MAX_SHAPES = 100_000
"""Longest sweep. At a second a shape it takes a day; a longer one is a slip of the keyboard."""


def check_steps(start: int, end: int, increment: int) -> None:
    """Raise ValueError where the steps from `start` to `end` are none, lead away from `end`, or are too many."""
    if start < 1:
        raise ValueError(f"--dim-start {start}: expected at least 1")
    if increment < 1:
        raise ValueError(f"--dim-increment {increment}: expected at least 1")
    if start > end:
        raise ValueError(f"--dim-start {start} is greater than --dim-end {end}")
    count = (end - start) // increment + 1
    if count > MAX_SHAPES:
        raise ValueError(
            f"--dim-start {start} to --dim-end {end} in steps of {increment} makes {count} shapes: "
            f"at most {MAX_SHAPES}; choose a larger --dim-increment"
        )

"""Sources of shapes: each module returns a tuple of `LabelledShape`, or raises ValueError with one clear line."""

from __future__ import annotations

from pathlib import Path

MAX_SHAPES = 100_000
"""Longest sweep. At a second a shape it takes a day; a longer one is a slip of the keyboard."""


def check_steps(start: int, end: int, increment: int) -> None:
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


def read_at_most(path: Path, max_bytes: int, what: str) -> bytes:
    """The bytes of a file that should be `what`. Raises ValueError with the path: can't be read, or is too large.

    The limit keeps a wrong path, say a device or a model's weights, from filling the memory.
    """
    try:
        with open(path, "rb") as file:
            data = file.read(max_bytes + 1)
    except OSError as error:
        raise ValueError(f"{path} can't be read: {error.strerror}") from None
    if len(data) > max_bytes:
        raise ValueError(f"{path} is larger than {max_bytes // 2**20} MiB: too large for {what}")
    return data

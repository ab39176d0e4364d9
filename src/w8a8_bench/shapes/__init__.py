"""Sources of shapes: each module returns a tuple of `LabelledShape`, or raises ValueError with one clear line."""

from __future__ import annotations

from pathlib import Path


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

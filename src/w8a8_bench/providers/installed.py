"""What lies on disk of a library: where its package is and which version, found out without importing it."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
from pathlib import Path

from w8a8_bench.kernel import UNKNOWN_VERSION

ASSIGNMENT = re.compile(r"^__version__ = (?:version = )?['\"]([^'\"]+)", re.MULTILINE)
"""As packages write it by hand, and as setuptools-scm does."""


def directory(package: str, *parts: str) -> Path | None:
    """Where a package lies; None if it is not installed.

    `parts` are patterns of paths inside it. A directory with one of them but no `__init__.py` is a part of the library
    that somebody unpacked, and is as good. One with neither only has the same name.
    """
    spec = importlib.util.find_spec(package)
    for place in map(Path, spec.submodule_search_locations or () if spec else ()):
        if any(found.is_file() for pattern in ("__init__.py", *parts) for found in place.glob(pattern)):
            return place
    return None


def version(*distributions: str, files: tuple[Path, ...] = ()) -> str:
    """Of the first distribution that is installed, else what the first of `files` that assigns one assigns."""
    for name in distributions:
        try:
            return importlib.metadata.version(name) or UNKNOWN_VERSION
        except importlib.metadata.PackageNotFoundError:
            continue
    for file in files:
        if file.is_file() and (found := ASSIGNMENT.search(file.read_text(encoding="utf-8"))):
            return found[1]
    return UNKNOWN_VERSION


def load_operators(file: Path, fitting: str) -> None:
    """Register an extension's operators with PyTorch.

    Raises OSError with what the linker says, such as a symbol of another PyTorch, and `fitting`: which release works.
    """
    import torch

    try:
        torch.ops.load_library(str(file))
    except OSError as error:
        cause = error.__cause__ or error  # PyTorch 2.13 names the file alone; what the linker said is the cause
        raise OSError(f"{cause}; {fitting}") from None

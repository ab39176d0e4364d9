"""The records of models that come with the package: one file a model, which `recommend` reads if it is given none."""

from __future__ import annotations

from pathlib import Path

DIRECTORY = Path(__file__).parent / "h200_book"

SUFFIX = ".jsonl.gz"

SLASH = "--"
"""What stands for the `/` of a model's name in that of its file. The Hub allows no `--` in a name."""


def file_name(model: str) -> str:
    return f"{model.replace('/', SLASH)}{SUFFIX}"


def path_of(model: str) -> Path | None:
    """The file of `model`, by its name on the Hub; None if there is none."""
    return DIRECTORY / file_name(model) if model in models() else None


def models() -> tuple[str, ...]:
    """Names of the models that have a file."""
    found = sorted(path.name for path in DIRECTORY.glob(f"*{SUFFIX}"))
    return tuple(name.removesuffix(SUFFIX).replace(SLASH, "/") for name in found)

"""Shapes from a CSV file: columns m, n and k in any order; every other column becomes a label."""

from __future__ import annotations

import csv
from pathlib import Path

from w8a8_bench.comparison import LabelledShape
from w8a8_bench.problem import GemmShape

SIZES = ("m", "n", "k")


def read(path: Path) -> tuple[LabelledShape, ...]:
    """The shapes of `path`, in order. Raises ValueError with the path, the line's number and what is wrong there."""
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            return _shapes(path, reader)
    except OSError as error:
        raise ValueError(f"--csv {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ValueError(f"--csv {path}: expected UTF-8 text") from None


def _shapes(path: Path, reader: csv._reader) -> tuple[LabelledShape, ...]:  # type: ignore[name-defined]
    shapes = []
    header: list[str] | None = None
    try:
        for row in reader:
            if not any(field.strip() for field in row):
                continue
            if header is None:
                header = _header(row)
            else:
                shapes.append(_shape(header, row))
    except (ValueError, csv.Error) as error:
        if isinstance(error, UnicodeDecodeError):
            raise
        raise ValueError(f"--csv {path}, line {reader.line_num}: {error}") from None
    if not shapes:
        raise ValueError(f"--csv {path}: no shapes; expected a header with m, n and k, and a row a shape")
    return tuple(shapes)


def _header(row: list[str]) -> list[str]:
    names = [field.strip() for field in row]
    for size in SIZES:
        if size not in names:
            raise ValueError(
                f"column {size} is missing: expected a header with m, n and k, not {','.join(names)[:80]!r}"
            )
    for name in names:
        if not name or names.count(name) > 1:
            raise ValueError(f"column {name!r} stands twice" if name else "a column has no name")
    return names


def _shape(header: list[str], row: list[str]) -> LabelledShape:
    if len(row) != len(header):
        raise ValueError(f"{len(row)} fields: expected {len(header)}, as in the header")
    fields = {name: field.strip() for name, field in zip(header, row, strict=True)}
    sizes = {}
    for size in SIZES:
        text = fields.pop(size)
        # isdecimal also takes other scripts' digits; 19 digits are past any size and short enough to convert at once.
        if not (text.isascii() and text.isdecimal() and len(text) < 20):
            raise ValueError(f"{size} is {text[:40]!r}: expected a whole number")
        sizes[size] = int(text)
    return LabelledShape(GemmShape(**sizes), dict(fields))

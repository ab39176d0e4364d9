"""Shapes from a CSV file: columns m, n and k in any order, and any others as labels.

layer,m,n,k
qkv_proj,16,6144,4096
"""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path

from w8a8_bench.problem import GemmShape
from w8a8_bench.problem.comparison import LabelledShape
from w8a8_bench.shapes import read_at_most

SIZES = ("m", "n", "k")
MAX_BYTES = 16 * 2**20
"""Largest file that is taken for a list of shapes."""


def read(path: Path) -> tuple[LabelledShape, ...]:
    """The shapes of `path` in the order of its rows. Spaces around a field don't count, nor do blank lines.

    Raises ValueError with the path, the line and the reason: no such file, not UTF-8, a column that is missing or
    doubled, a row with too few or too many fields, a size that is no whole number from 1 up.
    """
    reader = csv.reader(io.StringIO(_text(path), newline=""), strict=True)
    columns: list[str] = []
    shapes: list[LabelledShape] = []
    try:
        for row in reader:
            fields = [field.strip() for field in row]
            if not any(fields):
                continue
            if columns:
                shapes.append(_shape(columns, fields))
            else:
                columns = _columns(fields)
    except (ValueError, csv.Error) as error:
        raise ValueError(f"{path}, line {reader.line_num}: {error}") from None
    if not columns:
        raise ValueError(f"{path} is empty: expected a header with the columns m, n and k, then one row for each shape")
    if not shapes:
        raise ValueError(f"{path} has a header but no rows: expected one row for each shape")
    return tuple(shapes)


def _text(path: Path) -> str:
    data = read_at_most(path, MAX_BYTES, "a list of shapes")
    try:
        return data.decode("utf-8-sig")  # spreadsheets write the mark
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ValueError(f"{path}, line {line}: not UTF-8; save the file as CSV in UTF-8") from None


def _columns(fields: list[str]) -> list[str]:
    columns = [field.lower() for field in fields]
    missing = [name for name in SIZES if name not in columns]
    if missing:
        found = ", ".join(repr(_short(field)) for field in fields[:8])
        raise ValueError(
            f"the header has no column {' and no column '.join(missing)}: expected m, n and k, got {found}"
        )
    for index, name in enumerate(columns):
        if not name:
            raise ValueError(f"column {index + 1} of the header has no name")
        if name in columns[:index]:
            raise ValueError(f"the header has the column {_short(name)!r} twice")
    return columns


def _shape(columns: list[str], fields: list[str]) -> LabelledShape:
    if len(fields) != len(columns):
        raise ValueError(f"{len(fields)} fields, but the header has {len(columns)}")
    row = dict(zip(columns, fields, strict=True))
    m, n, k = (_size(name, row[name]) for name in SIZES)
    labels = {name: text for name, text in row.items() if name not in SIZES and text}
    return LabelledShape(GemmShape(m=m, n=n, k=k), labels)


def _size(name: str, text: str) -> int:
    if not re.fullmatch("-?[0-9]+", text):
        raise ValueError(f"{name}={_short(text)!r}: expected a whole number in decimal digits")
    return int(text)


def _short(text: str) -> str:
    return text if len(text) <= 40 else text[:37] + "..."

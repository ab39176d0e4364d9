"""The README's tables of libraries, from records: `python3 scripts/peers_table.py RECORDS.jsonl... [--shapes]`.

A table for each way of scaling, with a column a library. A library's time is that of its fastest kernel there, whatever
it sums in; a cell is how many times the fastest library's time it takes, as the geometric mean over the shapes of one m
(1.00x: nobody is faster on any). With `--shapes` a row a shape instead, in microseconds.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

from w8a8_bench.kernel import Status
from w8a8_bench.problem import BLOCKWISE, PER_TENSOR, Activations, GemmShape, Scaling
from w8a8_bench.problem.formats import Format
from w8a8_bench.problem.kernel_name import KernelName
from w8a8_bench.results import json_lines
from w8a8_bench.results.record import Record
from w8a8_bench.stats import median
from w8a8_bench.timing.measures import headline

Group = tuple[str, Format, Scaling]
DEPLOYED = Scaling.parse("channel-w-token-a")
GROUPS: tuple[Group, ...] = (
    ("FP8, scales per channel and token", Format.FP8, DEPLOYED),
    ("FP8, scales by 128x128 blocks and groups of 128", Format.FP8, BLOCKWISE),
    ("INT8, scales per channel and token", Format.INT8, DEPLOYED),
    ("FP8, scales per tensor", Format.FP8, PER_TENSOR),
    ("INT8, scales per tensor", Format.INT8, PER_TENSOR),
)
"""In the order in which they are shown: what models are served with comes first."""
PLAIN = ("", "fast_accum", "blockwise")
"""Variants of a name that change nothing of the problem but its scheme."""

Times = dict[GemmShape, dict[str, float]]
"""Seconds by shape and library."""


def times(records: Iterable[Record], fmt: Format, scaling: Scaling) -> Times:
    """The fastest kernel of each library on each shape; shapes in the records' order."""
    found: Times = {}
    for record in records:
        problem, name = record.problem, KernelName.parse(record.kernel)
        measure = headline(record.samples)
        if (problem.format, problem.scaling, problem.activations) != (fmt, scaling, Activations.PREQUANTIZED):
            continue
        if name.variant not in PLAIN or record.status is not Status.OK or measure is None:
            continue
        by_library = found.setdefault(problem.shape, {})
        seconds = median(record.samples[measure])
        by_library[record.provider] = min(seconds, by_library.get(record.provider, seconds))
    return found


def libraries(found: Times) -> list[str]:
    return list(dict.fromkeys(library for by_library in found.values() for library in by_library))


def by_m(found: Times) -> list[list[str]]:
    """Rows of one m: how many shapes, the fastest's time, each library over it (in brackets: on how many, if fewer)."""
    columns = libraries(found)
    rows = [["m", "shapes", "fastest", *columns]]
    for m in dict.fromkeys(shape.m for shape in found):
        shapes = [by_library for shape, by_library in found.items() if shape.m == m]
        row = [str(m), str(len(shapes)), f"{1e6 * mean(min(s.values()) for s in shapes):.1f} us"]
        for library in columns:
            ratios = [s[library] / min(s.values()) for s in shapes if library in s]
            few = f" ({len(ratios)})" if 0 < len(ratios) < len(shapes) else ""
            row.append(f"{mean(ratios):.2f}x{few}" if ratios else "-")
        rows.append(row)
    return rows


def by_shape(found: Times) -> list[list[str]]:
    columns = libraries(found)
    rows = [["m", "n", "k", *columns]]
    for shape, by_library in found.items():
        cells = [f"{1e6 * by_library[library]:.2f}" if library in by_library else "-" for library in columns]
        rows.append([str(shape.m), str(shape.n), str(shape.k), *cells])
    return rows


def mean(values: Iterable[float]) -> float:
    """The geometric mean of one value or more."""
    logs = [math.log(value) for value in values]
    return math.exp(sum(logs) / len(logs))


def render(records: Sequence[Record], *, shapes: bool = False) -> str:
    parts = []
    for title, fmt, scaling in GROUPS:
        found = times(records, fmt, scaling)
        if found:
            rows = by_shape(found) if shapes else by_m(found)
            wide = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
            lines = ["  ".join(text.rjust(width) for text, width in zip(row, wide, strict=True)) for row in rows]
            parts.append("\n".join([title, *lines]))
    return "\n\n".join(parts)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("records", nargs="+", help="JSON Lines, gzipped or not")
    parser.add_argument("--shapes", action="store_true", help="a row a shape, in microseconds")
    words = parser.parse_args()
    print(render([record for path in words.records for record in json_lines.read(path).records], shapes=words.shapes))

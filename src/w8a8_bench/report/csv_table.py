"""All cells as CSV, every number with every digit that it has."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence

from msgspec import to_builtins

from w8a8_bench.report.comparable_runs import ResultSet
from w8a8_bench.report.rows import NUMBERS, PARTS, CellRow, make_rows, measures_of
from w8a8_bench.results.record import Record
from w8a8_bench.timing.measures import part

COMMON_LABELS = ("model", "layer", "tp")
"""Columns of their own; other labels are `label_<name>`, so that none hides a column."""

Fields = dict[str, object]


def render(sets: Sequence[ResultSet]) -> str:
    """A line a cell, with a header. What is not known is empty; units stand in the names of columns."""
    rows = [
        (one, comparison.uuid, row)
        for one in sets
        for comparison, group in zip(one.comparisons, make_rows(one), strict=True)
        for row in group
    ]
    measures = measures_of([row.record for _, _, row in rows])
    lines = [{**_what(one, uuid, row.record), **_times(row, measures)} for one, uuid, row in rows]
    columns = dict.fromkeys(name for line in lines for name in line)
    out = io.StringIO()
    writer = csv.DictWriter(out, list(columns), restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return out.getvalue()


def _what(results: ResultSet, uuid: str, record: Record) -> Fields:
    problem = to_builtins(record.problem)
    return {
        "device": results.device_name,
        "uuid": uuid,
        "measured": results.headers[0].time,
        "files": " ".join(results.files),
        **{name: record.labels.get(name, "") for name in COMMON_LABELS},
        **{f"label_{name}": value for name, value in record.labels.items() if name not in COMMON_LABELS},
        **{name: problem[name] for name in ("m", "n", "k")},
        "kernel": record.kernel,
        "provider": record.provider,
        **{name: value for name, value in problem.items() if name not in ("m", "n", "k")},
        "status": record.status.value,
        "reason": record.reason,
        "flags": " ".join(record.flags),
        "error_relative": record.error["relative"] if record.error else "",
        "error_worst": record.error["worst"] if record.error else "",
        "config": json.dumps(dict(record.config)) if record.config else "",
        **{f"scheme_sqnr_{name}_db": decibel for name, decibel in record.scheme_sqnr_db.items()},
    }


def _times(row: CellRow, measures: Sequence[str]) -> Fields:
    fields: Fields = {}
    for measure in (name for one in measures for name in (one, *(part(one, which) for which in PARTS))):
        if times := row.times.get(measure):
            numbers = {name: read(times) for name, read in NUMBERS.items()}
            fields |= {f"{measure}_{name}": number for name, number in numbers.items() if number is not None}
    return fields

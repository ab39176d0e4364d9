"""What two runs say of each other, for programs: as JSON, and as JUnit's XML for a CI that shows test results."""

from __future__ import annotations

import json
from xml.etree import ElementTree

from w8a8_bench.problem.comparison import LabelledShape
from w8a8_bench.report.compare.compare import Change, JudgedCell, Judgement, Mean, Shape
from w8a8_bench.report.compare.render import Compared, notes, summary, titled
from w8a8_bench.results.record import Record, plain
from w8a8_bench.text import format_time

KIND = "comparison_of_runs"
VERSION = 1
"""Raised when a field of the JSON changes its meaning or goes."""


def render_json(compared: Compared, *, everything: bool = False) -> str:
    """One object: times in seconds, ratios new over base, intervals of 95%. Cells that are the same are in it too."""
    outcome = compared.outcome
    return json.dumps(
        {
            "kind": KIND,
            "version": VERSION,
            "base": compared.base_name,
            "more_bases": [name for name, _ in compared.more],
            "new": compared.new_name,
            "summary": summary(outcome),
            "measure": outcome.measure,
            "threshold": outcome.threshold,
            "machine": outcome.machine,
            "mean": _mean(outcome.mean),
            "kernels": {cell: _mean(mean) for cell, mean in outcome.by_cell.items()},
            "cells": [_cell(shape, timed) for shape in outcome.shapes for timed in shape.timed],
            "statuses": [_change(change) for change in outcome.changes],
            "only_base": [_where(record) for record in outcome.only_base],
            "only_new": [_where(record) for record in outcome.only_new],
            "differences": [str(one) for one in compared.differences],
            "notes": notes(compared),
        },
        indent=1,
        allow_nan=False,
    )


def _mean(mean: Mean | None) -> dict[str, object] | None:
    if mean is None:
        return None
    return {"cells": mean.cells, "ratio": mean.ratio, "interval": mean.interval, "verdict": mean.verdict.value}


def _cell(shape: Shape, timed: JudgedCell) -> dict[str, object]:
    return {
        **_where(timed.shift.new),
        "base_s": timed.shift.base_s,
        "new_s": timed.shift.new_s,
        "ratio": timed.ratio,
        "interval": timed.interval,
        "verdict": timed.verdict.value,
        "machine": shape.moved,
    }


def _change(change: Change) -> dict[str, object]:
    return {
        **_where(change.new),
        "base": change.base.status.value,
        "new": change.new.status.value,
        "worse": change.worse,
        "reason": change.new.reason or change.base.reason,
    }


def _where(record: Record) -> dict[str, object]:
    shape = record.problem.shape
    return {"kernel": record.text, "m": shape.m, "n": shape.n, "k": shape.k, "labels": plain(record.labels)}


def render_junit(compared: Compared, *, everything: bool = False) -> str:
    """A suite a kernel, a case a cell. Slower cells and worse statuses are failures, as is a kernel that is slower over
    all its cells, and with --require-all what new lacks. What can't be judged is skipped.
    """
    outcome = compared.outcome
    suites: dict[str, list[ElementTree.Element]] = {}

    def case(kernel: str, name: str, kind: str = "", message: str = "") -> None:
        element = ElementTree.Element("testcase", classname=kernel, name=name)
        if kind:
            ElementTree.SubElement(element, kind, message=message)
        suites.setdefault(kernel, []).append(element)

    beyond = {id(timed) for timed in outcome.beyond()}
    for shape in outcome.shapes:
        for timed in shape.timed:
            times = f"{format_time(timed.shift.base_s)} to {format_time(timed.shift.new_s)}, {timed.ratio:.4f}x"
            kind = "failure" if id(timed) in beyond else "skipped" if timed.verdict is Judgement.INCONCLUSIVE else ""
            case(timed.cell, titled(shape.pair.where), kind, f"{timed.verdict.value}: {times}")
    for change in outcome.changes:
        title = titled(LabelledShape(change.new.problem.shape, change.new.labels))
        said = f"{change.base.status.value} to {change.new.status.value}: {change.new.reason}"
        case(change.new.text, title, "failure" if change.worse else "", said)
    for record in outcome.only_base:
        title = titled(LabelledShape(record.problem.shape, record.labels))
        case(record.text, title, "failure" if compared.require_all else "skipped", "only in base")
    for cell, mean in outcome.slower_kernels().items():
        case(cell, "over all its cells", "failure", f"slower: {mean.ratio:.4f}x")
    root = ElementTree.Element("testsuites", name="w8a8-bench compare")
    for kernel, cases in suites.items():
        counts = {kind: str(sum(one.find(kind) is not None for one in cases)) for kind in ("failure", "skipped")}
        suite = ElementTree.SubElement(
            root, "testsuite", name=kernel, tests=str(len(cases)), failures=counts["failure"], skipped=counts["skipped"]
        )
        suite.extend(cases)
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode", xml_declaration=True)

"""A history for programs: as JSON, and as JUnit's XML for a CI that shows test results."""

from __future__ import annotations

import json
import math
from xml.etree import ElementTree

from w8a8_bench.analysis.change_points import Level
from w8a8_bench.report.history.render import name, place, summary
from w8a8_bench.report.history.series import Change, History, Series, Verdict, percent
from w8a8_bench.results.record import plain

KIND = "history"
VERSION = 1
"""Raised when a field of the JSON changes its meaning or goes."""


def render_json(history: History, threshold: float, *, everything: bool = False) -> str:
    """One object: times in seconds, ratios with intervals of 95%, runs by their place in `runs`. Levels are without the
    machine's part."""
    places = {id(run): number for number, run in enumerate(history.runs)}
    runs = [
        {"file": run.file, "time": run.time, "device": run.device, "cards": run.cards, "environment": run.facts}
        for run in history.runs
    ]
    series = [_series(one, places, threshold) for one in history.series]
    machine = [{"device": device, **_change(change, places)} for device, change in history.machine_changes]
    data = {"kind": KIND, "version": VERSION, "summary": summary(history), "threshold": threshold}
    return json.dumps(plain({**data, "runs": runs, "machine": machine, "series": series}), indent=1, allow_nan=False)


def _change(change: Change, places: dict[int, int]) -> dict[str, object]:
    return {
        "before": places[id(change.before)],
        "after": places[id(change.after)],
        "ratio": math.exp(change.log),
        "interval": (math.exp(change.low), math.exp(change.high)),
        "moved": change.moved,
    }


def _series(one: Series, places: dict[int, int], threshold: float) -> dict[str, object]:
    log, low, high = one.worse_by
    return {
        "device": one.device,
        "measure": one.measure,
        "kernel": one.text,
        "problem": one.problem,
        "verdict": one.verdict(threshold),
        "last_run": places[id(one.last)],
        "status": one.status,
        "reason": one.reason,
        "newest_over_best": math.exp(log),
        "interval": (math.exp(low), math.exp(high)),
        "run_sd": one.fit.run_sd,
        "points": [
            {
                "run": places[id(point.run)],
                "seconds": point.seconds,
                "without_machine_s": math.exp(point.log),
                "odd": number in one.fit.odd,
            }
            for number, point in enumerate(one.points)
        ],
        "levels": [_level(one, level, places) for level in one.fit.levels],
        "changes": [_change(change, places) for change in one.changes],
    }


def _level(one: Series, level: Level, places: dict[int, int]) -> dict[str, object]:
    first, last = (places[id(one.points[number].run)] for number in (level.first, level.last))
    return {"first_run": first, "last_run": last, "runs": level.runs, "seconds": math.exp(level.value)}


def render_junit(history: History, threshold: float, *, everything: bool = False) -> str:
    """A suite a kernel, a case a shape. What is slower than its best lasting level, or broken, is a failure; what has
    too few runs is skipped."""
    root = ElementTree.Element("testsuites", name="w8a8-bench history")
    suites: dict[str, list[Series]] = {}
    for one in history.series:
        if not one.is_baseline:
            suites.setdefault(one.text, []).append(one)
    for kernel, series in suites.items():
        verdicts = [one.verdict(threshold) for one in series]
        failed = sum(verdict in (Verdict.WORSE, Verdict.BROKEN) for verdict in verdicts)
        tests, skipped = str(len(series)), str(verdicts.count(Verdict.FEW))
        suite = ElementTree.SubElement(
            root, "testsuite", name=kernel, tests=tests, failures=str(failed), skipped=skipped
        )
        for one, verdict in zip(series, verdicts, strict=True):
            case = ElementTree.SubElement(suite, "testcase", classname=kernel, name=f"{place(one)} {one.device}")
            if verdict is Verdict.WORSE:
                since = name(one.points[one.newest.first].run)
                said = f"{percent(one.worse_by[0])} over its best lasting level, since the run of {since}"
                ElementTree.SubElement(case, "failure", message=said)
            elif verdict is Verdict.BROKEN:
                ElementTree.SubElement(case, "failure", message=f"{one.status}: {one.reason}")
            elif verdict is Verdict.FEW:
                ElementTree.SubElement(case, "skipped", message=f"{len(one.points)} runs are too few")
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode", xml_declaration=True)

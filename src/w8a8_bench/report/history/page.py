"""A history as one HTML file without scripts: a sparkline for each series, which opens into the series itself."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence

from w8a8_bench.report import scriptless
from w8a8_bench.report.history.render import name, place, remarks, seconds_of, summary, verdict, what_changed
from w8a8_bench.report.history.series import History, Series, Verdict, percent

SPARK = (150, 26)
PLOT = (760, 220)
MARGIN = 6
LEAST_SPAN = 0.01
"""Of a plot's scale, in ln of the time: noise of a tenth of a percent must not fill it."""


def render_html(history: History, threshold: float, *, everything: bool = False) -> str:
    """A page of all series: those that are worse first, then those that changed, the newest change first."""
    changed = [
        f"<li><b>{_text(name(run))}</b>: {_text(what_changed(run, changes))}</li>" for run, changes in history.by_run()
    ]
    order = sorted(history.series, key=lambda one: _rank(one, threshold, history))
    return scriptless.render(
        "w8a8-bench history",
        [
            f"<h1>{_text(verdict(history, threshold))}</h1><p>{_text(summary(history))}</p>",
            *(f"<p>{_text(remark)}</p>" for remark in remarks(history)),
            f"<h2>When times changed</h2><ul>{''.join(changed) or '<li>They did not.</li>'}</ul>",
            "<h2>Every series</h2>",
            "<p>A line is a level, a dot a run, a ring a run that is odd and counts for nothing. Times are without ",
            "the machine's part, which the 16-bit baselines of a run tell. Open a series for its runs.</p>",
            *(_series(one, threshold) for one in order),
        ],
    )


def _rank(one: Series, threshold: float, history: History) -> tuple[int, float, float]:
    verdicts = (Verdict.BROKEN, Verdict.WORSE, Verdict.STEADY, Verdict.FEW)
    newest = max((history.runs.index(change.after) for change in one.changes), default=-1)
    return verdicts.index(one.verdict(threshold)), -one.worse_by[0], -newest


def _series(one: Series, threshold: float) -> str:
    found = one.verdict(threshold)
    cells = [
        f'<span class="cell">{_text(one.text)}</span>',
        f'<span class="shape">{_text(place(one))}</span>',
        _plot(one, *SPARK, dots=False),
        f'<span class="number">{seconds_of(one, one.newest.value)}</span>',
        f'<span class="number {found.value}">{_state(one, found)}</span>',
    ]
    rows = "".join(
        f"<tr><td>{_text(name(one.points[level.first].run))}</td><td>{_text(name(one.points[level.last].run))}</td>"
        f'<td class="number">{level.runs}</td><td class="number">{seconds_of(one, level.value)}</td>'
        f"<td>{_text(one.changes[number - 1].percent) if number else ''}</td>"
        f"<td>{_text(', '.join(one.changes[number - 1].moved)) if number else ''}</td></tr>"
        for number, level in enumerate(one.fit.levels)
    )
    head = "".join(f"<th>{title}</th>" for title in ("from", "to", "runs", "time", "change", "also different"))
    about = f"{one.device}, {one.measure}, {len(one.points)} runs; runs differ by {100 * one.fit.run_sd:.2f}%"
    return (
        f"<details><summary>{''.join(cells)}</summary><p>{_text(about)}</p>{_plot(one, *PLOT, dots=True)}"
        f'<div class="wide"><table><tr>{head}</tr>{rows}</table></div></details>'
    )


def _state(one: Series, found: Verdict) -> str:
    if found is Verdict.BROKEN:
        return _text(one.status)
    if found is Verdict.FEW:
        return "few runs"
    return percent(one.worse_by[0]) if one.best is not one.newest else "at its best"


def _plot(one: Series, width: int, height: int, *, dots: bool) -> str:
    """Runs from left to right, each as far apart; faster is lower."""
    kept = [point.log for number, point in enumerate(one.points) if dots or number not in one.fit.odd]
    low, high = min(kept), max(kept)
    logs = [min(max(point.log, low), high) for point in one.points]
    middle, span = (low + high) / 2, max(high - low, LEAST_SPAN)

    def x(number: float) -> float:
        return MARGIN + (width - 2 * MARGIN) * (number + 0.5) / len(logs)

    def y(log: float) -> float:
        return height / 2 - (log - middle) / span * (height - 2 * MARGIN)

    parts = []
    if dots:
        for number, (point, log) in enumerate(zip(one.points, logs, strict=True)):
            kind = "odd" if number in one.fit.odd else "run"
            said = _text(f"{name(point.run)}: {seconds_of(one, math.log(point.seconds))}")
            parts.append(
                f'<circle class="{kind}" cx="{x(number):.1f}" cy="{y(log):.1f}" r="3"><title>{said}</title></circle>'
            )
        for log, anchor in ((high, "hanging"), (low, "auto")):
            parts.append(
                f'<text x="{MARGIN}" y="{y(log):.1f}" dominant-baseline="{anchor}">{seconds_of(one, log)}</text>'
            )
    else:
        parts.append(f'<polyline class="run" points="{_points([(x(i), y(log)) for i, log in enumerate(logs)])}"/>')
    for level in one.fit.levels:
        ends = [(x(level.first - 0.4), y(level.value)), (x(level.last + 0.4), y(level.value))]
        parts.append(f'<polyline class="level" points="{_points(ends)}"/>')
    label = _text(f"{one.text} over {len(logs)} runs")
    return (
        f'<svg role="img" aria-label="{label}" viewBox="0 0 {width} {height}" width="{width}" height="{height}">'
        f"{''.join(parts)}</svg>"
    )


def _points(ends: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in ends)


def _text(text: str) -> str:
    return html.escape(text)

"""What a reader decides by, short enough for a comment on a pull request. Text from records stands in code spans."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from w8a8_bench.kernel import FAULTS, Status
from w8a8_bench.report import run_facts
from w8a8_bench.report.comparable_runs import ResultSet
from w8a8_bench.report.rows import CellRow
from w8a8_bench.report.scheme import Scheme
from w8a8_bench.report.summary import AS_FAST, AS_FAST_TEXT, Summary, cliffs_of, geometric_mean, summarize
from w8a8_bench.report.table import EMULATED, EMULATED_NOTE, NOTHING
from w8a8_bench.results.record import Record
from w8a8_bench.text import counted, few, format_time, markdown_table, one_line

MOST_CHARACTERS = 60_000
"""Of a whole report: GitHub takes comments of 65,536."""
MOST_CLIFFS = 10
MOST_REASONS = 20
MOST_SIZES = 12
"""Columns of a table that is read in a comment."""

Lines = list[str]


def render(sets: Sequence[ResultSet]) -> str:
    """A section for each set. The times of all cells come last, folded away, or are left out if that gets too long."""
    summaries = [summarize(one) for one in sets]
    short = [_section(one, summary) for one, summary in zip(sets, summaries, strict=True)]
    long = [[*lines, *_times(summary)] for lines, summary in zip(short, summaries, strict=True)]
    for sections in (long, [[*lines, _LEFT_OUT, ""] for lines in short]):
        text = "\n".join(line for lines in sections for line in lines)
        if len(text) <= MOST_CHARACTERS:
            return text
    cut = text[:MOST_CHARACTERS].rpartition("\n")[0]
    return f"{cut}\n\nCut off here: `--format html` shows all of it.\n"


_LEFT_OUT = "The times of all cells are left out, for length: `--format csv` and `--format html` have them."


def _section(results: ResultSet, summary: Summary) -> Lines:
    warnings = [code(text) for text in results.warnings]
    if any(EMULATED in record.flags and record.status is Status.OK for record in results.records):
        warnings.append(EMULATED_NOTE)
    lines = [f"## W8A8 GEMM report: {code(results.device_name)}", "", _where(results), ""]
    if mixed := run_facts.mixed(results):
        lines += [_plain(mixed), ""]
    lines += [line for text in warnings for line in (f"> {text}", "")]
    lines += [_verdict(summary), ""]
    lines += _speeds(summary) + _best(summary) + _costs(summary)
    lines += _accuracy(summary) + _cliffs(results, summary) + _statuses(results)
    quiet = run_facts.quiet_facts(results, summary.rows, summary.measure)
    return [*lines, *(f"- {name}: {_plain(text)}" for name, text in quiet), ""]


def _where(results: ResultSet) -> str:
    run = dict(run_facts.run_facts(results))
    software = dict(run_facts.software_facts(results.headers[0]))
    words = [f"{name} {code(software[name])}" for name in ("torch", "driver", "git revision") if name in software]
    words += [f"{name} {code(run[name])}" for name in ("timed data", "measured") if name in run]
    return ", ".join([*words, *map(code, results.files)])


def _verdict(summary: Summary) -> str:
    fit = [one for one in summary.standings if one.is_8_bit] or list(summary.standings)
    if not fit:
        return "No cell has a time."
    best, *others = fit
    mean = geometric_mean(best.every)
    kind = "8-bit kernel" if best.is_8_bit else "kernel"
    over = "bf16" if summary.has_baseline else "the fastest kernel of each shape"
    text = f"{code(best.text)} is the fastest {kind}: **{mean:.2f}x** the speed of {over}"
    text += (
        f" (geometric mean over {counted(len(best.every), 'shape')}, {min(best.every):.2f}x to {max(best.every):.2f}x)."
    )
    equal = [one for one in others if len(one.every) == len(best.every) and geometric_mean(one.every) > AS_FAST * mean]
    if equal:
        text += f" As fast {AS_FAST_TEXT}: {', '.join(code(one.text) for one in equal)}."
    return text


def _speeds(summary: Summary) -> Lines:
    if not summary.standings:
        return []
    title = "Speed-up over bf16" if summary.has_baseline else "Speed beside the fastest kernel of each shape"
    sizes = _shown_sizes(summary)
    rows = []
    for one in summary.standings:
        cells = [f"{geometric_mean(one.speeds[size]):.2f}x" if size in one.speeds else NOTHING for size in sizes]
        fewer = f" of {len(one.every)}" if len(one.every) < summary.shapes else ""
        rows.append((one.letter, code(one.text), *cells, f"**{geometric_mean(one.every):.2f}x**{fewer}"))
    shown, every = len(sizes), len(summary.sizes)
    left_out = [f"{shown} of {every} sizes are shown; `--format html` and `--format csv` have all.", ""]
    table = _table(f"{title}, by {summary.axis}", ("", "kernel", *map(str, sizes), "all"), rows, left=2)
    return [*table, *(left_out if shown < every else [])]


def _table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]], *, left: int = 1) -> Lines:
    """A table below its title, with the first `left` columns flush left; nothing if it has no rows."""
    return [f"### {title}", "", *markdown_table(header, rows, range(left)), ""] if rows else []


def _shown_sizes(summary: Summary) -> tuple[int, ...]:
    """All sizes. If they are many: the first, the last, and powers of two between them.

    If few are powers of two, every so many of those between.
    """
    sizes = summary.sizes
    if len(sizes) <= MOST_SIZES:
        return sizes
    powers = [size for size in sizes[1:-1] if size & (size - 1) == 0]
    between = powers if len(powers) >= MOST_SIZES // 2 else sizes[1:-1]
    step = -(-len(between) // (MOST_SIZES - 2))
    return (sizes[0], *between[::step], sizes[-1])


def _best(summary: Summary) -> Lines:
    if not summary.best:
        return []

    def cell(layer: int, size: int) -> str:
        best = summary.best.get((layer, size))
        if best is None:
            return NOTHING
        times = best.row.times[summary.measure or ""]
        shown = f"{times.speedup.median:.2f}x" if times.speedup else format_time(times.seconds)
        return f"{summary.letter(best.row)} {shown}".strip() + (f" +{len(best.ties)}" if best.ties else "")

    sizes = _shown_sizes(summary)
    rows = [
        (code(summary.title(layer)), *(cell(number, size) for size in sizes))
        for number, layer in enumerate(summary.layers)
    ]
    return [
        *_table(f"Best kernel by layer and {summary.axis}", ("layer", *map(str, sizes)), rows),
        f"`+1`: another may be as fast, since 95% intervals meet; of those {AS_FAST_TEXT} the one with the best "
        "mean stands.",
        "",
    ]


def _costs(summary: Summary) -> Lines:
    """What quantizing inside the timed region adds, as a share of the whole time."""
    shares: dict[str, dict[int, list[float]]] = {}
    for row, size in _placed(summary):
        times = row.times.get(summary.measure or "")
        if times and times.cost:
            shares.setdefault(row.record.text, {}).setdefault(size, []).append(times.cost.median / times.seconds)

    def cell(by_size: dict[int, list[float]], size: int) -> str:
        return f"{100 * sum(by_size[size]) / len(by_size[size]):.0f}%" if size in by_size else NOTHING

    sizes = _shown_sizes(summary)
    rows = [(code(text), *(cell(by_size, size) for size in sizes)) for text, by_size in shares.items()]
    title = f"Quantizing activations, share of the whole time by {summary.axis}"
    return _table(title, ("kernel", *map(str, sizes)), rows)


def _accuracy(summary: Summary) -> Lines:
    """Accuracy of the schemes, and the fastest kernel that runs each."""
    records = [row.record for rows in summary.rows for row in rows]
    names = list(dict.fromkeys(name for record in records for name in record.scheme_sqnr_db))
    by_scheme: dict[str, list[Record]] = {}
    for record in records:
        if record.scheme_sqnr_db:
            by_scheme.setdefault(Scheme.of(record.problem).text, []).append(record)
    rows = []
    for scheme, members in by_scheme.items():
        levels = [
            [record.scheme_sqnr_db[name] for record in members if name in record.scheme_sqnr_db] for name in names
        ]
        means = [f"{sum(one) / len(one):.1f} dB" if one else NOTHING for one in levels]
        best = next((one for one in summary.standings if Scheme.of(one.record.problem).text == scheme), None)
        rows.append((code(scheme), *means, f"{best.letter} {geometric_mean(best.every):.2f}x" if best else NOTHING))
    titles = ("scheme", *(f"mean SQNR, {name} data" for name in names), "fastest kernel")
    return _table("Accuracy of the schemes", titles, rows)


def _cliffs(results: ResultSet, summary: Summary) -> Lines:
    cliffs = sorted(cliffs_of(results, summary.measure), key=lambda cliff: cliff.ratio.median, reverse=True)
    rows = [
        (code(c.record.text), code(str(c.record.problem.shape)), str(c.padded_m), f"{c.ratio.median:.2f}x")
        for c in cliffs[:MOST_CLIFFS]
    ]
    more = [f"And {len(cliffs) - MOST_CLIFFS} more.", ""] if len(cliffs) > MOST_CLIFFS else []
    titles = ("kernel", "shape", "pad to m", "faster")
    return [*_table("Cliffs: padding to a larger m is faster", titles, rows, left=2), *more]


def _statuses(results: ResultSet) -> Lines:
    groups: dict[tuple[Status, str], list[Record]] = {}
    for record in results.records:
        if record.status is not Status.OK:
            groups.setdefault((record.status, record.reason), []).append(record)
    ordered = sorted(groups.items(), key=lambda group: (group[0][0] not in FAULTS, -len(group[1])))
    rows = [
        (status.value, code(reason), str(len(records)), few(code(record.text) for record in records))
        for (status, reason), records in ordered[:MOST_REASONS]
    ]
    more = [f"And {len(ordered) - MOST_REASONS} more reasons.", ""] if len(ordered) > MOST_REASONS else []
    titles = ("status", "reason", "cells", "kernels")
    return [*_table("What did not run, and why", titles, rows, left=2), *more]


def _times(summary: Summary) -> Lines:
    """The median of every cell and half the width of its interval, a table a layer."""
    lines = ["<details>", f"<summary>{summary.measure or 'Times'} of every cell</summary>", ""]
    for number, layer in enumerate(summary.layers):
        cells: dict[str, dict[int, str]] = {}
        for row, size in _placed(summary, number):
            times = row.times.get(summary.measure or "")
            half = f" ±{100 * times.half_width:.2f}%" if times and times.half_width is not None else ""
            shown = format_time(times.seconds) + half if times else row.record.status.value
            cells.setdefault(row.record.text, {})[size] = shown
        sizes = [size for size in summary.sizes if any(size in by_size for by_size in cells.values())]
        lines += [f"{code(summary.title(layer))}, by {layer.axis}", ""]
        for first in range(0, len(sizes), MOST_SIZES):
            part = sizes[first : first + MOST_SIZES]
            rows = [(code(text), *(by_size.get(size, NOTHING) for size in part)) for text, by_size in cells.items()]
            lines += [*markdown_table(("kernel", *map(str, part)), rows, range(1)), ""]
    return [*lines, "</details>", ""]


def _placed(summary: Summary, layer: int | None = None) -> Iterable[tuple[CellRow, int]]:
    """Rows with their size; of one layer, or of all."""
    for group, where in zip(summary.rows, summary.places, strict=True):
        if layer is None or where.layer == layer:
            yield from ((row, where.x) for row in group)


def _plain(text: str) -> str:
    """The text unchanged if it certainly has no markup, else as a code span."""
    return text if re.fullmatch(r"[\w ,;:%°().+-]+", text) and "www." not in text else code(text)


def code(text: str) -> str:
    """Text out of a file as a code span, in which nothing is markup and nobody is mentioned."""
    text = one_line(text).replace("|", "\\|")
    if not text:
        return NOTHING
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * (longest + 1)
    pad = " " if longest else ""
    return f"{fence}{pad}{text}{pad}{fence}"

"""A recommendation as Markdown or plain text for people, and as JSON for machines."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, replace

from w8a8_bench import text
from w8a8_bench.problem.kernel_name import BASELINE
from w8a8_bench.report.recommend.accuracy import UNKNOWN, AccuracyLimit
from w8a8_bench.report.recommend.choices import CandidateKernel
from w8a8_bench.report.recommend.recommend import (
    TIE,
    Book,
    EngineChoice,
    LayerChoice,
    Recommendation,
    SchemeTotals,
    Total,
)
from w8a8_bench.report.scheme import Scheme
from w8a8_bench.results.record import plain
from w8a8_bench.stats import Estimate
from w8a8_bench.timing.measures import MEANINGS

KIND = "recommendation"
VERSION = 2
"""Raised when a field of the JSON changes its meaning or goes.

2: `without_min_sqnr` became `without_limit`; `schemes` has those that are not accurate enough too.
"""

JUDGED = ("normal", "outliers")
"""The data whose SQNR is always shown, known or not."""

WIDTH = 120
"""Columns of plain text; tables may be wider."""

RULES = (
    f"ties (within {TIE:.0%} and the interval) go to the scheme with fewer scales and zero points, bf16 first; "
    "then to precise before fast accumulation",
    "± is the 95% interval by the samples of these files; cells swept twice on an H200 differed by up to 1%",
    "error is the relative Frobenius norm of the kernel's answer against float64, on the same quantized operands; "
    "what quantizing them loses is the SQNR",
)

NOTHING = "-"


@dataclass(frozen=True)
class Table:
    """The columns `left` are text, the others numbers."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    left: Sequence[int]


@dataclass(frozen=True)
class Section:
    """What stands under a heading: first `says`, a paragraph each, then the table, then the list."""

    heading: str
    says: Sequence[str] = ()
    table: Table | None = None
    points: Sequence[str] = ()


def markdown(what: Recommendation) -> str:
    """Tables that can be checked by hand: every total is a sum of the last table's times."""
    lines = []
    for depth, section in enumerate(sections(what)):
        lines += [f"{'##' if depth else '#'} {section.heading}", ""]
        for place, paragraph in enumerate(section.says):
            lines += [f"**{paragraph}**" if not depth and not place else paragraph, ""]
        if section.table:
            cells = [[cell.replace("|", "\\|") for cell in row] for row in section.table.rows]
            lines += [*text.markdown_table(section.table.header, cells, section.table.left, padded=True), ""]
        if section.points:
            lines += [*(f"- {point}" for point in section.points), ""]
    return "\n".join(lines[:-1])


def plain_text(what: Recommendation) -> str:
    """The same as `markdown` for a terminal: no marks, and narrower tables."""
    lines = []
    for depth, section in enumerate(sections(what)):
        lines += [section.heading, ("-" if depth else "=") * len(section.heading)]
        for paragraph in section.says:
            lines += [*textwrap.wrap(paragraph, WIDTH, break_long_words=False, break_on_hyphens=False)]
        if section.table:
            lines += text.aligned([section.table.header, *section.table.rows], section.table.left)
        for point in section.points:
            lines += textwrap.wrap(
                f"- {point}", WIDTH, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False
            )
        lines.append("")
    return "\n".join(lines[:-1])


def sections(what: Recommendation) -> list[Section]:
    """The answer, the first with its title as heading and the verdict first."""
    sections = [
        Section(
            f"{what.model}, TP {what.tp}, on {what.device}",
            [
                *_verdict(what),
                *([_book_text(what.book)] if what.book else []),
                f"Times are {what.measure} ({MEANINGS.get(what.measure, 'as recorded')}), activations "
                f"{what.required.activations.value}, data {what.data}"
                + (f"; from {', '.join(what.files)}." if what.book is None else "."),
                "A total is that of the GEMMs of one rank in one forward pass of m tokens, each layer's time by its "
                "count; attention, the head and everything else is not in it.",
            ],
        ),
        Section(
            "One scheme for all layers",
            [
                "Speed-up of the whole model, and what the scheme keeps: SQNR, signal to quantization noise, on normal "
                "data and with outliers, the least over layers and m."
            ],
            _schemes_table(what),
        ),
        _one_library(what),
        *([_engines(what)] if what.engines else []),
        Section(
            "The whole model",
            table=Table(
                ("m", "bf16", "best of each layer", "speed-up", "one scheme for all", "time", "speed-up"),
                [
                    (
                        str(time.m),
                        text.format_time(time.baseline.time.median),
                        text.format_time(time.mix.time.median),
                        _speedup(time.mix.speedup),
                        time.scheme.text,
                        text.format_time(time.single.time.median),
                        _speedup(time.single.speedup),
                    )
                    for time in what.times
                ],
                left=(4,),
            ),
        ),
        Section(
            "Layer by layer",
            table=Table(
                (
                    *("layer", "count", "k", "n", "m", "best kernel", "scheme", "time", "±95%", "count x time"),
                    *("bf16 time", "speed-up", "error"),
                ),
                [_layer_row(one) for one in what.layers],
                left=(0, 5, 6),
            ),
        ),
        Section("Notes", points=(*RULES, *what.notes)),
    ]
    return [_in_lines(section) for section in sections]


def _in_lines(section: Section) -> Section:
    """Names come from files and may hold anything: each text is made one line."""
    table = section.table and replace(
        section.table, rows=[[text.one_line(cell) for cell in row] for row in section.table.rows]
    )
    return Section(
        text.one_line(section.heading),
        [text.one_line(one) for one in section.says],
        table,
        [text.one_line(one) for one in section.points],
    )


def to_json(what: Recommendation) -> dict[str, object]:
    """The same in plain objects: seconds, ratios, dB."""
    partial = what.partial and {
        "scheme": what.partial.scheme.text,
        "m": list(what.partial.by_m),
        **_speedup_json(what.partial.overall),
    }
    return {
        "kind": KIND,
        "version": VERSION,
        "model": what.model,
        "tp": what.tp,
        "device": what.device,
        "data": what.data,
        "measure": what.measure,
        "activations": what.required.activations.value,
        "min_sqnr_db": what.required.min_sqnr_db,
        "sqnr_data": what.required.sqnr_data,
        "baseline": BASELINE,
        "files": list(what.files),
        "book": what.book
        and {"device": what.book.device, "days": list(what.book.days), "versions": dict(what.book.versions)},
        "providers": list(what.required.providers) or None,
        "best_of_all_providers": what.best_of_all
        and {
            "scheme": what.best_of_all[0].scheme.text,
            "providers": what.best_of_all[0].providers,
            **_speedup_json(what.best_of_all[0].overall),
            "times_faster": what.best_of_all[1].median,
        },
        "not_considered": list(what.not_considered),
        "left_out": dict(what.dropped),
        "deploy": {
            "scheme": what.deploy.scheme.text,
            "providers": what.deploy.providers,
            **_speedup_json(what.deploy.overall),
        },
        "mix_of_m": [{"m": m, "weight": weight} for m, weight in what.required.mix.items()]
        if what.required.mix
        else None,
        "one_scheme_and_provider": {
            **_pair_json(what.one_library.deploy),
            **_speedup_json(what.one_library.deploy.overall),
            "time_ratio_to_best_of_each_m": what.one_library.ratio.median,
            "by_m": [
                {"m": at.m, "best": _pair_json(at.best), "time_ratio_to_best": at.ratio.median}
                for at in what.one_library.by_m
            ],
        },
        "engines": [_engine_json(one, what) for one in what.engines] or None,
        "incomplete_but_faster": partial,
        "accuracy": {"least_sqnr_db": what.limit.least_db, "data": what.limit.data, "said": what.limit.said},
        "without_limit": what.unlimited.scheme.text if what.unlimited else None,
        "whole_model": [
            {
                "m": time.m,
                "baseline": _total_json(time.baseline),
                "best_of_each_layer": _total_json(time.mix),
                "one_scheme": {"scheme": time.scheme.text, **_total_json(time.single)},
            }
            for time in what.times
        ],
        "schemes": [_scheme_json(row, what) for row in what.schemes],
        "schemes_of_all_providers": [_scheme_json(row, what) for row in what.of_all] or None,
        "layers": [
            {
                "layer": one.layer.name,
                "count": one.layer.count,
                "k": one.layer.k,
                "n": one.layer.n,
                "m": one.m,
                "best": _choice_json(one.best),
                "baseline": _choice_json(one.baseline),
            }
            for one in what.layers
        ],
        "notes": list(what.notes),
    }


def verdict(what: Recommendation) -> str:
    """What to deploy, in one line of plain text."""
    return text.one_line(_verdict(what)[0])


def _verdict(what: Recommendation) -> list[str]:
    """What to deploy; if that can't be said for want of times, so."""
    deploy, partial = what.deploy, what.partial
    limit = "" if what.limit.least_db is None else " that is accurate enough"
    if deploy.scheme.scaling is not None:
        first = (
            f"One scheme for all layers and every m: {deploy.scheme.text}, {_speedup(deploy.overall)} over "
            f"{BASELINE} ({_mean_of(what)})."
        )
    elif partial:
        first = f"Undecided: no scheme{limit} beats {deploy.scheme.text} and has a time at every m."
    else:
        first = f"No scheme{limit} beats {deploy.scheme.text} over all m by more than {TIE:.0%}: keep it."
    lines = [first]
    if deploy.scheme.also_called:
        sqnr = ", ".join(f"{_sqnr(deploy, data)} ({data})" for data in JUDGED)
        lines.append(
            f"Others call this scheme: {deploy.scheme.also_called}. Its SQNR: {sqnr}. It runs with the best kernel of "
            f"each layer and m, from {', '.join(deploy.providers)}."
        )
    if what.best_of_all:
        best, faster = what.best_of_all
        lines.append(
            f"Only kernels of {', '.join(what.required.providers)} are chosen from (--providers). The best of all "
            f"kernels in the records is {best.scheme.text}, {_speedup(best.overall)}, from "
            f"{', '.join(best.providers)}; that is "
            f"{faster.median:.2f}x as fast."
        )
    lines.append(_one_library_text(what))
    lines += [_engine_text(one) for one in what.engines]
    if partial:
        lacks = [str(time.m) for time in what.times if time.m not in partial.by_m]
        lines.append(
            f"{partial.scheme.text} is faster where it has a time: {_speedup(partial.overall)} over bf16 "
            f"at m={', '.join(map(str, partial.by_m))}. It lacks m={', '.join(lacks)}; the notes say what."
        )
    lines += _accuracy(what)
    if what.not_considered:
        lines.append(f"Not considered, since the records lack them: {'; '.join(what.not_considered)}.")
    if what.dropped:
        dropped = ", ".join(f"{reason} ({text.counted(cells, 'cell')})" for reason, cells in what.dropped.items())
        lines.append(f"Left out of the choice: {dropped}. The notes name the kernels.")
    return lines


def _book_text(book: Book) -> str:
    first, last = book.days
    days = f"on {first}" if first == last else f"from {first} to {last}"
    versions = ", ".join(f"{name} {version}" for name, version in book.versions.items())
    return (
        f"No results were named, so these are the records that come with w8a8-bench: measured on {book.device} {days}, "
        f"with {versions}. Other versions and GPUs may differ."
    )


def _mean_of(what: Recommendation) -> str:
    if what.required.mix is None:
        return "geometric mean over m"
    total = sum(what.required.mix.values())
    shares = (f"{share / total:.3g} of m={m}" for m, share in sorted(what.required.mix.items()))
    return f"the whole time of forward passes, {', '.join(shares)}"


def _pair(row: SchemeTotals) -> str:
    return f"{row.scheme.text} from {', '.join(row.providers)}"


def _one_library_text(what: Recommendation) -> str:
    """The one library and scheme for everything, where another is better, and what it costs not to change."""
    one = what.one_library
    said = f"One scheme and one library for all: {_pair(one.deploy)}, {_speedup(one.deploy.overall)}."
    changes = [
        f"from m={at.m} {_pair(at.best)}"
        for at, before in zip(one.by_m, [None, *one.by_m], strict=False)
        if (at.best is not before.best if before else at.best is not one.deploy)
    ]
    if not changes:
        return f"{said} Nothing is faster at any m by more than {TIE:.0%}."
    return f"{said} The best changes: {', '.join(changes)}. Keeping one costs {one.ratio.median - 1:.1%} more time."


def _one_library(what: Recommendation) -> Section:
    one, mix = what.one_library, what.required.mix
    return Section(
        "One scheme and one library for all",
        [
            f"At each m the best scheme with kernels of one library in all layers, and how much more time "
            f"{_pair(one.deploy)} takes, the best for all m. Up to {TIE:.0%} more counts as equal."
        ],
        Table(
            ("m", *(["weight"] if mix else []), "best", "from", "time", f"{one.deploy.scheme.text}", "more"),
            [
                (
                    str(at.m),
                    *([f"{mix[at.m]:g}"] if mix else []),
                    at.best.scheme.text,
                    ", ".join(at.best.providers),
                    text.format_time(at.best.by_m[at.m].time.median),
                    text.format_time(one.deploy.by_m[at.m].time.median),
                    NOTHING if at.best is one.deploy else f"{at.ratio.median - 1:.1%}",
                )
                for at in one.by_m
            ],
            left=(2, 3) if mix else (1, 2),
        ),
    )


def _engine_text(one: EngineChoice) -> str:
    """What to run in an engine and how; in the release that was looked at."""
    if one.deploy is None:
        return f"In {one.engine}: the choice has no kernel that it runs with a time at every m."
    way = one.way
    if way is None:
        return f"In {one.engine}: {one.deploy.scheme.text}; nothing that it runs is faster."
    how = f"start it with {way.option}" if way.option else way.text
    remark = f" ({way.remark})" if way.remark else ""
    return f"In {one.engine}: {_pair(one.deploy)}, {_speedup(one.deploy.overall)}; {how}{remark}."


def _named_pairs(what: Recommendation) -> list[tuple[Scheme, str]]:
    """Every scheme and library that the answer names, once."""
    rows = [
        *(one.deploy for one in what.engines if one.deploy),
        what.deploy,
        what.one_library.deploy,
        *(at.best for at in what.one_library.by_m),
    ]
    return list(dict.fromkeys((row.scheme, name) for row in rows if row.scheme.scaling for name in row.providers))


def _engines(what: Recommendation) -> Section:
    """How each engine is told to run what the answer names."""
    ways = [
        (one.engine, scheme, one.engine.way(scheme, provider))
        for one in what.engines
        for scheme, provider in _named_pairs(what)
    ]
    rows = [[str(engine), scheme.text, way.provider, way.text, way.remark or NOTHING] for engine, scheme, way in ways]
    return Section(
        f"Options of {' and '.join(one.engine.name for one in what.engines)}",
        [
            "What to start an engine with, to have it run the schemes and libraries that are named above. This was "
            "read in the sources of these releases; in others, look it up."
        ],
        Table(("engine", "scheme", "kernels of", "option", "remark"), rows, left=tuple(range(5))) if rows else None,
    )


def _accuracy(what: Recommendation) -> list[str]:
    """What accuracy was asked for, what it cost, and how to ask for another."""
    parts = [what.limit.said]
    if too_low := [f"{row.scheme.text} ({row.too_low})" for row in what.schemes if row.too_low]:
        parts.append(f"Not recommended for that: {', '.join(too_low)}.")
    elif what.limit.least_db is not None:
        parts.append("Every scheme in the records keeps that.")
    if what.unlimited:
        parts.append(f"Without the limit it would be {what.unlimited.scheme.text}, {_speedup(what.unlimited.overall)}.")
    if what.limit.least_db is not None and what.required.min_sqnr_db is None:
        parts.append("--any-accuracy lifts the limit, --min-sqnr DB sets another.")
    return [" ".join(parts)]


def _schemes_table(what: Recommendation) -> Table:
    sizes = [time.m for time in what.times]
    data = [*JUDGED, *sorted({name for row in what.schemes for name in row.sqnr_db} - set(JUDGED))]
    header = (
        *(
            "scheme",
            "also called",
            "all m" if what.required.mix is None else "the mix of m",
            *(["of all libraries"] if what.of_all else []),
            *(f"SQNR, {name}" for name in data),
            "accurate",
        ),
        *(f"m={m}" for m in sizes),
    )
    by_scheme = {row.scheme: row for row in what.schemes}
    rows_of_all = [(by_scheme.get(one.scheme, replace(one, by_m={}, overall=None)), one) for one in what.of_all]
    rows_of_all = rows_of_all or [(row, row) for row in what.schemes]
    rows = [
        [
            row.scheme.text,
            row.scheme.also_called or NOTHING,
            _speedup(row.overall),
            *([_speedup(of_all.overall)] if what.of_all else []),
            *(_sqnr(row, name) for name in data),
            _is_accurate(row, what.limit),
            *(f"{row.by_m[m].speedup.median:.2f}x" if m in row.by_m else NOTHING for m in sizes),
        ]
        for row, of_all in rows_of_all
    ]
    return Table(header, rows, left=(0, 1))


def _is_accurate(row: SchemeTotals, limit: AccuracyLimit) -> str:
    if row.scheme.scaling is None or limit.least_db is None:
        return NOTHING
    return "enough" if row.too_low is None else "unknown" if row.too_low == UNKNOWN else "too little"


def _sqnr(row: SchemeTotals, data: str) -> str:
    if row.scheme.scaling is None:
        return NOTHING
    return f"{row.sqnr_db[data]:.1f} dB" if data in row.sqnr_db else UNKNOWN


def _layer_row(one: LayerChoice) -> list[str]:
    layer, best, error = one.layer, one.best, one.best.record.error
    return [
        layer.name,
        NOTHING if layer.count is None else str(layer.count),
        str(layer.k),
        str(layer.n),
        str(one.m),
        best.record.kernel,
        best.scheme.text,
        text.format_time(best.time.median),
        _half_width(best.time),
        NOTHING if layer.count is None else text.format_time(layer.count * best.time.median),
        text.format_time(one.baseline.time.median),
        f"{best.speedup.median:.2f}x",
        f"{error['relative']:.1e}" if error else NOTHING,
    ]


def _speedup(ratio: Estimate | None) -> str:
    if ratio is None:
        return NOTHING
    return f"{ratio.median:.2f}x {_half_width(ratio)}".rstrip()


def _half_width(value: Estimate) -> str:
    """Half of the interval over the estimate; nothing if there is none, or it is a ratio to itself."""
    if value.interval is None or value.interval == (1.0, 1.0):
        return ""
    low, high = value.interval
    return f"±{100 * (high - low) / 2 / value.median:.2f}%"


def _pair_json(row: SchemeTotals) -> dict[str, object]:
    return {"scheme": row.scheme.text, "providers": row.providers}


def _engine_json(one: EngineChoice, what: Recommendation) -> dict[str, object]:
    ways = [(scheme, one.engine.way(scheme, provider)) for scheme, provider in _named_pairs(what)]
    return {
        "engine": one.engine.name,
        "version": one.engine.version,
        "deploy": one.deploy
        and {
            **_pair_json(one.deploy),
            **_speedup_json(one.deploy.overall),
            "option": one.way.option or None if one.way else None,
        },
        "options": [
            {
                "scheme": scheme.text,
                "provider": way.provider,
                "runs": way.runs,
                "every_m": way.every_m,
                "option": way.option or None,
                "remark": way.remark,
            }
            for scheme, way in ways
        ],
    }


def _total_json(total: Total) -> dict[str, object]:
    return {
        **_time_json(total.time),
        **_speedup_json(total.speedup),
        "kernels": {
            layer.name: {"kernel": choice.record.kernel, "scheme": choice.scheme.text}
            for layer, choice in total.choices.items()
        },
    }


def _scheme_json(row: SchemeTotals, what: Recommendation) -> dict[str, object]:
    scheme = row.scheme
    return {
        "scheme": scheme.text,
        "also_called": scheme.also_called,
        "format": scheme.format.value,
        "scaling": scheme.scaling.name if scheme.scaling else None,
        "azp": scheme.azp.value,
        "sqnr_db": dict(row.sqnr_db),
        "accurate": None if what.limit.least_db is None else row.too_low is None,
        **_speedup_json(row.overall),
        "by_m": [{"m": m, **_total_json(total)} for m, total in row.by_m.items()],
    }


def _choice_json(choice: CandidateKernel) -> dict[str, object]:
    record = choice.record
    return {
        "kernel": record.kernel,
        "provider": record.provider,
        "scheme": choice.scheme.text,
        "config": plain(record.config),
        **_time_json(choice.time),
        **_speedup_json(choice.speedup),
        "error": plain(record.error),
        "sqnr_db": dict(record.scheme_sqnr_db),
        "flags": list(record.flags),
    }


def _time_json(time: Estimate) -> dict[str, object]:
    return {"time_s": time.median, "time_interval_s": _ends(time)}


def _speedup_json(speedup: Estimate | None) -> dict[str, object]:
    return {"speedup": speedup.median if speedup else None, "speedup_interval": _ends(speedup)}


def _ends(value: Estimate | None) -> list[float] | None:
    return list(value.interval) if value and value.interval else None

"""One HTML file that needs nothing else: the page of `page/`, and every number that it shows, as JSON inside it.

The page works out no number that a record decides: it selects, sorts, draws and averages what is worked out here.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
from collections.abc import Iterable, Sequence
from decimal import ROUND_05UP, Context
from importlib import resources

import w8a8_bench
from w8a8_bench.environment.architecture import operations_per_clock
from w8a8_bench.kernel import FAULTS, Status
from w8a8_bench.problem import Activations, work
from w8a8_bench.problem.formats import Format
from w8a8_bench.problem.kernel_name import BASELINE
from w8a8_bench.report import run_facts
from w8a8_bench.report.cliffs import REPEATABILITY
from w8a8_bench.report.comparable_runs import ResultSet
from w8a8_bench.report.curves import place
from w8a8_bench.report.rows import NUMBERS, PARTS, CellRow, make_rows, measures_of
from w8a8_bench.report.scheme import Scheme
from w8a8_bench.report.summary import AS_FAST, cliffs_of, is_8_bit, is_16_bit, kernel_key
from w8a8_bench.report.table import EMULATED, EMULATED_NOTE
from w8a8_bench.results.record import Record
from w8a8_bench.timing.measures import MEANINGS, part

Json = dict[str, object]

STYLES = ("page.css", "print.css")
SCRIPTS = ("format.js", "data.js", "draw.js", "plots.js", "tables.js", "sections.js", "page.js")
"""In the order in which they are run."""

SHOWN = Context(prec=6, rounding=ROUND_05UP)
"""Six significant digits. Rounded again to fewer, they give what the number itself would give, because ROUND_05UP
never leaves a last digit of 0 or 5 if it cut digits off. All digits of all numbers would make a page half as large
again."""

AVERAGED = Context(prec=9, rounding=ROUND_05UP)
"""For the columns that the page forms means of."""
AVERAGED_COLUMNS = ("seconds", "speedup", "percent_of_peak", "percent_of_reads", "quantization_cost_seconds")


def render(sets: Sequence[ResultSet]) -> str:
    """A page of `sets`, which shows one of them at a time."""
    data: Json = {
        "version": w8a8_bench.__version__,
        "thresholds": {"as_fast": AS_FAST, "repeatability": REPEATABILITY},
        "sets": [set_data(one) for one in sets],
    }
    style = "\n".join(map(_page_file, STYLES))
    script = "\n".join(map(_page_file, SCRIPTS))
    parts = {
        "policy": f"default-src 'none'; style-src {_digest(style)}; script-src {_digest(script)}; img-src data:",
        "style": style,
        "data": embedded(data),
        "script": script,
    }
    # In one go, so that what is put in is not looked at again.
    return re.sub("@@(policy|style|data|script)@@", lambda mark: parts[mark[1]], _page_file("page.html"))


def embedded(data: object) -> str:
    """JSON that can stand in a <script> element, whatever text is in it: no `<`, nothing that ends a line."""
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _page_file(name: str) -> str:
    return (resources.files(__package__) / "page" / name).read_text(encoding="utf-8").rstrip("\n")


def _digest(text: str) -> str:
    """What a content security policy calls an element of exactly this text."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def set_data(results: ResultSet) -> Json:
    """One set as columns, texts that recur as indices. Times in seconds, clocks in MHz, unknown numbers null."""
    rows_by_comparison = make_rows(results)
    rows = [row for group in rows_by_comparison for row in group]
    records = [row.record for row in rows]
    measures = measures_of(records)
    headline = measures[0] if measures else None
    index = {id(record): number for number, record in enumerate(records)}
    cliffs = cliffs_of(results, headline)
    device = results.device
    emulated = any(EMULATED in record.flags and record.status is Status.OK for record in records)
    roofs = []
    if device and device.capability and device.sm_count and device.max_sm_clock_mhz:
        for format_ in Format:
            per_clock = operations_per_clock(device.capability, format_)
            if per_clock and any(record.problem.format is format_ for record in records):
                peak = per_clock * device.sm_count * device.max_sm_clock_mhz * 1e6 / 1e12
                roofs.append({"format": format_.value, "tflops": _short(peak)})
    return {
        "label": results.label,
        "files": list(results.files),
        "mixed": run_facts.mixed(results),
        "warnings": [*results.warnings, *([EMULATED_NOTE] if emulated else [])],
        "device": results.device_name,
        "facts": [
            {"title": "Device", "facts": run_facts.device_facts(results)},
            {"title": "Software", "facts": run_facts.software_facts(results.headers[0])},
            {"title": "Run", "facts": run_facts.run_facts(results)},
            {"title": "Clocks and noise", "facts": run_facts.quiet_facts(results, rows_by_comparison, headline)},
        ],
        "measures": [{"name": name, "meaning": MEANINGS[name]} for name in measures],
        "faults": [status.value for status in FAULTS],
        "roofs": roofs,
        "bandwidth": _short(device.memory_bandwidth / 1e12) if device and device.memory_bandwidth else None,
        "comparisons": _comparisons(results, headline),
        **_cells(rows, [len(group) for group in rows_by_comparison]),
        "times": _times(rows, measures),
        "cliffs": {
            "row": [index[id(cliff.record)] for cliff in cliffs],
            "padded": [index[id(cliff.padded)] for cliff in cliffs],
            "ratio": [_short(cliff.ratio.median) for cliff in cliffs],
            "low": [_short(cliff.ratio.interval[0] if cliff.ratio.interval else None) for cliff in cliffs],
            "high": [_short(cliff.ratio.interval[1] if cliff.ratio.interval else None) for cliff in cliffs],
        },
    }


def _comparisons(results: ResultSet, measure: str | None) -> Json:
    ends = [comparison.end for comparison in results.comparisons]
    layers, places = place(ends)
    noise = run_facts.noise_floors(results, measure)
    return {
        "layers": [vars(layer) for layer in layers],
        "layer": [one.layer for one in places],
        "x": [one.x for one in places],
        **{size: [getattr(end.shape, size) for end in ends] for size in ("m", "n", "k")},
        "blocks": [end.blocks for end in ends],
        "noise": [_short(ratio.median if ratio else None) for ratio in noise],
        "noise_low": [_short(ratio.interval[0] if ratio and ratio.interval else None) for ratio in noise],
        "noise_high": [_short(ratio.interval[1] if ratio and ratio.interval else None) for ratio in noise],
    }


def _cells(rows: Sequence[CellRow], sizes: Iterable[int]) -> Json:
    """What is known of every cell but its times."""
    records = [row.record for row in rows]
    reasons, reason_texts = _indexed(record.reason for record in records)
    flags, flag_texts = _indexed(", ".join(record.flags) for record in records)
    configs, config_texts = _indexed(
        ", ".join(f"{name}={json.dumps(value)}" for name, value in record.config.items()) for record in records
    )
    kernels = {kernel_key(record): record for record in reversed(records)}
    numbers = {key: number for number, key in enumerate(dict.fromkeys(map(kernel_key, records)))}
    data_names = dict.fromkeys(name for record in records for name in record.scheme_sqnr_db)
    return {
        "kernels": [_kernel(kernels[key]) for key in numbers],
        "statuses": [status.value for status in Status],
        "rows": {
            "comparison": [number for number, size in enumerate(sizes) for _ in range(size)],
            "kernel": [numbers[kernel_key(record)] for record in records],
            "status": [list(Status).index(record.status) for record in records],
            "reason": reasons,
            "flags": flags,
            "config": configs,
            "error": [_short(record.error["relative"] if record.error else None) for record in records],
            "intensity": [_short(work.flops(r.problem) / work.bytes_moved(r.problem)) for r in records],
        },
        "sqnr": {name: [_short(record.scheme_sqnr_db.get(name)) for record in records] for name in data_names},
        "reasons": reason_texts,
        "flags": flag_texts,
        "configs": config_texts,
    }


def _kernel(record: Record) -> Json:
    problem = record.problem
    return {
        "text": record.text,
        "provider": record.provider,
        "format": problem.format.value,
        "scheme": Scheme.of(problem).text.partition(" ")[2] or "none",
        "activations": problem.activations.value,
        "role": "baseline" if record.kernel == BASELINE else "16 bits" if is_16_bit(record.kernel) else "",
        "eight_bits": is_8_bit(record),
        "dynamic": problem.activations is not Activations.PREQUANTIZED,
    }


def _times(rows: Sequence[CellRow], measures: Iterable[str]) -> Json:
    """Measure to columns, parallel to the rows. Columns without a number are left out."""
    data: Json = {}
    for measure in measures:
        wanted = [(measure, NUMBERS), *((part(measure, which), {"seconds": NUMBERS["seconds"]}) for which in PARTS)]
        for name, columns in wanted:
            taken = [row.times.get(name) for row in rows]
            known = {}
            for column, read in columns.items():
                digits = AVERAGED if column in AVERAGED_COLUMNS else SHOWN
                values = [_short(read(times), digits) if times else None for times in taken]
                if any(one is not None for one in values):
                    known[column] = values
            if known:
                data[name] = known
    return data


def _short(value: float | None, digits: Context = SHOWN) -> float | str | None:
    """Infinity and NaN, of which an answer's error may be, as text."""
    if value is None or isinstance(value, int):
        return value
    if not math.isfinite(value):
        return str(value)
    return float(digits.create_decimal_from_float(value))


def _indexed(texts: Iterable[str]) -> tuple[list[int], list[str]]:
    """Texts as indices into those that differ, in the order of their first use."""
    numbers: dict[str, int] = {}
    return [numbers.setdefault(text, len(numbers)) for text in texts], list(numbers)

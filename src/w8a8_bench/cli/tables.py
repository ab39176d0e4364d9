"""What a sweep prints: a table after each comparison, the original's tables, what failed, and where the time went."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence

from w8a8_bench.bench.compile_ahead import Compiled
from w8a8_bench.bench.device_workers import Finished
from w8a8_bench.cli.sweep_request import QUICK, Plan
from w8a8_bench.environment.device import Device
from w8a8_bench.kernel import FAULTS, Status
from w8a8_bench.problem import SCHEMES, Activations
from w8a8_bench.problem.comparison import is_grid
from w8a8_bench.problem.formats import Format, dtype_text
from w8a8_bench.report.table import View, render, render_schemes
from w8a8_bench.results.record import ComparisonEnd, Record
from w8a8_bench.text import counted, one_line

COMPILING_AHEAD = "compiling_ahead"
"""Among the seconds of a sweep's first comparison: those in which kernels were compiled for all of them."""

PHASES = ("preparing", "checking", "timing", "resting")
"""Of a comparison, as its record names them."""


def print_comparison(result: Finished, plan: Plan, device: Device, view: View, compare_table: bool) -> None:
    records, grid = result.records, is_grid(result.records)
    if compare_table and not grid:  # it takes a column a cell: at the end, one table a scheme
        _print_compare_table(records, plan.formats)
    if grid and plan.command == QUICK:
        print(render_schemes(records, view, [result.end]))
    else:
        print(render(records, [result.end], device, view))
        if grid:
            print(f"\n{render_schemes(records, view)}")
    print(flush=True)


def print_compare_tables(records: Sequence[Record], plan: Plan) -> None:
    """The original's final tables."""
    for title, of in _groups(records, plan).items():
        print(f"== {title} ====")
        _print_compare_table(of, plan.formats)


def print_faults(records: Sequence[Record]) -> None:
    """On standard error: every cell that is broken, and how many were skipped for which reason."""
    for record in (record for record in records if record.status in FAULTS):
        line = f"{record.status.value}: {record.text} at {record.problem.shape}: {record.reason}"
        print(one_line(line), file=sys.stderr)
    skipped = Counter(record.reason for record in records if record.status is Status.SKIPPED)
    for reason, number in skipped.items():
        many = "1 cell was" if number == 1 else f"{number} cells were"
        print(f"{many} skipped: {one_line(reason)}", file=sys.stderr)


def costs(took: float, devices: int, ends: Sequence[ComparisonEnd], builds: Compiled) -> str:
    """Where the `took` seconds of a sweep went, of all its devices together, and the most device memory of one."""
    whole = took * devices
    phases = {name: sum(end.seconds.get(name, 0.0) for end in ends) for name in PHASES}
    phases["preparing"] += builds.seconds * devices
    phases["other"] = whole - sum(phases.values())
    parts = [f"{name} {seconds:.1f} s" for name, seconds in phases.items()]
    if builds.compiled or builds.cached:
        parts[0] += f" ({counted(builds.compiled, 'kernel')} compiled, {builds.cached} cached)"
    memory = max((end.memory_bytes or 0 for end in ends), default=0)
    held = f"; device memory {memory / 2**30:.1f} GiB at most" if memory else ""
    on = f" on {devices} devices" if devices > 1 else ""
    return f"took {took:.1f} s{on}: {', '.join(parts)}{held}"


def _print_compare_table(records: Sequence[Record], formats: Sequence[Format]) -> None:
    from w8a8_bench import compat

    print(compat.compare_table(compat.measurements(records, formats)))


def _groups(all_records: Sequence[Record], plan: Plan) -> dict[str, list[Record]]:
    """The final tables, titled as the original's: one a model and TP size, or one of everything.

    Of a grid one a scheme and kind of activations, each with the baselines; of one shape there is nothing to add.
    """
    groups: dict[str, list[Record]] = {}
    dtypes = dtype_text(plan.formats)
    for record in all_records:
        title = f"All Results {plan.command}-{dtypes}"
        if plan.command == "model_bench":
            title = f"Results {dtypes} {record.labels['model']}-TP{record.labels['tp']}"
        groups.setdefault(title, []).append(record)
    if not is_grid(all_records):
        return groups
    if len(plan.comparisons) == 1:
        return {}
    return {f"{title}, {part}": of for title, records in groups.items() for part, of in _by_scheme(records).items()}


def _by_scheme(records: Sequence[Record]) -> dict[str, list[Record]]:
    """The records of each scheme and kind of activations that has a time, with the baselines before them."""
    baselines = [record for record in records if record.problem.scaling is None]
    parts: dict[str, list[Record]] = {}
    for scheme in SCHEMES:
        for kind in Activations:
            of = [r for r in records if (r.problem.scaling, r.problem.activations) == (scheme, kind)]
            if any(record.status is Status.OK for record in of):
                parts[f"{scheme}, {kind.value}"] = [*baselines, *of]
    return parts

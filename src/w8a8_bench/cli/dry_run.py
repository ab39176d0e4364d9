"""`--dry-run`: what a sweep would measure and about how long that takes. Needs no torch."""

from __future__ import annotations

from w8a8_bench.bench.estimate import START_S, Pace, duration
from w8a8_bench.cli.errors import EXIT_COMPLETE, UsageError
from w8a8_bench.cli.files import files_of
from w8a8_bench.cli.sweep_request import ALL, SweepRequest
from w8a8_bench.environment.detect import likely_gpus
from w8a8_bench.text import counted, one_line

MOST_LISTED = 12
"""Shapes that are listed."""


def run(request: SweepRequest) -> int:
    """Say what would be done. What the command itself refuses before it measures is refused here too."""
    records = files_of(request).records
    if records.exists() and not request.resume:
        raise UsageError(f"{records} exists: add --resume to go on with it, or name another")
    if not records.parent.is_dir():
        raise UsageError(f"--out {records} can't be written: there is no directory {records.parent}; create it first")
    plan = request.plan_on(cuda=request.cuda)
    cells = [cell for comparison in plan.comparisons for cell in comparison.cells]
    devices = max(1, likely_gpus()) if request.devices == (ALL,) else len(request.devices)
    on = f"{devices} GPUs" if devices > 1 else "a GPU" if request.cuda else "the CPU"
    shapes = [comparison.where.title for comparison in plan.comparisons]
    took_s = START_S + Pace(plan.comparisons, plan.settings, cuda=request.cuda, devices=devices).whole_s
    compiling = "; kernels that were never compiled here add up to a minute" if request.cuda else ""
    shard = f", shard {plan.shard} of {counted(len(plan.whole), 'shape')}" if plan.shard else ""
    print(
        f"{plan.command} on {on}: {counted(len(shapes), 'shape')}, {counted(len(cells), 'cell')}, rigor {plan.rigor}"
        f"{shard}",
        *(f"  {one_line(title)}" for title in shapes[:MOST_LISTED]),
        *([f"  and {len(shapes) - MOST_LISTED} more shapes"] if len(shapes) > MOST_LISTED else []),
        "kernels, those that can't run here among them (`doctor` names these):",
        *(f"  {text}" for text in dict.fromkeys(cell.text for cell in cells)),
        f"estimate: about {duration(took_s)}{compiling}",
        "nothing was measured, since --dry-run was given",
        sep="\n",
    )
    return EXIT_COMPLETE

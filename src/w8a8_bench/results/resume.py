"""What `--resume` may go on with, and what changed since the file was last written.

A file that is gone on with must be of the same cells, data and device: its shapes are read side by side.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence

from w8a8_bench.kernel import Probe
from w8a8_bench.problem import Problem
from w8a8_bench.problem.comparison import Comparison
from w8a8_bench.results.json_lines import StoreError, Writer
from w8a8_bench.results.record import RunHeader, flat
from w8a8_bench.text import one_line


def refuse_another_plan(
    writer: Writer, plan: Mapping[str, object], comparisons: Iterable[Comparison], device: str | None = None
) -> None:
    """Raise StoreError if the file was begun with another plan, or holds records that this one does not write.

    Without the name of a `device`, all but the device and the measures, which depend on it, is compared.
    """
    if not writer.headers:
        return
    first = writer.headers[0]
    before, now = {**first.plan, "device": first.device.get("name")}, {**plan, "device": device}
    if device is None:
        del now["measures"], now["device"]
    for name, value in now.items():
        if before.get(name) != value:
            what = f"its {name} is {before.get(name)!r} and here it is {value!r}"
            if name in ("cells", "comparisons"):
                what = (
                    f"it was begun with other shapes, kernels, schemes or activations, as {shlex.join(first.command)}"
                )
            raise StoreError(f"{writer.path} belongs to another sweep: {one_line(what)}; name another --out")
    cells: dict[int, list[tuple[str, Problem]]] = {}
    for record in writer.records:
        cells.setdefault(record.comparison, []).append((record.kernel, record.problem))
    planned = {c.index: [(cell.kernel, cell.problem) for cell in c.cells] for c in comparisons}
    for index in writer.done:
        if writer.done.count(index) > 1 or cells.get(index) != planned.get(index):
            raise StoreError(
                f"{writer.path} holds records of comparison {index} that this sweep did not write: name another --out"
            )


def refuse_lost_providers(writer: Writer, probes: Mapping[str, Probe]) -> None:
    """Raise StoreError if a provider was there and is not: its cells would be done without ever being measured."""
    before = writer.headers[-1].facts if writer.headers else {}
    for name, probe in probes.items():
        was = before.get(f"providers.{name}")
        if not probe and was is not None and was != str(probe):
            raise StoreError(
                f"{name} can't be used any more, and {writer.path} is not done with its kernels: {probe} "
                f"(it was {was}); mend that, or name another --out"
            )


def changes_since(headers: Sequence[RunHeader], environment: Mapping[str, object]) -> list[str]:
    """What changed since the file was last written, fact by fact: versions, sources, driver, machine."""
    if not headers:
        return []
    before, now = headers[-1].facts, flat(environment)
    return [
        f"{name} was {before.get(name, 'not recorded')} and is {now.get(name, 'not known')}"
        for name in {**before, **now}
        if before.get(name) != now.get(name)
    ]

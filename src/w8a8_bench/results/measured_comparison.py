"""A comparison as it was measured: what `report`, `compare` and `recommend` are made from."""

from __future__ import annotations

import functools
from dataclasses import dataclass

from w8a8_bench.results.record import ComparisonEnd, Labels, Record, RunHeader

CellKey = tuple[object, ...]
"""What makes two cells the same one: labels, kernel and problem."""


@dataclass(frozen=True)
class MeasuredComparison:
    """The records of a comparison, the line that closed it, and the header of the run that measured it."""

    records: tuple[Record, ...]
    end: ComparisonEnd
    run: RunHeader

    @property
    def uuid(self) -> str:
        """The UUID of its GPU, or `cpu`; empty if the file has neither."""
        named = (record.device for record in self.records if record.device)
        return next(named, "") or str(self.run.device.get("uuid") or "")

    @property
    def card(self) -> str:
        """The device that took it: its UUID, or its kind if it has none."""
        return self.uuid or str(self.run.device.get("kind"))


def cell_key(record: Record) -> CellKey:
    return labels_key(record.labels), record.kernel, record.problem


def labels_key(labels: Labels, names: frozenset[str] | None = None) -> tuple[tuple[str, str], ...]:
    """Labels in an order of their own, with values as text: files from CSV have text, others have numbers. With
    `names`, those of these names alone."""
    return _sorted(tuple(labels.items()), names)


@functools.lru_cache(maxsize=4096)
def _sorted(labels: tuple[tuple[str, str | int], ...], names: frozenset[str] | None) -> tuple[tuple[str, str], ...]:
    return tuple(sorted((name, str(value)) for name, value in labels if names is None or name in names))

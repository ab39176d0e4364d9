"""The cells of two results files, put together: which are in both, which in one, and what they were timed beside."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from w8a8_bench.problem.comparison import LabelledShape
from w8a8_bench.results.json_lines import Results
from w8a8_bench.results.record import ComparisonEnd, Record

Key = tuple[object, ...]
"""Of a cell: labels, kernel, problem, and which of several such it is."""


@dataclass(frozen=True)
class Measured:
    """One comparison of a file: its records by cell, and the line that closed it.

    `card` is the GPU that took it, by its UUID, or the kind of device. `history` is other where other cells were timed
    in it, or before it on that card in that run, or the same in another order.
    """

    cells: dict[Key, Record]
    end: ComparisonEnd
    card: str
    history: int


@dataclass(frozen=True)
class ShapePair:
    """A shape of both files, and its cells that are in both."""

    base: Measured
    new: Measured
    cells: tuple[tuple[Record, Record], ...]

    @property
    def where(self) -> LabelledShape:
        first, _ = self.cells[0]
        return LabelledShape(first.problem.shape, first.labels)

    @property
    def same_card(self) -> bool:
        return self.base.card == self.new.card

    @property
    def alike(self) -> bool:
        """Whether the same cells were timed together, after the same ones."""
        return self.base.history == self.new.history


@dataclass(frozen=True)
class Pairing:
    """Every cell of two files. `shapes` are in the order of the first."""

    shapes: tuple[ShapePair, ...]
    only_base: tuple[Record, ...]
    only_new: tuple[Record, ...]


def pair(base: Results, new: Results) -> Pairing:
    """Cells are the same by labels, kernel and problem; where a file has one more than once, by their order."""
    ours, theirs = list(_comparisons(base)), list(_comparisons(new))
    place_of = {key: place for place, measured in enumerate(theirs) for key in measured.cells}
    pairs: dict[tuple[int, int], list[tuple[Record, Record]]] = {}
    only_base = []
    for place, measured in enumerate(ours):
        for key, record in measured.cells.items():
            other = place_of.pop(key, None)
            if other is None:
                only_base.append(record)
            else:
                pairs.setdefault((place, other), []).append((record, theirs[other].cells[key]))
    return Pairing(
        shapes=tuple(ShapePair(ours[a], theirs[b], tuple(cells)) for (a, b), cells in pairs.items()),
        only_base=tuple(only_base),
        only_new=tuple(theirs[place].cells[key] for key, place in place_of.items()),
    )


def _comparisons(results: Results) -> Iterator[Measured]:
    seen: dict[Key, int] = {}
    histories: dict[tuple[int, str], int] = {}
    start = 0
    device = results.headers[0].device
    only_card = str(device.get("uuid") or device.get("kind"))  # of files that do not name each record's
    for end, run in zip(results.ends, results.runs, strict=True):
        cells: dict[Key, Record] = {}
        for record in results.records[start : start + end.cells]:
            labels = tuple(sorted((name, str(value)) for name, value in record.labels.items()))
            cell = (labels, record.kernel, record.problem)
            seen[cell] = seen.get(cell, 0) + 1
            key = (*cell, seen[cell])
            cells[key] = record
        start += end.cells
        card = next((record.device for record in cells.values() if record.device), only_card)
        timed = [key for key, record in cells.items() if record.samples]
        histories[run, card] = hash((histories.get((run, card), 0), *timed))
        yield Measured(cells, end, card, histories[run, card])

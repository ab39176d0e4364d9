"""The cells of two results files, put together: which are in both, which in one, and what they were timed beside."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from w8a8_bench.problem.comparison import LabelledShape
from w8a8_bench.results.json_lines import Results
from w8a8_bench.results.measured_comparison import CellKey, MeasuredComparison, cell_key
from w8a8_bench.results.record import Record

NumberedCell = tuple[int, int]
"""The number of a cell's key, and which of several cells with that key it is."""


@dataclass(frozen=True)
class ShapePair:
    """A shape of both files, and its cells that are in both. `alike`: the same cells were timed in both comparisons,
    and before them on that card in that run, in the same order."""

    base: MeasuredComparison
    new: MeasuredComparison
    cells: tuple[tuple[Record, Record], ...]
    alike: bool

    @property
    def where(self) -> LabelledShape:
        first, _ = self.cells[0]
        return LabelledShape(first.problem.shape, first.labels)

    @property
    def same_card(self) -> bool:
        return self.base.card == self.new.card


@dataclass(frozen=True)
class Pairing:
    """Every cell of two files. `shapes` are in the order of the first."""

    shapes: tuple[ShapePair, ...]
    only_base: tuple[Record, ...]
    only_new: tuple[Record, ...]


def pair(base: Results, new: Results) -> Pairing:
    """Cells are the same by labels, kernel and problem; if a file has one more than once, by their order."""
    numbers: dict[CellKey, int] = {}  # of both files, so that each of the long keys is hashed once
    ours, theirs = list(_numbered(base, numbers)), list(_numbered(new, numbers))
    index_of = {cell: index for index, (cells, _) in enumerate(theirs) for cell in cells}
    pairs: dict[tuple[int, int], list[tuple[Record, Record]]] = {}
    only_base = []
    for index, (cells, _) in enumerate(ours):
        for cell, record in cells.items():
            other = index_of.pop(cell, None)
            if other is None:
                only_base.append(record)
            else:
                pairs.setdefault((index, other), []).append((record, theirs[other][0][cell]))
    return Pairing(
        shapes=tuple(
            ShapePair(base.comparisons[a], new.comparisons[b], tuple(cells), alike=ours[a][1] == theirs[b][1])
            for (a, b), cells in pairs.items()
        ),
        only_base=tuple(only_base),
        only_new=tuple(theirs[index][0][cell] for cell, index in index_of.items()),
    )


def _numbered(results: Results, numbers: dict[CellKey, int]) -> Iterator[tuple[dict[NumberedCell, Record], int]]:
    """The cells of every comparison, and a hash of the cells that were timed up to its end on its card in its run."""
    seen: dict[int, int] = {}
    histories: dict[tuple[int, str], int] = {}
    for comparison in results.comparisons:
        cells: dict[NumberedCell, Record] = {}
        for record in comparison.records:
            number = numbers.setdefault(cell_key(record), len(numbers))
            seen[number] = seen.get(number, 0) + 1
            cells[number, seen[number]] = record
        where = id(comparison.run), comparison.card
        timed = [cell for cell, record in cells.items() if record.samples]
        histories[where] = hash((histories.get(where, 0), *timed))
        yield cells, histories[where]

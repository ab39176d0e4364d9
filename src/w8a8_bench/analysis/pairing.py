"""The cells of two results files, put together: which are in both, which in one, and what they were timed beside."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from w8a8_bench.problem import Problem
from w8a8_bench.problem.comparison import LabelledShape
from w8a8_bench.results.json_lines import Results
from w8a8_bench.results.measured_comparison import MeasuredComparison, labels_key
from w8a8_bench.results.record import Record

NumberedCell = tuple[int, int, int]
"""The numbers of a cell's kernel and problem and of its labels, and which of several cells with both it is."""


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
    """Every cell of two files. `shapes` are in the order of the first. `labels` are names that one file alone has, and
    `relabelled` counts the cells that are paired although their labels have other values."""

    shapes: tuple[ShapePair, ...]
    only_base: tuple[Record, ...]
    only_new: tuple[Record, ...]
    labels: tuple[str, ...] = ()
    relabelled: int = 0


def pair(base: Results, new: Results) -> Pairing:
    """Cells are the same by kernel, problem, and the labels whose names both files have; if a file has one more than
    once, by their order. Of what is left, cells of one kernel and problem are the same if each file has one of them:
    labels only tell apart what is otherwise equal.
    """
    ours_named, theirs_named = _label_names(base), _label_names(new)
    shared = frozenset(ours_named & theirs_named)
    numbers: Numbers = {}
    ours, theirs = list(_numbered(base, numbers, shared)), list(_numbered(new, numbers, shared))
    index_of = {cell: index for index, (cells, _) in enumerate(theirs) for cell in cells}
    pairs: dict[tuple[int, int], list[tuple[Record, Record]]] = {}
    left_ours: list[tuple[int, Record]] = []
    for index, (cells, _) in enumerate(ours):
        for cell, record in cells.items():
            other = index_of.pop(cell, None)
            if other is None:
                left_ours.append((index, record))
            else:
                pairs.setdefault((index, other), []).append((record, theirs[other][0][cell]))
    left_theirs = [(index, theirs[index][0][cell]) for cell, index in index_of.items()]
    singles = _singles(left_theirs)
    paired: set[int] = set()
    for place, (index, record) in _singles(left_ours).items():
        if place in singles:
            other, partner = singles[place]
            pairs.setdefault((index, other), []).append((record, partner))
            paired |= {id(record), id(partner)}
    return Pairing(
        shapes=tuple(
            ShapePair(base.comparisons[a], new.comparisons[b], tuple(cells), alike=ours[a][1] == theirs[b][1])
            for (a, b), cells in sorted(pairs.items())
        ),
        only_base=tuple(record for _, record in left_ours if id(record) not in paired),
        only_new=tuple(record for _, record in left_theirs if id(record) not in paired),
        relabelled=len(paired) // 2,
        labels=tuple(sorted(ours_named ^ theirs_named)),
    )


def _label_names(results: Results) -> set[str]:
    return {name for comparison in results.comparisons for name in comparison.end.labels}


def _singles(cells: Iterable[tuple[int, Record]]) -> dict[tuple[str, Problem], tuple[int, Record]]:
    """Cells, each with the number of its comparison, whose kernel and problem only one of them has."""
    found: dict[tuple[str, Problem], list[tuple[int, Record]]] = {}
    for index, record in cells:
        found.setdefault((record.kernel, record.problem), []).append((index, record))
    return {place: ones[0] for place, ones in found.items() if len(ones) == 1}


Numbers = dict[tuple[object, ...], int]
"""A number for each key of both files, so that each of the long keys is hashed once."""


def _numbered(
    results: Results, numbers: Numbers, names: frozenset[str]
) -> Iterator[tuple[dict[NumberedCell, Record], int]]:
    """The cells of every comparison, and a hash of what was timed up to its end on its card in its run.

    Of their labels, those of `names` count.
    """
    seen: dict[tuple[int, int], int] = {}
    histories: dict[tuple[int, str], int] = {}
    for comparison in results.comparisons:
        cells: dict[NumberedCell, Record] = {}
        timed = []
        for record in comparison.records:
            work = numbers.setdefault((record.kernel, record.problem), len(numbers))
            labels = numbers.setdefault(labels_key(record.labels, names), len(numbers))
            seen[work, labels] = seen.get((work, labels), 0) + 1
            cells[work, labels, seen[work, labels]] = record
            if record.samples:
                timed.append(work)
        where = id(comparison.run), comparison.card
        histories[where] = hash((histories.get(where, 0), *timed))
        yield cells, histories[where]
